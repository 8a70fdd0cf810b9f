"""Blocks of time held out of trajectories, and the open-loop error of a model inside them.

Transitions of one trajectory resemble their neighbours, so a random hold-out of single transitions is nearly a
repetition of the training rows. A block of time is not, and a model can be rolled out inside it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from persim.data.trajectories import Trajectories
from persim.errors import InputError, check_at_least, check_between
from persim.learning.model import LowRankDynamics

_WINDOWS_AT_ONCE = 4096


def split_blocks(
    data: Trajectories, holdout: float, rng: np.random.Generator, shortest: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold one block of consecutive transitions, at a random place, out of every trajectory that is long enough.

    A trajectory (an episode of an agent) of T transitions gives a block of ``holdout`` T, rounded. The transition
    before the block and the one after it are left out of both sides: no state of the block is an input or a target of
    the training. A trajectory is long enough if its block has at least ``shortest`` transitions and one or more are
    left for the training beside these two; any other is trained on in full. ``shortest`` does not move the blocks.

    Returns:
        The sorted rows for training ``[M]`` and those of the blocks ``[B]``.

    Raises:
        InputError: the share is not between 0 and 1, or no trajectory is long enough.
    """
    check_between("hold-out share", holdout, 0, 1)
    check_at_least("shortest block", shortest, 1)
    steps = np.bincount(data.episode)
    sizes = np.rint(holdout * steps).astype(np.int64)
    places = rng.integers(0, steps - sizes + 1)
    fits = (sizes >= shortest) & (steps - sizes - 2 >= 1)
    if not fits.any():
        raise InputError(
            f"no trajectory is long enough for a block of at least {shortest} transitions with some left to train on: "
            f"the longest has {steps.max()}, and the hold-out share is {holdout}; "
            "give another --holdout, fewer --steps or longer trajectories"
        )
    place = np.where(fits[data.episode], data.step - places[data.episode], -2)  # in the block: 0 to its size - 1
    size = sizes[data.episode]
    held = (place >= 0) & (place < size)
    touching = (place == -1) | (fits[data.episode] & (place == size))
    return np.flatnonzero(~held & ~touching), np.flatnonzero(held)


def windows(data: Trajectories, held_out: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """Cut the blocks ``held_out`` ``[B]`` of ``split_blocks`` into rows ``[W, H]`` of H = ``steps`` transitions each.

    The windows of a block follow each other from its beginning; a rest shorter than H is in none.
    """
    begins = np.append(True, (np.diff(held_out) != 1) | (data.step[held_out[1:]] == 0))
    block = np.cumsum(begins) - 1
    place = np.arange(len(held_out)) - np.flatnonzero(begins)[block]
    whole = place + steps <= np.bincount(block)[block]
    return np.asarray(held_out[(place % steps == 0) & whole][:, None] + np.arange(steps))


@torch.no_grad()
def open_loop_errors(
    model: LowRankDynamics, data: Trajectories, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Roll every member out by itself from the first state of each window ``[W, H]`` of rows.

    Returns:
        The mean squared error ``[K, S]`` of the states over windows and steps, and the variance ``[S]`` of the true
        changes of state since the start of the window; both in the units of the model's state differences. With
        H = 1 they are those of the one-step error.
    """
    scale = model.delta_scale[1].double().cpu() if model.settings.normalised else torch.ones(data.state_dim)
    total, changes = torch.zeros(model.settings.members, data.state_dim, dtype=torch.float64), []
    for first in range(0, len(rows), _WINDOWS_AT_ONCE):
        some = rows[first : first + _WINDOWS_AT_ONCE]
        start, true, actions = (torch.from_numpy(x) for x in (data.observation[some[:, 0]], data.next_observation[some],
                                                              data.action[some]))  # fmt: skip
        agents, states = torch.from_numpy(data.agent[some[:, 0]]), start.unsqueeze(0)
        for step in range(rows.shape[1]):
            states = model(agents, states, actions[:, step])
            total += ((states.double().cpu() - true[:, step]) / scale).square().sum(1)
        changes.append(((true.double() - start.unsqueeze(1)) / scale).flatten(0, 1))
    return (total / rows.size).numpy(), torch.cat(changes).var(0, correction=0).numpy()
