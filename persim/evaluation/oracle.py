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
        space = spec.observation_space
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.shape = np.array(shape)
        self.axes = [np.linspace(self.low[d], self.high[d], shape[d]) for d in range(2)]

    def points(self) -> Array:
        """Return all G grid points ``[G, 2]``."""
        return np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1).reshape(-1, 2)

    def corners(self, states: Array) -> tuple[NDArray[np.intp], Array]:
        """Return the flat indices ``[4, B]`` and weights ``[4, B]`` of the corners around states ``[B, 2]``."""
        place = (np.clip(states, self.low, self.high) - self.low) / (self.high - self.low) * (self.shape - 1)
        cell = np.minimum(place.astype(np.intp), self.shape - 2)
        right, up = (place - cell).T
        first = cell[:, 0] * self.shape[1] + cell[:, 1]
        index = np.stack([first, first + 1, first + self.shape[1], first + self.shape[1] + 1])
        weight = np.stack([(1 - right) * (1 - up), (1 - right) * up, right * (1 - up), right * up])
        return index, weight


def _outcomes(spec: EnvSpec, states: Array, action: int, covariates: Array) -> tuple[Array, Array, Array]:
    """Take one action in all states ``[B, 2]``; return next states, rewards ``[B]``, and 1 where episodes continue."""
    actions = np.full(len(states), action)
    following = spec.step(states, actions, np.broadcast_to(covariates, (len(states), len(covariates))))
    before, chosen, after = (torch.from_numpy(x) for x in (states, actions, following))
    reward = spec.reward(before, chosen, after).numpy()
    return following, reward, 1.0 - spec.terminated(after).numpy()


def optimal_values(
    spec: EnvSpec, covariates: Array, shape: tuple[int, int] = SHAPE, progress: Callable[[int], None] | None = None
) -> Array:
    """Compute the optimal values ``[*shape]`` of one agent's states by value iteration.

    Args:
        spec: the environment.
        covariates: ``[C]``, of the agent.
        shape: grid points per state dimension.
        progress: called after every sweep with its number.

    Raises:
        InputError: ``has_oracle`` is false for the environment.
    """
    if not has_oracle(spec):
        needed = "two bounded state dimensions, discrete actions and rewards of at most 0"
        raise InputError(f"{spec.name} has no oracle: value iteration needs {needed}; use another environment")
    grid = _Grid(spec, shape)
    backups = []
    for action in range(spec.action_dim):
        following, reward, goes_on = _outcomes(spec, grid.points(), action, covariates)
        index, weight = grid.corners(following)
        backups.append((reward, index, weight * goes_on))
    values = np.zeros(int(np.prod(shape)))
    for sweep in range(1, 4 * spec.horizon):
        updated = np.max([reward + (weight * values[index]).sum(0) for reward, index, weight in backups], axis=0)
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
                following, reward, goes_on = _outcomes(self._spec, current, action, covariates)
                index, weight = self._grid.corners(following)
                worth[action, rows] = reward + goes_on * (weight * self._values[agent].ravel()[index]).sum(0)
        return np.asarray(worth.argmax(0))

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Drop the episodes where ``running`` ``[B]`` is false."""
        self._covariates, self._agents = self._covariates[running], self._agents[running]
