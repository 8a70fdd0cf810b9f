"""CaDM's networks, all members at once, with their inputs, outputs and loss: encoder, forward and backward dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from baselines.cadm.settings import CaDMSettings
from baselines.common.scale import Scale
from baselines.common.snapshots import below, load_net, net_arrays, under
from persim.storage.store import Arrays

Activation = Callable[[Tensor], Tensor]


class Perceptrons(nn.Module):
    """K multilayer perceptrons of one shape; each layer is one batched matrix product.

    Args:
        members: K.
        widths: number of inputs, of units in each hidden layer, and of outputs.
        activation: applied after each hidden layer.
        decays: weight decay of each layer.
        rng: draws the initial weights from a normal with sigma = 1 / (2 sqrt(inputs)), truncated at 2 sigma.
    """

    def __init__(
        self, members: int, widths: Sequence[int], activation: Activation, decays: Sequence[float], rng: torch.Generator
    ) -> None:
        super().__init__()
        self._activation, self._decays = activation, tuple(decays)
        shapes = list(pairwise(widths))
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(members, *shape)) for shape in shapes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, width)) for width in widths[1:])
        for weight in self.weights:
            sigma = 0.5 / math.sqrt(weight.shape[1])
            nn.init.trunc_normal_(weight, 0.0, sigma, -2 * sigma, 2 * sigma, generator=rng)

    def forward(self, rows: Tensor) -> Tensor:
        """The outputs ``[K, B, out]`` for inputs ``[K, B, in]``."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), 1):
            rows = torch.baddbmm(bias, rows, weight)
            if layer < len(self.weights):
                rows = self._activation(rows)
        return rows

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: the weights with their layer's decay, the biases without any."""
        decayed = zip(self.weights, self._decays, strict=True)
        groups: list[dict[str, Any]] = [{"params": [weight], "weight_decay": decay} for weight, decay in decayed]
        return [*groups, {"params": list(self.biases)}]


class CaDMNets(nn.Module):
    """Context encoder, forward and backward dynamics, and the learnt bounds of the forward log variance.

    Args:
        settings: give the layer widths, the number of members K, and whether a variance is predicted.
        inputs: D, the number of state features that the networks see.
        state_dim: S.
        action_dim: A.
        seed: seed of the initial weights.
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
        """Predicts the scaled target from states ``[K, B, D]``, actions ``[K, B, A]`` and contexts ``[K, B, C]``.

        Returns:
            Mean and log variance, both ``[K, B, S]``; the log variance is None in vanilla CaDM.
        """
        outputs = self.ahead(torch.cat([states, actions, contexts], dim=-1))
        if not self.probabilistic:
            return outputs, None
        mean, logvar = outputs.split(self._state_dim, dim=-1)
        logvar = self.highest - softplus(self.highest - logvar)
        return mean, self.lowest + softplus(logvar - self.lowest)

    def adam(self, learning_rate: float) -> torch.optim.Adam:
        """Adam with each layer's weight decay.

        The decay adds decay * weight to the gradient, which is the gradient of the published penalty (decay / 2
        times the squared weights, summed over members). Computed in the loss, the penalty would take a tenth of
        the time of a step.
        """
        groups = self.encoder.groups() + self.ahead.groups() + self.back.groups()
        if self.probabilistic:
            groups.append({"params": [self.highest, self.lowest]})
        return torch.optim.Adam(groups, lr=learning_rate, fused=True)

    def arrays(self) -> Arrays:
        """All parameters as named arrays; those of layers are ``[K, in, out]`` and ``[K, 1, out]``."""
        return under({"net.": net_arrays(self)})

    def load(self, arrays: Arrays) -> None:
        """Loads the parameters that ``arrays`` returned."""
        load_net(self, below("net.", arrays))


class Scales(NamedTuple):
    """The scales of all inputs and outputs.

    Attributes:
        states: of the networks' state features ``[D]``, the same for forward and backward network.
        actions: ``[A]``; discrete actions stay 0 and 1.
        history: ``[W S + W A]``; differences stay as they are, continuous actions are scaled slot by slot, with
            the zeros of empty slots among the values.
        targets: of the forward network ``[S]``.
        back_targets: of the backward network ``[S]``.
    """

    states: Scale
    actions: Scale
    history: Scale
    targets: Scale
    back_targets: Scale

    def arrays(self) -> Arrays:
        """Mean and standard deviation of each scale as a named array ``[2, D]``."""
        return {f"scale.{name}": torch.stack(scale).cpu().numpy() for name, scale in self._asdict().items()}

    @classmethod
    def from_arrays(cls, arrays: Arrays, device: str) -> Scales:
        """Restores the scales that ``arrays`` returned."""
        tables = (torch.from_numpy(np.array(arrays[f"scale.{name}"])).to(device) for name in cls._fields)
        return cls(*(Scale(*table) for table in tables))


class Batch(NamedTuple):
    """B scaled transitions for each of K members.

    Attributes:
        history: what the encoder reads, ``[K, B, W (S + A)]`` for a history of W transitions.
        states: ``[K, B, D]``.
        actions: ``[K, B, A]``.
        targets: what the forward network predicts, ``[K, B, S]``.
        following: next states ``[K, B, D]``.
        back_targets: what the backward network predicts, ``[K, B, S]``.
    """

    history: Tensor
    states: Tensor
    actions: Tensor
    targets: Tensor
    following: Tensor
    back_targets: Tensor


def reconstruction(nets: CaDMNets, batch: Batch, backward_weight: float) -> Tensor:
    """The loss ``[]``: forward squared error (PE-TS: Gaussian likelihood) plus weighted backward squared error.

    Both are means over batch and dimensions, summed over members.
    """
    contexts = nets.encoder(batch.history)
    mean, logvar = nets.predict(batch.states, batch.actions, contexts)
    squared = (mean - batch.targets).square()
    ahead = squared if logvar is None else squared * torch.exp(-logvar) + logvar
    before = nets.back(torch.cat([batch.following, batch.actions, contexts], dim=-1))
    back: Tensor = (before - batch.back_targets).square()
    return ahead.mean((1, 2)).sum() + backward_weight * back.mean((1, 2)).sum()


def bound_penalty(nets: CaDMNets, weight: float) -> Tensor | float:
    """The penalty ``[]`` that pulls the two bounds of the log variance together; 0 in vanilla CaDM."""
    return weight * (nets.highest.sum() - nets.lowest.sum()) if nets.probabilistic else 0.0
