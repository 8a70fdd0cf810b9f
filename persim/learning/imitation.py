"""A behaviour prior: what the policy that recorded the data would do, personalised by the agents' own factors.

Data that a policy recorded never show what another action would have done, so plans are sought near that policy, as in
MBOP (Argenson and Dulac-Arnold 2021). Each member of an ensemble imitates for itself, from a state and from its own
factors of the agent, so that agents which were never observed are imitated, too. How much of the recorded actions a
state explains says how far plans may deviate. Ours; the paper has nothing like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from persim.data.trajectories import Trajectories
from persim.errors import InputError
from persim.learning.layers import mean_and_deviation, perceptron, uniform_layer

EPOCHS, BATCH, LEARNING_RATE = 20, 512, 1e-3
HELD_OUT = 0.1  # share of the rows that the explained share is measured on
ROBUST = 0.1  # residuals above this (actions in [-1, 1]) count linearly, so that random actions between hardly matter
FEWEST = 20  # transitions
LEAST = 0.05  # explained share below which there is nothing to imitate
EARLY = 2  # epochs after which that is decided


class Imitation(nn.Module):
    """Nets of K members that map scaled states and agent factors to actions.

    Args:
        layers: feature-major, ``[K, out, in + 1]``, the last column of each its bias.
        explained: the share of the variance of held-out actions that each member explains, 0 to 1, ``[K]``.
        bounds: middle and half range of the actions ``[2, A]``.
    """

    explained: Tensor
    bounds: Tensor

    def __init__(self, layers: Sequence[Tensor], explained: Tensor, bounds: Tensor) -> None:
        super().__init__()
        self._count = len(layers)
        for number, layer in enumerate(layers):
            self.register_buffer(f"layer{number}", layer)
        self.register_buffer("explained", explained)
        self.register_buffer("bounds", bounds)

    @classmethod
    def from_arrays(cls, arrays: dict[str, Tensor]) -> Imitation:
        """Builds it from its ``state_dict``."""
        layers = [arrays[f"layer{number}"] for number in range(len(arrays) - 2)]
        return cls(layers, arrays["explained"], arrays["bounds"])

    def check(self, members: int, inputs: int, outputs: int) -> None:
        """Checks that the nets are those of K members with so many inputs and outputs.

        Raises:
            InputError: they are not.
        """
        shapes = [tuple(layer.shape) for layer in self.layers]
        wide = [inputs, *(shape[1] for shape in shapes)]
        fits = shapes == [(members, out, into + 1) for into, out in pairwise(wide)] and wide[-1] == outputs
        if not fits or self.explained.shape != (members,) or self.bounds.shape != (2, outputs):
            raise InputError("the nets of the imitation do not fit the model; give its own")

    @property
    def layers(self) -> list[Tensor]:
        """The layers ``[K, out, in + 1]``, first layer first."""
        return [getattr(self, f"layer{number}") for number in range(self._count)]

    @property
    def useful(self) -> bool:
        """Whether the states explain enough of the recorded actions to imitate them."""
        return bool(self.explained.mean() >= LEAST)

    @property
    def width(self) -> float:
        """How far plans deviate, as a share of the range of actions: the deviation that no state explains."""
        return float((1 - self.explained.mean()).clamp(0, 1).sqrt())


def imitable(data: Trajectories) -> bool:
    """Whether there is something to learn from: continuous actions with bounds, and enough transitions."""
    space = data.action_space
    return isinstance(space, Box) and space.is_bounded() and len(data) >= FEWEST


def imitate(
    data: Trajectories, states: Tensor, factors: Tensor, widths: Sequence[int], rng: np.random.Generator
) -> Imitation:
    """Trains the imitation of K members on the recorded actions.

    It gives up after ``EARLY`` epochs where no member explains ``LEAST`` of the held-out actions: random data.

    Args:
        data: M transitions with continuous actions.
        states: their scaled states, feature-major ``[S, M]``.
        factors: of the N agents ``[K, R, N]``.
        widths: of the hidden layers.
        rng: initial weights, the split, and the order of the rows.

    Raises:
        InputError: the data are not ``imitable``.
    """
    space, device, members = data.action_space, states.device, len(factors)
    if not isinstance(space, Box) or not imitable(data):
        raise InputError(
            f"{len(data)} transitions with actions {space} cannot be imitated; give at least {FEWEST}, with continuous "
            "actions that have bounds, or plan without a prior"
        )
    bounds = torch.from_numpy(np.stack([space.high + space.low, space.high - space.low]) / 2).float().to(device)
    agents = torch.tensor(data.agent, device=device)  # copies: the arrays are read-only
    actions = (torch.tensor(data.action, device=device).mT - bounds[0, :, None]) / bounds[1, :, None]
    scale = mean_and_deviation(factors, 2).nan_to_num(1.0).float()  # the deviation of a single agent is not a number
    scaled = (factors - scale[0].unsqueeze(-1)) / scale[1].unsqueeze(-1)
    sizes = [len(states) + factors.shape[1], *widths, len(actions)]
    drawn = [uniform_layer((fan_out, fan_in + 1), fan_in, rng) for fan_in, fan_out in pairwise(sizes)]
    layers = [layer.expand(members, -1, -1).clone().to(device).requires_grad_() for layer in drawn]
    held, rows = np.split(rng.permutation(len(data)), [round(len(data) * HELD_OUT)])

    def predicted(index: Tensor) -> Tensor:
        own = scaled.gather(2, agents[index].expand(*scaled.shape[:2], -1))
        return perceptron(layers, torch.cat([states[:, index].expand(members, -1, -1), own], dim=1))

    held_out = torch.from_numpy(held).to(device)
    adam = torch.optim.Adam(layers, lr=LEARNING_RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, EPOCHS)
    explained, hopeless = torch.zeros(members), torch.zeros(members, dtype=torch.bool)
    for epoch in range(1, EPOCHS + 1):
        for index in torch.split(torch.from_numpy(rng.permutation(rows)).to(device), BATCH):
            wanted = actions[:, index].expand(members, -1, -1)
            losses = nn.functional.smooth_l1_loss(predicted(index), wanted, beta=ROBUST, reduction="none")
            adam.zero_grad()
            losses.mean((1, 2)).sum().backward()  # type: ignore[no-untyped-call]  # torch's
            adam.step()
        falling.step()
        if epoch in (EARLY, EPOCHS):
            with torch.no_grad():
                explained = _explained(predicted(held_out), actions[:, held_out]).cpu()
            hopeless |= explained < LEAST
            if bool(hopeless.all()):
                break
    explained[hopeless] = 0  # as if each member had been trained alone
    layers[0] = _unscaled(layers[0].detach(), len(states), scale)
    return Imitation([layer.detach() for layer in layers], explained.to(device), bounds)


def _unscaled(layer: Tensor, states: int, scale: Tensor) -> Tensor:
    """Folds the z-scores of the factors into the first layer ``[K, out, S + R + 1]``."""
    own, bias = layer[..., states:-1] / scale[1].unsqueeze(1), layer[..., -1:]
    return torch.cat([layer[..., :states], own, bias - own @ scale[0].unsqueeze(-1)], dim=2)


def _explained(found: Tensor, wanted: Tensor) -> Tensor:
    """Returns how much of the variance of actions ``[A, M]`` predictions ``[K, A, M]`` explain, 0 to 1, ``[K]``."""
    variance = (wanted - wanted.mean(-1, keepdim=True)).square().mean(-1)
    error = (found.clamp(-1, 1) - wanted).square().mean(-1)
    share = torch.where(variance > 0, 1 - error / variance, 0.0).mean(-1)
    return share.nan_to_num(0.0).clamp(0, 1)
