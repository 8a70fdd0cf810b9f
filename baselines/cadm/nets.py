"""CaDM's nets, all members at once: context encoder, forward dynamics, backward dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from baselines.cadm.settings import CaDMSettings
from baselines.common.snapshots import below, load_net, net_arrays, under
from persim.storage.store import Arrays

Activation = Callable[[Tensor], Tensor]


class Perceptrons(nn.Module):
    """K multilayer perceptrons of one shape, each layer one batched product.

    Args:
        members: K.
        widths: of input, hidden layers and output.
        activation: of the hidden layers.
        decays: weight decay of each layer.
        generator: of the initial weights: normal with sigma = 1 / (2 sqrt(inputs)), cut off at 2 sigma.
    """

    def __init__(
        self,
        members: int,
        widths: Sequence[int],
        activation: Activation,
        decays: Sequence[float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._activation, self._decays = activation, tuple(decays)
        shapes = list(pairwise(widths))
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(members, *shape)) for shape in shapes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, width)) for width in widths[1:])
        for weight in self.weights:
            sigma = 0.5 / math.sqrt(weight.shape[1])
            nn.init.trunc_normal_(weight, 0.0, sigma, -2 * sigma, 2 * sigma, generator=generator)

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs ``[K, B, out]`` of inputs ``[K, B, in]``."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), 1):
            rows = torch.baddbmm(bias, rows, weight)
            if layer < len(self.weights):
                rows = self._activation(rows)
        return rows

    def groups(self) -> list[dict[str, Any]]:
        """The parameters as an optimiser takes them, each layer's weights with its decay, biases without."""
        decayed = zip(self.weights, self._decays, strict=True)
        groups: list[dict[str, Any]] = [{"params": [weight], "weight_decay": decay} for weight, decay in decayed]
        return [*groups, {"params": list(self.biases)}]


class CaDMNets(nn.Module):
    """Encoder, forward net, backward net, and the learnt bounds of the forward net's variance.

    Args:
        settings: widths, members, whether a variance is predicted.
        inputs: D, dimensions of a state as the nets see it.
        state_dim: S.
        action_dim: A.
        seed: of the initial weights.
    """

    def __init__(
        self, settings: CaDMSettings, inputs: int, state_dim: int, action_dim: int, seed: np.random.SeedSequence
    ) -> None:
        super().__init__()
        s, generator = settings, torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        history = s.history * (state_dim + action_dim)
        seen = inputs + action_dim + s.context
        outputs = 2 * state_dim if s.probabilistic else state_dim
        encoder = (history, *s.encoder_widths, s.context)
        self.encoder = Perceptrons(s.members, encoder, torch.relu, s.encoder_decays, generator)
        self.ahead = Perceptrons(s.members, (seen, *s.widths, outputs), silu, s.decays, generator)
        self.back = Perceptrons(s.members, (seen, *s.widths, state_dim), silu, s.decays, generator)
        self.probabilistic, self._state_dim = s.probabilistic, state_dim
        if s.probabilistic:  # shared by the members
            self.highest = nn.Parameter(torch.full((1, 1, state_dim), 0.5))
            self.lowest = nn.Parameter(torch.full((1, 1, state_dim), -10.0))

    def predict(self, states: Tensor, actions: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log variance ``[K, B, S]`` of the scaled target; no variance if none is predicted."""
        outputs = self.ahead(torch.cat([states, actions, contexts], dim=-1))
        if not self.probabilistic:
            return outputs, None
        mean, logvar = outputs.split(self._state_dim, dim=-1)
        logvar = self.highest - softplus(self.highest - logvar)
        return mean, self.lowest + softplus(logvar - self.lowest)

    def predict_back(self, following: Tensor, actions: Tensor, contexts: Tensor) -> Tensor:
        """The scaled target backward in time ``[K, B, S]``, from next states."""
        outputs: Tensor = self.back(torch.cat([following, actions, contexts], dim=-1))
        return outputs

    def adam(self, learning_rate: float) -> torch.optim.Adam:
        """The optimiser.

        Its weight decay adds decay times weight to the gradient, which is that of the published penalty,
        decay / 2 times the squared weights summed over members; as a part of the loss it would take a tenth
        of the time of a step.
        """
        groups = self.encoder.groups() + self.ahead.groups() + self.back.groups()
        if self.probabilistic:
            groups.append({"params": [self.highest, self.lowest]})
        return torch.optim.Adam(groups, lr=learning_rate, fused=True)

    def arrays(self) -> Arrays:
        """All parameters."""
        return under("net.", net_arrays(self))

    def load(self, arrays: Arrays) -> None:
        """Takes the parameters of ``arrays``."""
        load_net(self, below("net.", arrays))
