"""What MLflow shows of a rank cross-validation: a run per trial, and the comparison of ranks on their parent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from persim.storage.cells import FinishedCell
from sweeps.tracking.tracker import Extras, Group, Tracker
from sweeps.tuning.rank_choice import RankSummary
from sweeps.tuning.rank_trial import SweepSettings


class SweepRuns:
    """The runs of one rank sweep, as one group of the experiment.

    Args:
        tracker: the writer.
        settings: of the sweep.
    """

    def __init__(self, tracker: Tracker, settings: SweepSettings) -> None:
        self._tracker = tracker
        self.uri = tracker.uri
        self.how_to_look = tracker.how_to_look
        params = {**asdict(settings), "ranks": ",".join(map(str, settings.ranks))}
        self._group = Group(settings.id, f"{settings.env} {settings.regime} N={settings.agents}", params)

    def send(self, done: FinishedCell) -> None:
        """Queues a finished trial."""
        repeat = done.cell.trial + 1
        name = f"rank {done.cell.settings['rank']:>2}, repeat {repeat}"
        self._tracker.send(done, self._group, name, Extras(params={"repeat": repeat}))

    def fail(self) -> None:
        """Ends the sweep as failed."""
        self._tracker.close_group(self._group, {}, {}, [], status="FAILED")
        self._tracker.close()

    def finish(self, chosen: RankSummary, summaries: Sequence[RankSummary], plot: Path) -> bool:
        """Ends the sweep with its result; returns whether MLflow has everything."""
        tags = {"persim.chosen_rank": str(chosen.rank)}
        self._tracker.close_group(self._group, _by_rank(chosen, summaries), tags, [plot])
        return self._tracker.close()


def _by_rank(chosen: RankSummary, summaries: Sequence[RankSummary]) -> dict[str, list[tuple[int, float]]]:
    """Metrics against rank: the step axis is the rank."""
    metrics = {
        "by_rank/holdout_error": [(s.rank, s.error) for s in summaries],
        "by_rank/log10_holdout_error": [(s.rank, math.log10(s.error)) for s in summaries],
        "by_rank/standard_error": [(s.rank, s.standard_error) for s in summaries],
        "chosen_rank": [(0, float(chosen.rank))],
    }
    for index in range(len(chosen.prediction_rmse)):
        metrics[f"by_rank/prediction_rmse/agent_{index + 1}"] = [(s.rank, s.prediction_rmse[index]) for s in summaries]
    return metrics
