"""Policies that record data: they map a batch of states to actions and know nothing of agents or models."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.random import Generator
from numpy.typing import NDArray

from persim.envs.spec import ActionSpace, Array
from persim.errors import InputError, check_choice
from persim.seeding import drawn
from persim.storage import store

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
KIND = "policy"
# The prediction test plays so many steps of the test policy, with actions at random with this probability.
TEST_STEPS, TEST_EPSILON = 60, 0.01


class BatchPolicy(ABC):
    """A policy that turns states ``[B, S]`` into actions ``[B]`` or ``[B, A]``."""

    @abstractmethod
    def act(self, states: NDArray[Any], rng: Generator) -> NDArray[Any]:
        """Choose actions ``[B]`` or ``[B, A]`` for states ``[B, S]``; all randomness comes from ``rng``."""

    def keep(self, running: NDArray[np.bool_]) -> None:  # noqa: B027 (most policies remember nothing)
        """Forget the episodes where ``running`` ``[B]`` is false; the next ``act`` gets the states of the others."""


class UniformPolicy(BatchPolicy):
    """Draw actions uniformly from the action space, whatever the state (regime ``random``)."""

    def __init__(self, space: ActionSpace) -> None:
        self._space = space

    def act(self, states: NDArray[Any], rng: Generator) -> NDArray[Any]:
        """Draw uniform actions ``[B]`` or ``[B, A]``, one per state ``[B, S]``."""
        if isinstance(self._space, Discrete):
            choices = int(self._space.n)
            return drawn(rng, len(states), lambda g, n: g.integers(choices, size=n))
        low, high = self._space.low, self._space.high
        return drawn(rng, len(states), lambda g, n: g.uniform(low, high, size=(n, *low.shape)).astype(np.float32))


class EpsilonPolicy(BatchPolicy):
    """Follow ``base``, but act uniformly at random with probability ``epsilon`` at each step."""

    def __init__(self, base: BatchPolicy, epsilon: float, space: ActionSpace) -> None:
        self._base, self._epsilon, self._uniform = base, epsilon, UniformPolicy(space)

    def act(self, states: NDArray[Any], rng: Generator) -> NDArray[Any]:
        """Choose actions ``[B]`` or ``[B, A]`` by ``base`` for states ``[B, S]``, and replace some at random."""
        chosen, random = self._base.act(states, rng), self._uniform.act(states, rng)
        explore = drawn(rng, len(states), lambda g, n: g.random(n)) < self._epsilon
        return np.where(explore.reshape(-1, *[1] * (chosen.ndim - 1)), random, chosen)

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Pass ``running`` ``[B]`` on to the base policy."""
        self._base.keep(running)


class NetworkPolicy(BatchPolicy):
    """A ReLU MLP given by its layers, as stable-baselines3 trains it.

    Args:
        layers: pairs of weight ``[out, in]`` and bias ``[out]``, first layer first.
        head: ``"argmax"`` for the action of highest value (DQN), ``"tanh"`` for actions in [-1, 1] (TD3).

    Raises:
        InputError: ``head`` is neither of these.
    """

    def __init__(self, layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]], head: str = "argmax") -> None:
        self._layers, self._head = layers, check_choice("head", head, ("argmax", "tanh"))

    def act(self, states: NDArray[Any], rng: Generator) -> NDArray[Any]:
        """Compute actions ``[B]`` or ``[B, A]`` for states ``[B, S]``; ``rng`` is not used."""
        hidden = np.asarray(states, dtype=np.float32)
        for weight, bias in self._layers[:-1]:
            hidden = np.maximum(hidden @ weight.T + bias, 0)
        weight, bias = self._layers[-1]
        values: NDArray[np.float32] = hidden @ weight.T + bias
        return np.asarray(values.argmax(axis=1), dtype=np.int64) if self._head == "argmax" else np.tanh(values)

    def save(self, path: Path, settings: dict[str, object]) -> None:
        """Write the weights together with the settings they were trained with."""
        arrays = {f"{index}.weight": weight for index, (weight, _) in enumerate(self._layers)}
        arrays |= {f"{index}.bias": bias for index, (_, bias) in enumerate(self._layers)}
        store.write_arrays(path, arrays, KIND, {**settings, "head": self._head})

    @classmethod
    def load(cls, path: Path) -> tuple[NetworkPolicy, dict[str, Any]]:
        """Read the policy that ``save`` wrote, and the settings it was trained with.

        Raises:
            InputError: the file is missing or damaged.
        """
        arrays, settings = store.read_arrays(path, KIND)
        with store.contents_of(path):
            layers = [(arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in range(len(arrays) // 2)]
            return cls(layers, settings.get("head", "argmax")), settings


def weights_path(env: str, which: str | int = "test") -> Path:
    """Return the package's file of a policy: ``test``, or the number of a policy-training agent, from 1."""
    return WEIGHTS_FOLDER / f"{env}_{which}.safetensors"


def has_test_policy(env: str) -> bool:
    """Tell whether the package ships a test policy for this environment."""
    return weights_path(env).exists()


def load_test_policy(env: str, space: ActionSpace) -> BatchPolicy:
    """Load the policy that the prediction test plays (Section 5.2); it is random where the package ships none.

    Raises:
        InputError: the shipped file is damaged.
    """
    return _shipped(env, "test") if has_test_policy(env) else UniformPolicy(space)


def test_policy_id(env: str) -> str:
    """Name the test policy by its weights, as prediction errors depend on it; ``random`` where none is shipped."""
    path = weights_path(env)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else "random"


def missing_policies(env: str, count: int) -> list[int]:
    """List the policy-training agents, numbered from 1, for which the package has no policy."""
    return [which for which in range(1, count + 1) if not weights_path(env, which).exists()]


def load_behaviour_policies(env: str, count: int) -> list[BatchPolicy]:
    """Load the policies that record the data, one per policy-training agent (Section 5.1, Table 4).

    Raises:
        InputError: a file is missing or damaged, or the environment has no policy-training agents.
    """
    if not count:
        raise InputError(f"{env} names no policy_agents, whose policies this regime follows; use --regime random")
    missing = missing_policies(env, count)
    if missing:
        numbers = ",".join(map(str, missing))
        command = f"persim train-policies --env {env} --policies {numbers}"
        wanted = f"train it with {command}, or use --regime random"
        raise InputError(f"{env} has no behaviour policy {numbers}, but this regime follows it; {wanted}")
    return [_shipped(env, which) for which in range(1, count + 1)]


def _shipped(env: str, which: str | int) -> BatchPolicy:
    """Load a policy of the package; where its file is damaged, name the command that trains it."""
    try:
        return NetworkPolicy.load(weights_path(env, which))[0]
    except InputError as error:
        why = str(error).split(";", 1)[0]
        command = f"persim train-policies --env {env} --policies {which}"
        raise InputError(f"{why}; reinstall the package, or train the policy with {command}") from error


class NearestPolicy(BatchPolicy):
    """Let each agent follow the policy of the training agent nearest to it (Appendix E.2, regime ``pure``).

    The distance is Euclidean between the covariates of the episodes' agents ``[B, C]`` and of the training agents
    ``[M, C]``, each divided by the width of its range, ``scale`` ``[C]``, so that units do not matter. Among equally
    near training agents the first is followed.
    """

    def __init__(self, policies: list[BatchPolicy], training: Array, scale: Array, covariates: Array) -> None:
        distance = np.square((covariates[:, None] - training) / scale).sum(2)
        # Rounded so that equal distances tie: 1 - 0.6 and 1.4 - 1 differ in the last bit.
        self._policies, self.nearest = policies, distance.round(9).argmin(axis=1)

    def act(self, states: NDArray[Any], rng: Generator) -> NDArray[Any]:
        """Choose actions ``[B]`` or ``[B, A]`` for states ``[B, S]``, each by its agent's policy."""
        parts = [self._policies[i].act(states[self.nearest == i], rng) for i in np.unique(self.nearest)]
        order = np.argsort(self.nearest, kind="stable")  # of the episodes in the parts
        return np.concatenate(parts)[np.argsort(order)]

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Drop the episodes where ``running`` ``[B]`` is false."""
        self.nearest = self.nearest[running]
