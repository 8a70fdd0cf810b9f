"""Minibatches without a gather per step: an epoch is shuffled in chunks, then sliced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.data.trajectories import Trajectories
from persim.learning.gradients import Minibatch
from persim.learning.model import LowRankDynamics

# Batches shuffled at once: enough to make the gather cheap, few enough to stay in the cache.
CHUNK_BATCHES = 32


class TrainingRows:
    """Transitions packed for training: one float row ``[state, 1, action, 1, delta]`` each.

    Args:
        model: says how actions are encoded, and the device.
        data: the trajectories.
        rows: indices of the transitions to use.
    """

    def __init__(self, model: LowRankDynamics, data: Trajectories, rows: NDArray[np.int64]) -> None:
        device = model.device
        state = model.scaled(torch.from_numpy(data.observation[rows]).to(device).mT).mT
        delta = model.scaled_deltas(torch.from_numpy(data.delta[rows]).to(device).mT).mT
        action = model.encode_actions(torch.from_numpy(data.action[rows]).to(device)).mT
        one = torch.ones(len(rows), 1, device=device)
        self._rank = model.settings.rank
        self._packed = torch.cat([state, one, action, one, delta], dim=1)
        self._agents = torch.from_numpy(data.agent[rows]).to(device)
        widths = (data.state_dim + 1, data.action_dim + 1, data.state_dim)
        self._splits = list(np.cumsum((0, *widths)).tolist())

    def __len__(self) -> int:
        return len(self._agents)

    def batches(self, size: int, orders: Sequence[NDArray[np.int64]]) -> Iterator[Minibatch]:
        """One epoch in minibatches; the last one may be smaller.

        Args:
            size: B.
            orders: one permutation of the rows per member.
        """
        order = torch.from_numpy(np.stack(orders)).to(self._agents.device)
        whole = len(self) // size
        for first in range(0, whole, CHUNK_BATCHES):
            count = min(CHUNK_BATCHES, whole - first)
            yield from self._slice(order[:, first * size : (first + count) * size], count)
        if len(self) > whole * size:
            yield from self._slice(order[:, whole * size :], 1)

    def whole(self, size: int) -> Iterator[Minibatch]:
        """All rows in their order, for one member, in blocks of ``size``."""
        yield from self.batches(size, [np.arange(len(self))])

    def _slice(self, order: Tensor, count: int) -> Iterator[Minibatch]:
        members, flat = len(order), order.flatten()
        packed = self._packed.index_select(0, flat).view(members, count, -1, self._packed.shape[1])
        packed = packed.permute(1, 0, 3, 2).contiguous()
        agents = self._agents.index_select(0, flat).view(members, count, 1, -1).transpose(0, 1)
        agents = agents.expand(-1, -1, self._rank, -1)
        parts = [packed[:, :, low:high] for low, high in pairwise(self._splits)]
        for columns in zip(agents, *parts, strict=True):
            yield Minibatch(*columns)
