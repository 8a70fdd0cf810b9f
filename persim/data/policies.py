"""Policies that record data: they see a batch of states and know nothing of agents or models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from persim import store

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
KIND = "policy"


class BatchPolicy(ABC):
    """Anything that turns states ``[B, S]`` into actions ``[B]`` or ``[B, A]``."""

    @abstractmethod
    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Actions for these states; all randomness comes from ``rng``."""

    def keep(self, running: NDArray[np.bool_]) -> None:  # noqa: B027 (most policies remember nothing)
        """Tells a policy with a memory which of the ``[B]`` episodes go on; the next states are theirs."""


class UniformPolicy(BatchPolicy):
    """Actions uniform in the action space, whatever the state (regime ``random``)."""

    def __init__(self, space: gym.spaces.Discrete | gym.spaces.Box) -> None:
        self._space = space

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Uniform actions, one per state."""
        if isinstance(self._space, gym.spaces.Discrete):
            return rng.integers(int(self._space.n), size=len(states))
        size = (len(states), *self._space.shape)
        return rng.uniform(self._space.low, self._space.high, size=size).astype(np.float32)


class EpsilonPolicy(BatchPolicy):
    """Follows ``base``, but acts uniformly at random with probability ``epsilon`` at each step."""

    def __init__(self, base: BatchPolicy, epsilon: float, space: gym.spaces.Discrete | gym.spaces.Box) -> None:
        self._base, self._epsilon, self._uniform = base, epsilon, UniformPolicy(space)

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Base actions, some of them replaced."""
        chosen, random = self._base.act(states, rng), self._uniform.act(states, rng)
        explore = rng.random(len(states)) < self._epsilon
        return np.where(explore.reshape(-1, *[1] * (chosen.ndim - 1)), random, chosen)

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Tells the base policy."""
        self._base.keep(running)


class GreedyQPolicy(BatchPolicy):
    """Argmax of a Q network, a ReLU MLP given by its layers, as stable-baselines3's DQN trains it.

    Args:
        layers: pairs of weight ``[out, in]`` and bias ``[out]``, first layer first.
    """

    def __init__(self, layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> None:
        self._layers = layers

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """The action of highest value for each state."""
        hidden = np.asarray(states, dtype=np.float32)
        for weight, bias in self._layers[:-1]:
            hidden = np.maximum(hidden @ weight.T + bias, 0)
        weight, bias = self._layers[-1]
        values: NDArray[np.float32] = hidden @ weight.T + bias
        return np.asarray(values.argmax(axis=1), dtype=np.int64)

    def save(self, path: Path, settings: dict[str, object]) -> None:
        """Writes the weights, with how they were made."""
        arrays: store.Arrays = {}
        for index, (weight, bias) in enumerate(self._layers):
            arrays |= {f"{index}.weight": weight, f"{index}.bias": bias}
        store.write_arrays(path, arrays, KIND, settings)

    @classmethod
    def load(cls, path: Path) -> tuple[GreedyQPolicy, dict[str, Any]]:
        """Reads what ``save`` wrote; returns the policy and how it was made.

        Raises:
            InputError: the file is missing or damaged.
        """
        arrays, settings = store.read_arrays(path, KIND)
        layers = [(arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in range(len(arrays) // 2)]
        return cls(layers), settings


def weights_path(env: str) -> Path:
    """Where the package keeps the test policy of an environment."""
    return WEIGHTS_FOLDER / f"{env}_test.safetensors"


def has_test_policy(env: str) -> bool:
    """Whether the package ships a test policy for this environment."""
    return weights_path(env).exists()


def load_test_policy(env: str, space: gym.spaces.Discrete | gym.spaces.Box) -> BatchPolicy:
    """The policy whose actions the prediction test plays (Section 5.2).

    An environment for which the package ships none is tested on uniformly random actions.

    Raises:
        InputError: the shipped file is damaged.
    """
    return GreedyQPolicy.load(weights_path(env))[0] if has_test_policy(env) else UniformPolicy(space)
