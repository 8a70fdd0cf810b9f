"""Which rank the sweep chooses, and where later steps find it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from persim.errors import InputError
from persim.storage import store
from persim.storage.cells import FinishedCell, finite_or_none

KIND = "rank-choice"


@dataclass(frozen=True)
class RankSummary:
    """What the repeats of one rank gave.

    Attributes:
        rank: R.
        error: mean over repeats of the hold-out error, as a share of the variance.
        standard_error: of that mean; 0 with a single repeat.
        prediction_rmse: mean over repeats of the 50-step RMSE, one value per test agent.
        seconds: mean seconds of a trial.
        repeats: how many.
    """

    rank: int
    error: float
    standard_error: float
    prediction_rmse: list[float]
    seconds: float
    repeats: int


def summarise(trials: Sequence[FinishedCell]) -> list[RankSummary]:
    """One summary per rank, in increasing order."""
    summaries = []
    for rank in sorted({trial.cell.settings["rank"] for trial in trials}):
        group = [trial for trial in trials if trial.cell.settings["rank"] == rank]
        errors = np.array([trial.value("holdout_error") for trial in group])
        agents = sorted({row["agent"] for row in group[0].rows if row["agent"] is not None})
        rmse = [float(np.mean([trial.value("prediction_rmse", agent) for trial in group])) for agent in agents]
        spread = float(errors.std(ddof=1) / np.sqrt(len(errors))) if len(errors) > 1 else 0.0
        seconds = float(np.mean([sum(trial.seconds.values()) for trial in group]))
        summaries.append(RankSummary(rank, float(errors.mean()), spread, rmse, seconds, len(group)))
    return summaries


def choose(summaries: Sequence[RankSummary]) -> RankSummary:
    """The smallest rank whose error is within one standard error of the lowest (Breiman et al., 1984)."""
    best = min(summaries, key=lambda summary: summary.error)
    limit = best.error + best.standard_error
    return min((s for s in summaries if s.error <= limit), key=lambda summary: summary.rank)


def choice_path(root: Path, env: str, regime: str, agents: int) -> Path:
    """Where the choice for these data is kept."""
    return root / "choices" / f"rank-{env.replace(':', '.')}-{regime}-{agents}.json"


def write_choice(root: Path, settings: dict[str, Any], chosen: RankSummary, summaries: Sequence[RankSummary]) -> Path:
    """Records the choice, with the evidence; a later sweep on the same data replaces it."""
    path = choice_path(root, settings["env"], settings["regime"], settings["agents"])
    table = [
        asdict(summary) | {"prediction_rmse": [finite_or_none(value) for value in summary.prediction_rmse]}
        for summary in summaries
    ]
    store.write_record(path, KIND, {"rank": chosen.rank, "settings": settings, "table": table})
    return path


def read_choice(root: Path, env: str, regime: str, agents: int) -> int:
    """The chosen rank.

    Raises:
        InputError: no sweep has chosen one yet; the message has the command.
    """
    path = choice_path(root, env, regime, agents)
    if not path.exists():
        raise InputError(
            f"no rank was chosen yet for {env}, {regime}, {agents} agents; "
            f"run: python sweeps/rank_cv.py --env {env} --regime {regime} --agents {agents}"
        )
    return int(store.read_record(path, KIND)["rank"])
