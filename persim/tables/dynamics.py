"""Open-loop prediction of the agents of a table: histories follow from histories and acts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.tables.features import Features
from persim.tables.reading import Array
from persim.tables.terms import Terms
from persim.tables.units import Units

AT_ONCE = 4096  # windows that are rolled out at once, to bound memory


@dataclass(frozen=True, eq=False)
class Dynamics:
    """K members that share their terms, and N agents' own weights of them.

    Axis letters: S states, F terms, B windows, H steps, X columns of a history.

    Attributes:
        features: how a table becomes histories and acts.
        terms: what the members learnt together.
        units: in which the terms see each agent's inputs.
        theta: the agents' weights ``[K, N, S, F]``.
        limits: lowest and highest states that a prediction may reach ``[2, S]``: those of the data, and as far again
            as these lie apart.
    """

    features: Features
    terms: Terms
    units: Units
    theta: Tensor
    limits: Array

    def paths(self, agents: NDArray[np.int64], history: Array, acts: Array) -> Array:
        """Predict the states ``[B, H, S]`` that follow: the mean over members, each of which goes its own way.

        Args:
            agents: numbers ``[B]``.
            history: ``[B, X]``.
            acts: ``[B, H, inputs]``, those of the present step first.
        """
        parts = [np.empty((0, acts.shape[1], self.features.states))]
        for first in range(0, len(agents), AT_ONCE):
            chosen = slice(first, first + AT_ONCE)
            states = self.steps(agents[chosen], torch.from_numpy(history[chosen]), torch.from_numpy(acts[chosen]))
            parts.append(states.mean(0).numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def steps(self, agents: NDArray[np.int64], history: Tensor, acts: Tensor) -> Tensor:
        """Roll out every member: histories ``[B, X]``, acts ``[B, H, inputs]`` to states ``[K, B, H, S]``."""
        history, found = history[None].double(), []
        for step in range(acts.shape[1]):
            history = self.follow(agents, history, acts[:, step].double())
            found.append(history[..., : self.features.states])
        return torch.stack(found, dim=2)

    @torch.no_grad()
    def follow(self, agents: NDArray[np.int64], history: Tensor, acts: Tensor) -> Tensor:
        """Return the next histories ``[K, B, X]``, float64.

        Histories are ``[K or 1, B, X]``, acts ``[B, inputs]``, or ``[K, B, inputs]`` where each member has its own.
        """
        seen = self.units.history(agents, history).float(), self.units.acts(agents, acts).float()
        change = self.terms.difference(*seen, self.theta[:, torch.from_numpy(agents)]).double()
        states = torch.clamp(history[..., : self.features.states] + change, *torch.from_numpy(self.limits))
        return self.features.following(history.expand(len(states), -1, -1), acts, states)
