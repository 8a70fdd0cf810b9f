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
from persim.methods.holdout import TRANSITIONS, holdouts
from persim.methods.job import Job, predictions
from persim.storage.cells import FinishedCell, finite_or_none
from sweeps.tuning.sweep import Sweep

ERRORS = ONE_STEP, MULTI_STEP = "one-step", "multi-step"


def described(holdout_by: str, steps: int) -> str:
    """What is held out and measured, as a suffix for people; empty for the default."""
    blocks = "" if holdout_by == TRANSITIONS else ", blocks of time held out"
    return blocks + ("" if steps == 1 else f", error of {steps} steps")


@dataclass(frozen=True)
class SweepSettings(Sweep):
    """Everything that the results of a sweep depend on; validated by ``rank_cv.py``.

    Attributes:
        ranks: candidates.
        repeats: trials of each rank.
        epochs: passes over the training transitions.
        holdout_by: what is held out, ``transitions`` or ``blocks`` of time.
        error: ``one-step``, or ``multi-step``: open loop inside the blocks.
        steps: H of that error; 1 if it is one-step.
    """

    ranks: tuple[int, ...]
    repeats: int
    epochs: int
    holdout_by: str = TRANSITIONS
    error: str = ONE_STEP
    steps: int = 1

    suite: ClassVar[str] = "rank_cv"
    doing: ClassVar[str] = "rank CV"

    def as_json(self) -> dict[str, Any]:
        """All settings, for records and hashes; later options at their defaults are left out, as sweeps of before."""
        later = {name: SweepSettings.__dataclass_fields__[name].default for name in ("holdout_by", "error", "steps")}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}

    @property
    def label(self) -> str:
        """Names the sweep in MLflow."""
        return super().label + described(self.holdout_by, self.steps)

    def job(self, rank: int, repeat: int) -> Job:
        """One trial, of one model. The split of a repeat (from 0) is the same for every rank."""
        spec = get(self.env)
        planning = PlanningSettings.of(spec)
        settings = PerSimSettings.of(spec, planning, rank=rank, members=1, spare=0, epochs=self.epochs, polish=0)
        then = predictions(spec) if spec.test_agents else None
        measure = holdouts(self.holdout, repeat, then, self.holdout_by, self.steps)
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
        difference: mean of its error minus that of the best rank on the same split, over the splits that both have;
            infinite if a repeat diverged or no split is common.
        standard_error: of that mean difference; 0 for the best rank, and with a single common split.
        prediction_rmse: 50-step RMSE, one value per test agent.
        seconds: of a trial.
        repeats: how many there were.
    """

    rank: int
    error: float
    difference: float
    standard_error: float
    prediction_rmse: list[float]
    seconds: float
    repeats: int

    def as_json(self) -> dict[str, Any]:
        """The summary as a record holds it, without numbers that are not finite."""
        rmse = list(map(finite_or_none, self.prediction_rmse))
        own = {"error": finite_or_none(self.error), "difference": finite_or_none(self.difference)}
        return {**asdict(self), **own, "prediction_rmse": rmse}


def summarise(trials: Sequence[FinishedCell]) -> list[RankSummary]:
    """Summarise the trials of each rank, in increasing order of the rank.

    Splits can differ far more than ranks do, but every rank has the same ones: only the differences between two ranks
    on the same split tell which is better.
    """
    groups: dict[int, list[FinishedCell]] = {}
    for trial in sorted(trials, key=lambda trial: int(trial.cell.settings["rank"])):
        groups.setdefault(trial.cell.settings["rank"], []).append(trial)
    errors = {
        rank: {trial.cell.measure["split"]: trial.value("holdout_error") for trial in group}
        for rank, group in groups.items()
    }
    means = {rank: float(np.mean(list(by_split.values()))) for rank, by_split in errors.items()}
    best = errors[min(means, key=means.__getitem__)]
    summaries = []
    for rank, group in groups.items():
        difference, spread = _paired(errors[rank], best)
        agents = sorted({row["agent"] for row in group[0].rows if row["agent"] is not None})
        rmse = [float(np.mean([trial.value("prediction_rmse", agent) for trial in group])) for agent in agents]
        seconds = float(np.mean([sum(trial.seconds.values()) for trial in group]))
        summaries.append(RankSummary(rank, means[rank], difference, spread, rmse, seconds, len(group)))
    return summaries


def _paired(errors: Mapping[int, float], best: Mapping[int, float]) -> tuple[float, float]:
    """Mean and standard error of the differences on common splits; infinite and 0 where there is no finite one."""
    pairs = [(error, best[split]) for split, error in errors.items() if split in best]
    if not pairs or not np.isfinite(pairs).all():
        return math.inf, 0.0
    differences = np.subtract(*np.transpose(pairs))
    spread = differences.std(ddof=1) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
    return float(differences.mean()), float(spread)


def choose(summaries: Sequence[RankSummary]) -> RankSummary:
    """Choose the smallest rank whose mean difference to the best is at most one standard error of that difference.

    This is the rule of Breiman et al. (1984) for errors on common splits. With a single split there is no standard
    error, and the best rank is chosen.

    Raises:
        InputError: every rank diverged.
    """
    finite = [summary for summary in summaries if math.isfinite(summary.error)]
    if not finite:
        raise InputError("training diverged at every rank, so none can be chosen; give other --ranks or another --seed")
    within = (summary for summary in finite if summary.difference <= summary.standard_error)
    return min(within, key=lambda summary: summary.rank)


def curves(summaries: Sequence[RankSummary], chosen: RankSummary) -> dict[str, list[tuple[int, float]]]:
    """Metrics against rank, as MLflow draws them: the step is the rank."""
    columns = {"holdout_error": [s.error for s in summaries], "standard_error": [s.standard_error for s in summaries]}
    columns["difference"] = [s.difference for s in summaries]
    columns["log10_holdout_error"] = [math.log10(s.error) if s.error > 0 else -math.inf for s in summaries]
    for place in range(len(chosen.prediction_rmse)):
        columns[f"prediction_rmse/agent_{place + 1}"] = [s.prediction_rmse[place] for s in summaries]
    points = {
        f"by_rank/{name}": [(s.rank, y) for s, y in zip(summaries, values, strict=True) if math.isfinite(y)]
        for name, values in columns.items()
    }
    return {**points, "chosen_rank": [(0, float(chosen.rank))]}
