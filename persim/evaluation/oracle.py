"""Find the optimal policy of small environments such as MountainCar by value iteration on a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from persim.data.policies import BatchPolicy
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError

SHAPE = (721, 421)
TOLERANCE = 1e-6


def has_oracle(spec: EnvSpec) -> bool:
    """Tell whether value iteration is possible: two bounded state dimensions, discrete actions, rewards at most 0."""
    costs_only = spec.planning.best_reward <= 0
    return spec.discrete and spec.state_dim == 2 and spec.observation_space.is_bounded() and costs_only


class _Grid:
    """Bilinear interpolation on a regular grid over the observation space."""

    def __init__(self, spec: EnvSpec, shape: tuple[int, int]) -> None:
        self.spec, space, self.shape = spec, spec.observation_space, np.array(shape)
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)

    def points(self) -> Array:
        """Return all G grid points ``[G, 2]``."""
        axes = [np.linspace(self.low[d], self.high[d], self.shape[d]) for d in range(2)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)

    def outcomes(self, states: Array, action: int, covariates: Array) -> tuple[Array, NDArray[np.intp], Array]:
        """Take one action in all states ``[B, 2]`` of an agent with covariates ``[C]``.

        It returns rewards ``[B]``, and flat indices ``[4, B]`` and weights ``[4, B]`` of the grid points around the
        next states; the weights are 0 where the episode ends.
        """
        actions = np.full(len(states), action)
        following = self.spec.step(states, actions, np.broadcast_to(covariates, (len(states), len(covariates))))
        before, chosen, after = (torch.from_numpy(x) for x in (states, actions, following))
        place = (np.clip(following, self.low, self.high) - self.low) / (self.high - self.low) * (self.shape - 1)
        cell = np.minimum(place.astype(np.intp), self.shape - 2)
        right, up = (place - cell).T
        first, width = cell[:, 0] * self.shape[1] + cell[:, 1], self.shape[1]
        index = np.stack([first, first + 1, first + width, first + width + 1])
        weight = np.stack([(1 - right) * (1 - up), (1 - right) * up, right * (1 - up), right * up])
        return self.spec.reward(before, chosen, after).numpy(), index, weight * ~self.spec.terminated(after).numpy()


def optimal_values(
    spec: EnvSpec, covariates: Array, shape: tuple[int, int] = SHAPE, progress: Callable[[int], None] | None = None
) -> Array:
    """Compute the optimal values ``[*shape]`` of the states of an agent with covariates ``[C]`` by value iteration.

    The shape has the grid points per state dimension; ``progress`` is called after every sweep with its number.

    Raises:
        InputError: ``has_oracle`` is false for the environment.
    """
    if not has_oracle(spec):
        needed = "two bounded state dimensions, discrete actions and rewards of at most 0"
        raise InputError(f"{spec.name} has no oracle: value iteration needs {needed}; use another environment")
    grid = _Grid(spec, shape)
    outcomes = [grid.outcomes(grid.points(), action, covariates) for action in range(spec.action_dim)]
    values = np.zeros(int(np.prod(shape)))
    for sweep in range(1, 4 * spec.horizon):
        updated = np.max([reward + (weight * values[index]).sum(0) for reward, index, weight in outcomes], axis=0)
        # Where the goal is out of reach the values would fall for ever; an episode loses at most its horizon.
        updated = np.maximum(updated, -float(spec.horizon))
        change, values = np.abs(updated - values).max(), updated
        if progress is not None:
            progress(sweep)
        if change < TOLERANCE:
            break
    return values.reshape(shape)


class OraclePolicy(BatchPolicy):
    """Take the action with the highest value after one true step.

    The episodes' agents have covariates ``[B, C]`` and indices ``[B]`` in the list of optimal values ``[*shape]``.
    """

    def __init__(self, spec: EnvSpec, covariates: Array, values: list[Array], agents: NDArray[np.intp]) -> None:
        self._spec, self._covariates, self._values, self._agents = spec, covariates, values, agents
        self._grid = _Grid(spec, values[0].shape)

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Choose the best actions ``[B]`` for states ``[B, 2]``."""
        worth = np.empty((self._spec.action_dim, len(states)))
        for agent in np.unique(self._agents):
            rows = self._agents == agent
            current, covariates = np.asarray(states[rows], dtype=np.float64), self._covariates[rows][0]
            for action in range(self._spec.action_dim):
                reward, index, weight = self._grid.outcomes(current, action, covariates)
                worth[action, rows] = reward + (weight * self._values[agent].ravel()[index]).sum(0)
        return np.asarray(worth.argmax(0))

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Drop the episodes where ``running`` ``[B]`` is false."""
        self._covariates, self._agents = self._covariates[running], self._agents[running]
