"""An epoch of training on a GPU: every step is one replay of a CUDA graph.

All that a step needs stays on the device: the packed rows, the order of the epoch, a cursor that each step moves on,
the learning rate, and the errors of every step, which the host reads once at the end of the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.learning.cuda_graph import Replayed
from persim.learning.gradients import Minibatch, TrainingRows

Step: TypeAlias = Callable[[Minibatch, Tensor], Tensor]


class CapturedEpochs:
    """Epochs over M rows for K members, in steps of B rows; the last step of an epoch has those that are left.

    Args:
        rows: to train on.
        batch_size: B.
        step: takes an optimiser step on a minibatch with a learning rate, a tensor; returns the squared errors
            ``[K, 1, 1]``.
        values: the parameters, which the step changes in place.
        average: the buffer of their running mean.
    """

    def __init__(self, rows: TrainingRows, batch_size: int, step: Step, values: Tensor, average: Tensor) -> None:
        self._rows, self._size, self._step = rows, batch_size, step
        self._values, self._average, self._device = values, average, values.device
        self._offsets = torch.arange(batch_size, device=self._device)
        self._cursor, self._number = (torch.zeros(1, dtype=torch.int64, device=self._device) for _ in range(2))
        self._rate, self._averaged = (torch.zeros((), device=self._device) for _ in range(2))
        self._order, self._squared = torch.empty(0), torch.empty(0)
        self._steps: dict[tuple[int, bool], Replayed] = {}

    def __call__(self, orders: Sequence[NDArray[np.int64]], rate: float, averaged: int | None) -> Tensor:
        """Takes the steps of an epoch; on a GPU it returns before they are done.

        Args:
            orders: of the rows, ``[M]`` for each member.
            rate: the learning rate.
            averaged: steps in the mean of the parameters so far, if those of this epoch are to be added.

        Returns:
            The squared errors ``[steps, K]``; the next epoch overwrites them.
        """
        order = torch.from_numpy(np.stack(orders))
        whole, rest = divmod(order.shape[1], self._size)
        sizes = [self._size] * whole + [rest] * (rest > 0)
        if not len(self._order):
            self._order = torch.empty_like(order, device=self._device)
            self._squared = self._values.new_zeros(len(sizes), len(order))
        self._order.copy_(order)
        self._rate.fill_(rate)
        self._averaged.fill_(averaged or 0)
        for counter in (self._cursor, self._number):
            counter.zero_()
        for size in sizes:
            self._replayed(size, averaged is not None)()
        return self._squared

    def _replayed(self, size: int, averages: bool) -> Replayed:
        key = size, averages
        if key not in self._steps:
            self._steps[key] = Replayed(lambda: self._one(size, averages), self._device)
        return self._steps[key]

    def _one(self, size: int, averages: bool) -> Tensor:
        """Takes the step at the cursor."""
        index = self._order.index_select(1, self._cursor + self._offsets[:size])
        squared = self._step(self._rows.minibatch(index), self._rate)
        self._squared.index_copy_(0, self._number, squared.view(1, -1))
        self._cursor += size
        self._number += 1
        if averages:
            self._averaged += 1
            self._average.lerp_(self._values, self._averaged.reciprocal())
        return squared
