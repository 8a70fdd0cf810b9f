"""Train an ensemble of PerSim models on one dataset: a few more than needed, of which the best are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from persim import seeding
from persim.data.trajectories import Trajectories
from persim.errors import InputError, check_at_least
from persim.learning.imitation import imitable, imitate
from persim.learning.model import LowRankDynamics
from persim.learning.polish import PolishSettings, polish
from persim.learning.presets import Preset, preset
from persim.learning.training import EpochReport, TrainResult, TrainSettings, train

Errors: TypeAlias = NDArray[np.float64]
SPARE_MEMBERS = 2
_MOST = 1000  # candidates, each a model of its own
STARTS, HORIZON = 1500, 50  # rollouts over the recorded trajectories that candidates are compared by, and their steps
WORST = 2.0  # largest error of these that a kept member may have, as a multiple of the smallest


@dataclass(frozen=True)
class EnsembleSettings:
    """How many members are trained and kept.

    A member whose rank is just sufficient sometimes converges to a poor minimum (CartPole, rank 5: about one in
    eight), and where a policy recorded the data, one in five predicts the recorded steps as well as the others and
    runs away elsewhere; either spoils every mean over members. So a few more are trained, and those are kept whose
    open-loop predictions of the recorded trajectories are best (``recorded_errors``), as MBPO keeps its elites
    (Janner et al. 2019); fewer than K if the others' error is more than twice the best one's. The choice uses training
    data only. Tried instead: the training loss, which prefers members that run away (of seven on MountainCar's pure
    data the one of lowest loss had six times its siblings' error over 50 recorded steps), always K of them (there, the
    ensemble's error on unseen actions was twice that of its three good members), and the median of all members.

    Attributes:
        members: K, members to keep at most (the paper: 5).
        candidates: members to train; the paper trains no more than it keeps. All are kept if there are no more.

    Raises:
        InputError: there are fewer candidates than members, or no members.
    """

    members: int
    candidates: int

    def __post_init__(self) -> None:
        check_at_least("members", self.members, 1, most=_MOST)
        if self.candidates < self.members:
            fewer = f"fewer than the {self.members} members to keep"
            raise InputError(f"candidates is {self.candidates}, {fewer}; give at least {self.members}")
        check_at_least("candidates", self.candidates, 1, most=_MOST)


def train_ensemble(
    data: Trajectories,
    rank: int,
    size: EnsembleSettings,
    settings: TrainSettings,
    seed: int,
    *,
    nets: Preset | None = None,
    polished: PolishSettings | None = None,
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
        polished: how training ends; by default with the rounds of ``PolishSettings``.
        device: of the model.
        checkpoint: see ``persim.learning.training.train``.
        progress: called after every epoch.
    """
    shape = (nets or preset(data.env, discrete=data.discrete)).shape(data, rank, size.candidates)
    init, orders = ([seeding.sequence(seed, name, k) for k in range(size.candidates)] for name in ("init", "batches"))
    model = LowRankDynamics(shape, init).to(device)
    result = train(model, data, settings, orders, checkpoint=checkpoint, progress=progress)
    widths = (nets or preset(data.env, discrete=data.discrete)).imitation
    errors = finish_members(model, data, polished or PolishSettings(), seed, widths)
    if size.candidates == size.members:
        return model, result
    return model.select(chosen_members(errors.tolist(), size)), result


def finish_members(
    model: LowRankDynamics, data: Trajectories, settings: PolishSettings, seed: int, imitation: Sequence[int] = ()
) -> Errors:
    """Polish trained members in place, and measure them by ``recorded_errors`` ``[K]``, which the best are chosen by.

    On a CPU they take turns: the matrices of one fill its cache. At last they learn to imitate the recorded actions,
    with hidden layers of the widths ``imitation``; not at all if there are none, or the data are not ``imitable``.
    """
    members, errors = range(model.settings.members), []
    for chosen in [[k] for k in members] if model.device.type == "cpu" else [list(members)]:
        part = model.select(chosen)
        polish(part, data, settings, seeding.generator(seed, "polish"))
        for name, values in part.state_dict().items():
            if name not in model.SHARED:
                model.state_dict()[name][chosen] = values
        errors.append(recorded_errors(part, data, seeding.generator(seed, "recorded")))
    if imitation and imitable(data):
        states = model.scaled(torch.tensor(data.observation, device=model.device).mT)
        ids = torch.arange(model.settings.n_agents, device=model.device).expand(len(members), -1)
        factors = model.agent_factors(ids).detach()
        model.imitation = imitate(data, states, factors, imitation, seeding.generator(seed, "imitation"))
    return np.concatenate(errors)


def recorded_errors(
    model: LowRankDynamics, data: Trajectories, rng: np.random.Generator, starts: int = STARTS, horizon: int = HORIZON
) -> Errors:
    """Measure each member's open-loop error on the recorded trajectories.

    It returns the mean over rollouts of the RMSE over the next ``horizon`` steps (over the whole trajectory where that
    is shorter) and the state dimensions, each in units of its deviation in the data, ``[K]``; infinity for a member
    whose rollouts leave the numbers.

    Args:
        model: K members.
        data: what they were trained on.
        rng: chooses the starts; the same for all members that are compared.
        starts: number of rollouts.
        horizon: steps of each.
    """
    begins = np.flatnonzero(data.step == 0)
    lengths = np.diff(begins, append=len(data))
    last = np.repeat(begins + lengths - 1, lengths)  # row of the trajectory of each row
    whole = np.flatnonzero((last - np.arange(len(data)) >= horizon - 1) | (data.step == 0))
    first = np.sort(rng.choice(whole, size=min(starts, len(whole)), replace=False))
    index = first[:, None] + np.arange(horizon)
    known = index <= last[first, None]
    index = np.where(known, index, first[:, None])
    deviation = data.observation.astype(np.float64).std(0)
    scale = torch.from_numpy(1 / np.where(deviation > 0, deviation, 1)).to(model.device)
    agents, state = (torch.from_numpy(x[first]).to(model.device) for x in (data.agent, data.observation))
    squared, current = torch.zeros(model.settings.members, len(first), dtype=torch.float64), state.unsqueeze(0)
    with torch.no_grad():
        for step in range(horizon):
            at = index[:, step]
            current = model(agents, current, torch.from_numpy(data.action[at]))
            true = torch.from_numpy(data.next_observation[at]).to(model.device)
            error = ((current - true).double() * scale).square().mean(-1)
            squared += torch.where(torch.from_numpy(known[:, step]).to(model.device), error, 0.0).cpu()
    errors = np.sqrt(squared.numpy() / known.sum(1)).mean(1)
    return np.where(np.isfinite(errors), errors, np.inf)


def chosen_members(errors: Sequence[float], size: EnsembleSettings) -> list[int]:
    """Returns the sorted indices of the candidates to keep, given their ``recorded_errors``."""
    if size.candidates == size.members:
        return list(range(size.members))
    return [k for k in best_members(errors, size.members) if errors[k] <= WORST * min(errors)]


def best_members(errors: Sequence[float], members: int) -> list[int]:
    """Returns the sorted indices of the ``members`` lowest among the errors of the candidates."""
    return sorted(np.argsort(errors, kind="stable")[:members].tolist())
