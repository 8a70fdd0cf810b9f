"""Training the dynamics by gradient steps on shuffled transitions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from baselines.common.snapshots import adam_arrays, below, load_adam, load_net, net_arrays, under
from baselines.morel.dynamics import Ensemble, training_rows
from baselines.morel.settings import DynamicsSettings
from persim import seeding
from persim.data.trajectories import Trajectories
from persim.learning.training import DivergenceError
from persim.storage.store import Arrays


class DynamicsTraining:
    """An ensemble with its rows.

    Args:
        settings: of the ensemble.
        data: to learn from.
        seeds: of the cell, and the number of the part.
        device: of the nets.

    Attributes:
        ensemble: what is trained.
        inputs: of it, ``[M, S + A]``, one row for each transition.
        updates: how many there are to be: a number of epochs, but not too few.
    """

    def __init__(self, settings: DynamicsSettings, data: Trajectories, seeds: tuple[int, int], device: str) -> None:
        self._batch_size, self._seeds = settings.batch_size, seeds
        init = seeding.sequence(seeds[0], "init", seeds[1])
        self.ensemble = Ensemble(data, settings.width, settings.members, init, device)
        self.inputs, self._targets = training_rows(self.ensemble, data, device)
        self._adam = torch.optim.Adam(self.ensemble.parameters(), lr=settings.learning_rate)
        self._batches = math.ceil(len(data) / settings.batch_size)
        self.updates = max(settings.epochs * self._batches, settings.min_updates)
        self._epoch, self._order = -1, torch.zeros(0, dtype=torch.int64)

    def advance(self, start: int, stop: int) -> float:
        """Updates number ``start`` + 1 to ``stop``; returns the mean loss.

        Raises:
            DivergenceError: the loss became non-finite.
        """
        total = 0.0
        for update in range(start, stop):
            rows = self._rows(update)
            errors = (self.ensemble(self.inputs[rows]) - self._targets[rows]).square().mean((1, 2))
            self._adam.zero_grad()
            errors.sum().backward()
            self._adam.step()
            loss = float(errors.detach().mean())
            if not math.isfinite(loss):
                raise DivergenceError(
                    f"the loss of the dynamics became {loss} at step {update + 1}; lower the learning rate"
                )
            total += loss
        return total / (stop - start)

    def _rows(self, update: int) -> Tensor:
        """The batch of an update ``[B]``; those of an epoch are all rows, in an order of its own."""
        epoch, batch = divmod(update, self._batches)
        if epoch != self._epoch:
            order = seeding.generator(*self._seeds, "batches", epoch).permutation(len(self.inputs))
            self._epoch, self._order = epoch, torch.from_numpy(order).to(self.inputs.device)
        return self._order[batch * self._batch_size : (batch + 1) * self._batch_size]

    def state(self) -> Arrays:
        """Weights and Adam's averages."""
        return {**under("net/", net_arrays(self.ensemble)), **under("adam/", adam_arrays(self._adam))}

    def load_state(self, arrays: Arrays) -> None:
        """Goes on from ``state``."""
        load_net(self.ensemble, below("net/", arrays))
        load_adam(self._adam, below("adam/", arrays))
