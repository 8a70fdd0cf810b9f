"""From trajectories to what CaDM learns from: histories, and the transitions that a history has to explain."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.cadm.observations import encoded_actions
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.errors import InputError

_logger = logging.getLogger(__name__)
Rows = NDArray[np.int64]


class Histories:
    """The last K transitions before each row of the data, oldest first: state differences and actions.

    At the start of an episode all slots are 0; they fill from the first on. Nothing is stored per row
    but where its history begins, so the longest data fit.

    Args:
        data: the trajectories.
        spec: their environment.
        length: K.
        device: of the tensors.

    Raises:
        InputError: the data are of another environment.
    """

    def __init__(self, data: Trajectories, spec: EnvSpec, length: int, device: str) -> None:
        if data.action_space != spec.action_space or data.state_dim != spec.state_dim:
            raise InputError(
                f"the data have {data.state_dim} state dimensions and actions {data.action_space}, but {spec.name} "
                f"has {spec.state_dim} and {spec.action_space}; give data of this environment"
            )
        self.actions = encoded_actions(torch.from_numpy(np.array(data.action)), spec).to(device)
        steps = torch.from_numpy(data.delta).to(device)
        self._steps = torch.cat([steps, self.actions], dim=1)
        self._state_dim, self._slots = data.state_dim, torch.arange(length, device=device)
        self._known = torch.from_numpy(np.minimum(data.step, length)).to(device)
        self._first = torch.arange(len(data), device=device) - self._known
        _report_short(data, length)

    def __call__(self, rows: Tensor) -> Tensor:
        """Histories ``[..., K * S + K * A]`` before these rows ``[...]``: all differences, then all actions."""
        flat = rows.flatten()
        index = self._first[flat, None] + self._slots
        known = (self._slots < self._known[flat, None]).unsqueeze(-1)
        # Slots that are empty point to rows that come later, perhaps beyond the last.
        found = self._steps[index.clamp(max=len(self._steps) - 1)] * known
        return joined(found[..., : self._state_dim], found[..., self._state_dim :]).view(*rows.shape, -1)


def joined(differences: Tensor, actions: Tensor) -> Tensor:
    """State differences ``[B, K, S]`` and actions ``[B, K, A]`` as the encoder reads them ``[B, K * S + K * A]``."""
    return torch.cat([differences.flatten(1), actions.flatten(1)], dim=1)


def _report_short(data: Trajectories, length: int) -> None:
    lengths = np.bincount(data.episode)
    short = int((lengths < length).sum())
    if short:
        _logger.warning(
            "%d of %d trajectories of %s are shorter than the history of %d steps; the empty slots are 0, "
            "as at the start of an episode",
            short,
            len(lengths),
            data.env,
            length,
        )


def pairs(data: Trajectories, windows: Rows, future: int) -> tuple[Rows, Rows]:
    """Every window with each of the transitions that it has to explain.

    The window of row t holds the history before t and the transitions t to t + M - 1, as far as the
    episode goes.

    Args:
        data: the trajectories.
        windows: rows.
        future: M.

    Returns:
        Rows of the windows, and rows of the transitions, both ``[pairs]``.
    """
    starts = np.flatnonzero(data.step == 0)
    ends = np.append(starts[1:], len(data))[data.episode[windows]]
    counts = np.minimum(ends - windows, future)
    offsets = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    before = np.repeat(windows, counts)
    return before, before + offsets


def split(data: Trajectories, episodes: Rows, count: int, rng: np.random.Generator, *, overlap: bool) -> Rows:
    """Windows to hold out.

    Args:
        data: the trajectories.
        episodes: numbers of those in use.
        count: windows to hold out, at most (but at least one trajectory, if there are two).
        rng: the source of the choice.
        overlap: hold out single windows; else whole trajectories, so that no transition is on both sides.

    Returns:
        Rows, sorted.
    """
    rows = np.flatnonzero(np.isin(data.episode, episodes))
    if overlap:
        return np.sort(rng.permutation(rows)[:count])
    if len(episodes) < 2:
        return rows[:0]
    order = rng.permutation(episodes)
    lengths = np.bincount(data.episode)[order]
    chosen = order[: max(1, int((lengths.cumsum() <= count).sum()))]
    return np.flatnonzero(np.isin(data.episode, chosen))
