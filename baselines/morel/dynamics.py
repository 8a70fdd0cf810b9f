"""An ensemble of networks that predict the change of state and the reward, and its training.

Axis letters beside those of CONTRIBUTING.md: T transitions of the data.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot

from baselines.common.chunks import check_finite
from baselines.common.scale import Scale
from baselines.common.snapshots import adam_arrays, below, load_adam, load_net, net_arrays, under
from baselines.morel.settings import DynamicsSettings
from persim import seeding
from persim.data.trajectories import Trajectories
from persim.storage.store import Arrays


class Ensemble(nn.Module):
    """K networks of one shape, evaluated as one batch.

    Four linear layers, without an activation after the first and with ReLU after the second and third. The inputs are
    z-scored states and z-scored or one-hot actions; the outputs are z-scored changes of state and, last, the reward.

    Args:
        data: the data to learn from, which give the z-scores.
        settings: give the width and K.
        seed: seed of the initial weights.
        device: device of the networks.
    """

    def __init__(
        self, data: Trajectories, settings: DynamicsSettings, seed: np.random.SeedSequence, device: str
    ) -> None:
        super().__init__()
        width, members = settings.width, settings.members
        self._actions = data.action_dim if data.discrete else 0
        self.states = Scale.of(on(device, data.observation))
        self.actions = None if data.discrete else Scale.of(on(device, data.action))
        self.outputs = Scale.of(_outputs(data, device))
        sizes = (data.state_dim + data.action_dim, width, width, width, data.state_dim + 1)
        rng = torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        layers = list(pairwise(sizes))
        self.weights = nn.ParameterList(_uniform((members, wide, out), wide, rng, device) for wide, out in layers)
        self.biases = nn.ParameterList(_uniform((members, 1, out), wide, rng, device) for wide, out in layers)

    def inputs(self, states: Tensor, actions: Tensor) -> Tensor:
        """The network inputs ``[B, S + A]`` for raw states ``[B, S]`` and actions ``[B]`` or ``[B, A]``."""
        coded = one_hot(actions, self._actions).float() if self.actions is None else self.actions.normalise(actions)
        return torch.cat([self.states.normalise(states), coded], dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """The z-scored outputs ``[K, B, S + 1]`` for network inputs ``[B, S + A]``."""
        hidden = inputs.expand(len(self.weights[0]), -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if 0 < layer < len(self.weights) - 1:
                hidden = hidden.relu()
        return hidden


def training_rows(ensemble: Ensemble, data: Trajectories, device: str) -> tuple[Tensor, Tensor]:
    """The network inputs ``[T, S + A]`` and z-scored targets ``[T, S + 1]`` of all transitions."""
    inputs = ensemble.inputs(on(device, data.observation), on(device, data.action))
    return inputs, ensemble.outputs.normalise(_outputs(data, device))


def disagreement(outputs: Tensor) -> Tensor:
    """The largest distance between two members' outputs ``[K, B, D]`` for each row ``[B]``."""
    first, second = torch.triu_indices(len(outputs), len(outputs), offset=1, device=outputs.device)
    distances: Tensor = torch.linalg.vector_norm(outputs[first] - outputs[second], dim=-1)
    return distances.amax(0)


def on(device: str, column: NDArray[Any]) -> Tensor:
    """A column of the data ``[T, ...]`` as a tensor; a copy, since the data are read-only."""
    return torch.from_numpy(np.array(column)).to(device)


def _outputs(data: Trajectories, device: str) -> Tensor:
    return on(device, np.concatenate([data.delta, data.reward[:, None]], axis=1))


def _uniform(shape: tuple[int, int, int], wide: int, rng: torch.Generator, device: str) -> nn.Parameter:
    """Torch's default initial weights of a linear layer with ``wide`` inputs."""
    return nn.Parameter(((2 * torch.rand(shape, generator=rng) - 1) / math.sqrt(wide)).to(device))


class DynamicsTraining:
    """Trains an ensemble by gradient steps on shuffled transitions.

    Args:
        settings: of the ensemble.
        data: the data to learn from.
        seeds: seed of the cell, and number of the part.
        device: device of the networks.

    Attributes:
        ensemble: the networks in training.
        inputs: their inputs for all transitions ``[T, S + A]``.
        updates: number of gradient steps: the given epochs, but at least ``min_updates``.
    """

    def __init__(self, settings: DynamicsSettings, data: Trajectories, seeds: tuple[int, int], device: str) -> None:
        self._batch_size, self._seeds = settings.batch_size, seeds
        init = seeding.sequence(seeds[0], "init", seeds[1])
        self.ensemble = Ensemble(data, settings, init, device)
        self.inputs, self._targets = training_rows(self.ensemble, data, device)
        self._adam = torch.optim.Adam(self.ensemble.parameters(), lr=settings.learning_rate)
        self._batches = math.ceil(len(data) / settings.batch_size)
        self.updates = max(settings.epochs * self._batches, settings.min_updates)
        self._epoch, self._order = -1, torch.zeros(0, dtype=torch.int64)

    def advance(self, start: int, stop: int) -> float:
        """Makes updates number ``start`` + 1 to ``stop``; returns the mean loss.

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
            check_finite("the loss of the dynamics", loss, update + 1)
            total += loss
        return total / (stop - start)

    def _rows(self, update: int) -> Tensor:
        """The rows ``[B]`` of an update; each epoch goes through all rows in a new order."""
        epoch, batch = divmod(update, self._batches)
        if epoch != self._epoch:
            order = seeding.generator(*self._seeds, "batches", epoch).permutation(len(self.inputs))
            self._epoch, self._order = epoch, torch.from_numpy(order).to(self.inputs.device)
        return self._order[batch * self._batch_size : (batch + 1) * self._batch_size]

    def state(self) -> Arrays:
        """The weights and Adam's moments as named arrays."""
        return under({"net/": net_arrays(self.ensemble), "adam/": adam_arrays(self._adam)})

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""
        load_net(self.ensemble, below("net/", arrays))
        load_adam(self._adam, below("adam/", arrays))
