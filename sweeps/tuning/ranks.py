"""A rank cross-validation: its trials, on several splits of the same transitions, and which rank they choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from persim.envs import get
from persim.errors import InputError
from persim.methods import PerSim, PerSimSettings, PlanningSettings
from persim.methods.holdout import holdouts
from persim.methods.job import Job, predictions
from persim.storage.cells import FinishedCell, finite_or_none
from sweeps.tuning.sweep import Sweep


@dataclass(frozen=True)
class SweepSettings(Sweep):
    """Everything that the results of a sweep depend on; validated by ``rank_cv.py``.

    Attributes:
        ranks: candidates.
        repeats: trials of each rank.
        epochs: passes over the training transitions.
    """

    ranks: tuple[int, ...]
    repeats: int
    epochs: int

    suite: ClassVar[str] = "rank_cv"
    doing: ClassVar[str] = "rank CV"

    def job(self, rank: int, repeat: int) -> Job:
        """One trial, of one model. The split of a repeat (from 0) is the same for every rank."""
        spec = get(self.env)
        planning = PlanningSettings.of(spec)
        settings = PerSimSettings.of(spec, planning, rank=rank, members=1, spare=0, epochs=self.epochs, polish=0)
        measure = holdouts(self.holdout, repeat, then=predictions(spec))
        return Job.of(PerSim(settings), self.env, self.regime, self.agents, self.seed, measure)

    def jobs(self) -> list[Job]:
        """All trials, repeat by repeat, so that an interrupted sweep has seen every rank; the longest trials first."""
        ranks = sorted(self.ranks, reverse=True)
        return [self.job(rank, repeat) for repeat in range(self.repeats) for rank in ranks]

    @property
    def largest_epochs(self) -> int:
        """Epochs of every trial."""
        return self.epochs

    def trial(self, config: Mapping[str, Any]) -> Job:
        """The trial of a ``rank`` and a ``repeat``, which is counted from 1 as people see it."""
        return self.job(config["rank"], config["repeat"] - 1)

    def value(self, done: FinishedCell) -> float:
        """The hold-out error."""
        return done.value("holdout_error")


@dataclass(frozen=True)
class RankSummary:
    """Means over the repeats of one rank.

    Attributes:
        rank: R.
        error: hold-out error, as a share of the variance; infinite if a repeat diverged.
        standard_error: of that mean; 0 with a single repeat.
        prediction_rmse: 50-step RMSE, one value per test agent.
        seconds: of a trial.
        repeats: how many there were.
    """

    rank: int
    error: float
    standard_error: float
    prediction_rmse: list[float]
    seconds: float
    repeats: int

    def as_json(self) -> dict[str, Any]:
        """The summary as a record holds it, without numbers that are not finite."""
        rmse = list(map(finite_or_none, self.prediction_rmse))
        return {**asdict(self), "error": finite_or_none(self.error), "prediction_rmse": rmse}


def summarise(trials: Sequence[FinishedCell]) -> list[RankSummary]:
    """Summarise the trials of each rank, in increasing order of the rank."""
    summaries = []
    for rank in sorted({trial.cell.settings["rank"] for trial in trials}):
        group = [trial for trial in trials if trial.cell.settings["rank"] == rank]
        errors = np.array([trial.value("holdout_error") for trial in group])
        agents = sorted({row["agent"] for row in group[0].rows if row["agent"] is not None})
        rmse = [float(np.mean([trial.value("prediction_rmse", agent) for trial in group])) for agent in agents]
        spreads = len(errors) > 1 and np.isfinite(errors).all()
        spread = float(errors.std(ddof=1) / np.sqrt(len(errors))) if spreads else 0.0
        seconds = float(np.mean([sum(trial.seconds.values()) for trial in group]))
        summaries.append(RankSummary(rank, float(errors.mean()), spread, rmse, seconds, len(group)))
    return summaries


def choose(summaries: Sequence[RankSummary]) -> RankSummary:
    """Choose the smallest rank whose error is within one standard error of the lowest (Breiman et al., 1984).

    Raises:
        InputError: every rank diverged.
    """
    finite = [summary for summary in summaries if math.isfinite(summary.error)]
    if not finite:
        raise InputError("training diverged at every rank, so none can be chosen; give other --ranks or another --seed")
    best = min(finite, key=lambda summary: summary.error)
    limit = best.error + best.standard_error
    return min((summary for summary in finite if summary.error <= limit), key=lambda summary: summary.rank)


def curves(summaries: Sequence[RankSummary], chosen: RankSummary) -> dict[str, list[tuple[int, float]]]:
    """Metrics against rank, as MLflow draws them: the step is the rank."""
    columns = {"holdout_error": [s.error for s in summaries], "standard_error": [s.standard_error for s in summaries]}
    columns["log10_holdout_error"] = [math.log10(s.error) if s.error > 0 else -math.inf for s in summaries]
    for place in range(len(chosen.prediction_rmse)):
        columns[f"prediction_rmse/agent_{place + 1}"] = [s.prediction_rmse[place] for s in summaries]
    points = {
        f"by_rank/{name}": [(s.rank, y) for s, y in zip(summaries, values, strict=True) if math.isfinite(y)]
        for name, values in columns.items()
    }
    return {**points, "chosen_rank": [(0, float(chosen.rank))]}
