"""Train an ensemble of PerSim models on one dataset: a few more than needed, of which the best are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from persim import seeding
from persim.data.trajectories import Trajectories
from persim.errors import InputError, check_at_least
from persim.learning.gradients import TrainingRows
from persim.learning.model import LowRankDynamics
from persim.learning.presets import Preset, preset
from persim.learning.training import EpochReport, TrainResult, TrainSettings, holdout_errors, train

SPARE_MEMBERS = 2


@dataclass(frozen=True)
class EnsembleSettings:
    """How many members are trained and kept.

    A member whose rank is just sufficient sometimes converges to a poor minimum, with twenty times the
    training loss of the others, and spoils every mean over members (CartPole, rank 5: about one in
    eight). So a few more are trained, and those of lowest training loss are kept, as MBPO keeps its
    elites (Janner et al. 2019). The choice uses training data only.

    Attributes:
        members: K, members to keep (the paper: 5).
        candidates: members to train; the paper trains no more than it keeps.

    Raises:
        InputError: there are fewer candidates than members, or no members.
    """

    members: int
    candidates: int

    def __post_init__(self) -> None:
        check_at_least("members", self.members, 1)
        if self.candidates < self.members:
            fewer = f"fewer than the {self.members} members to keep"
            raise InputError(f"candidates is {self.candidates}, {fewer}; give at least {self.members}")


def train_ensemble(
    data: Trajectories,
    rank: int,
    size: EnsembleSettings,
    settings: TrainSettings,
    seed: int,
    *,
    nets: Preset | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[EpochReport], None] | None = None,
) -> tuple[LowRankDynamics, TrainResult]:
    """Trains an ensemble on all transitions of ``data`` (Appendix D.1, Step 2, where K is called M).

    It returns the kept members as one model, and the training curves, which are means over all candidates.

    Args:
        data: the trajectories.
        rank: R.
        size: members to keep and candidates to train.
        settings: of Algorithm 1.
        seed: draws every member's initial weights (``init``) and order of transitions (``batches``).
        nets: widths of the encoders, and whether the data are normalised; those of the environment by default.
        device: of the model.
        checkpoint: see ``persim.learning.training.train``.
        progress: called after every epoch.
    """
    shape = (nets or preset(data.env, discrete=data.discrete)).shape(data, rank, size.candidates)
    init, orders = ([seeding.sequence(seed, name, k) for k in range(size.candidates)] for name in ("init", "batches"))
    model = LowRankDynamics(shape, init).to(device)
    result = train(model, data, settings, orders, checkpoint=checkpoint, progress=progress)
    if size.candidates == size.members:
        return model, result
    losses = holdout_errors(model, TrainingRows(model, data, np.arange(len(data)))).mean(axis=1)
    return model.select(best_members(losses.tolist(), size.members)), result


def best_members(losses: Sequence[float], members: int) -> list[int]:
    """Returns the sorted indices of the ``members`` lowest among the training losses of the candidates."""
    return sorted(np.argsort(losses, kind="stable")[:members].tolist())
