"""From trajectories to what CaDM learns from: observations, histories, and the transitions that a history explains.

Axis letters beside those of CONTRIBUTING.md: W transitions in a history (K in the paper), M transitions that it
explains, D features of a state that the networks see, C dimensions of a context, L particles of each member.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.errors import InputError

_logger = logging.getLogger(__name__)
Rows = NDArray[np.int64]


class Observations:
    """The default preprocessing: the networks see states as they are and predict state differences."""

    def inputs(self, states: Tensor) -> Tensor:
        """The features ``[..., D]`` of states ``[..., S]``."""
        return states

    def targets(self, before: Tensor, after: Tensor) -> Tensor:
        """The target ``[..., S]`` for states and next states ``[..., S]``; exchanged, the backward target."""
        return after - before

    def following(self, states: Tensor, outputs: Tensor) -> Tensor:
        """The next states ``[..., S]`` for predicted targets ``[..., S]``; the inverse of ``targets``."""
        return states + outputs


class CheetahObservations(Observations):
    """HalfCheetah's preprocessing in CaDM's code; its state is (velocity, height, pitch, 6 joints, 9 velocities).

    The networks do not see the velocity and predict its next value instead of a difference; they see sine and
    cosine of the pitch.
    """

    def inputs(self, states: Tensor) -> Tensor:
        """The features ``[..., 18]`` of states ``[..., 18]``."""
        pitch = states[..., 2:3]
        return torch.cat([states[..., 1:2], pitch.sin(), pitch.cos(), states[..., 3:]], dim=-1)

    def targets(self, before: Tensor, after: Tensor) -> Tensor:
        """State differences ``[..., 18]``, but the next velocity itself."""
        return torch.cat([after[..., :1], after[..., 1:] - before[..., 1:]], dim=-1)

    def following(self, states: Tensor, outputs: Tensor) -> Tensor:
        """The next states ``[..., 18]``; the inverse of ``targets``."""
        return torch.cat([outputs[..., :1], states[..., 1:] + outputs[..., 1:]], dim=-1)


def observations(spec: EnvSpec) -> Observations:
    """The preprocessing of an environment."""
    cheetah = spec.name == "halfcheetah" or spec.name.startswith("halfcheetah-cost-")
    return CheetahObservations() if cheetah else Observations()


def encoded_actions(actions: Tensor, spec: EnvSpec) -> Tensor:
    """Float32 actions ``[..., A]``: discrete ones ``[...]`` become one-hot, continuous ones stay as they are."""
    if not spec.discrete:
        return actions.float()
    return torch.eye(spec.action_dim, device=actions.device)[actions.long()]


class Histories:
    """The last W transitions before each row of the data, oldest first: state differences and actions.

    At the start of an episode all slots are 0; they are filled from the first slot on. Only the row at which each
    history begins is stored, so memory does not grow with W.

    Args:
        data: the trajectories.
        spec: their environment.
        length: W.
        device: where the tensors are kept.

    Attributes:
        actions: the encoded actions of all T rows ``[T, A]``.

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
        lengths = np.bincount(data.episode)
        short = int((lengths < length).sum())
        if short:
            _logger.warning(
                f"{short} of {len(lengths)} trajectories of {data.env} are shorter than the history of {length} steps; "
                "the empty slots are 0, as at the start of an episode"
            )

    def __call__(self, rows: Tensor) -> Tensor:
        """The histories ``[..., W S + W A]`` before the rows ``[...]``: all differences, then all actions."""
        flat = rows.flatten()
        index = self._first[flat, None] + self._slots
        known = (self._slots < self._known[flat, None]).unsqueeze(-1)
        # Empty slots would index later rows, perhaps beyond the last; the mask sets them to 0.
        found = self._steps[index.clamp(max=len(self._steps) - 1)] * known
        return joined(found[..., : self._state_dim], found[..., self._state_dim :]).view(*rows.shape, -1)


def joined(differences: Tensor, actions: Tensor) -> Tensor:
    """Concatenates state differences ``[B, W, S]`` and actions ``[B, W, A]`` into histories ``[B, W S + W A]``."""
    return torch.cat([differences.flatten(1), actions.flatten(1)], dim=1)


def pairs(data: Trajectories, windows: Rows, future: int) -> tuple[Rows, Rows]:
    """Pairs each of the windows ``[n]`` with every transition that it has to explain.

    The window of row t is the history before t, which explains the transitions t to t + M - 1 (``future`` is M), as
    far as the episode goes.

    Returns:
        The row of the window and the row of the transition for each pair, both ``[pairs]``.
    """
    starts = np.flatnonzero(data.step == 0)
    ends = np.append(starts[1:], len(data))[data.episode[windows]]
    counts = np.minimum(ends - windows, future)
    offsets = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    before = np.repeat(windows, counts)
    return before, before + offsets


def split(data: Trajectories, episodes: Rows, count: int, rng: np.random.Generator, *, overlap: bool) -> Rows:
    """Chooses at most ``count`` windows of these trajectories ``[n]`` to hold out; returns their rows, sorted.

    Whole trajectories are held out, of two or more at least one even if it has more windows. With ``overlap`` single
    windows are, so that training and held-out windows share transitions.
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
