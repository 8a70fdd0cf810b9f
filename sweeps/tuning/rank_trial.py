"""The trials of a rank cross-validation: PerSim of every rank on several splits of the same transitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from persim.envs import get
from persim.methods import PerSim, PerSimSettings, PlanningSettings
from persim.methods.holdout import holdouts
from persim.methods.job import Job, predictions
from persim.storage.cells import FinishedCell
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
        settings = PerSimSettings.of(spec, planning, rank=rank, members=1, spare=0, epochs=self.epochs)
        measure = holdouts(self.holdout, repeat, then=predictions(spec))
        return Job.of(PerSim(settings), self.env, self.regime, self.agents, self.seed, measure)

    def jobs(self) -> list[Job]:
        """All trials, repeat by repeat, so that an interrupted sweep has seen every rank."""
        return [self.job(rank, repeat) for repeat in range(self.repeats) for rank in self.ranks]

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
