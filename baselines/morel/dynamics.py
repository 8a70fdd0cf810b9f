"""An ensemble of networks that predict change of state and reward, and how much they disagree."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot

from baselines.common.scale import Scale
from persim.data.trajectories import Trajectories

LAYERS = 4


class Ensemble(nn.Module):
    """M networks of equal shape, evaluated at once.

    Four linear layers, no activation after the first, ReLU after the second and third. Inputs are z-scored
    states and z-scored or one-hot actions; outputs z-scored changes of state, and last the reward.

    Args:
        data: that it will learn from; they give the z-scores.
        width: of the layers.
        members: M.
        seed: of the initial weights.
        device: of the nets.
    """

    def __init__(
        self, data: Trajectories, width: int, members: int, seed: np.random.SeedSequence, device: str = "cpu"
    ) -> None:
        super().__init__()
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
        """Network inputs ``[B, S + A]`` of raw states ``[B, S]`` and actions ``[B]`` or ``[B, A]``."""
        coded = one_hot(actions, self._actions).float() if self.actions is None else self.actions.normalise(actions)
        return torch.cat([self.states.normalise(states), coded], dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised outputs ``[M, B, S + 1]`` of ``inputs``."""
        hidden = inputs.expand(len(self.weights[0]), -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if 0 < layer < LAYERS - 1:
                hidden = hidden.relu()
        return hidden


def training_rows(ensemble: Ensemble, data: Trajectories, device: str) -> tuple[Tensor, Tensor]:
    """Inputs ``[M, S + A]`` and normalised targets ``[M, S + 1]`` of all transitions."""
    inputs = ensemble.inputs(on(device, data.observation), on(device, data.action))
    return inputs, ensemble.outputs.normalise(_outputs(data, device))


def disagreement(outputs: Tensor) -> Tensor:
    """The largest distance of two members' outputs ``[M, B, D]``, of each row ``[B]``."""
    first, second = torch.triu_indices(len(outputs), len(outputs), offset=1, device=outputs.device)
    distances: Tensor = torch.linalg.vector_norm(outputs[first] - outputs[second], dim=-1)
    return distances.amax(0)


def on(device: str, column: NDArray[Any]) -> Tensor:
    """A column of the data as a tensor; a copy, since those of the data cannot be written to."""
    return torch.from_numpy(np.array(column)).to(device)


def _outputs(data: Trajectories, device: str) -> Tensor:
    return on(device, np.concatenate([data.delta, data.reward[:, None]], axis=1))


def _uniform(shape: tuple[int, int, int], wide: int, rng: torch.Generator, device: str) -> nn.Parameter:
    """Torch's own initial weights of a linear layer with so many inputs."""
    return nn.Parameter(((2 * torch.rand(shape, generator=rng) - 1) / math.sqrt(wide)).to(device))
