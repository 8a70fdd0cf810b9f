"""The policy after training: a small net that needs no stable-baselines3, and draws its actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from persim.data.trajectories import ActionSpace
from persim.storage.store import Arrays


class StochasticActor:
    """Draws actions as the evaluation of the code that the paper names does, rather than take the likeliest.

    Args:
        arrays: ``<layer>.weight [out, in]`` and ``<layer>.bias``, first layer first, and ``log_spread [A]`` of a box.
        space: of the actions.
    """

    def __init__(self, arrays: Arrays, space: ActionSpace) -> None:
        count = sum(name.endswith(".weight") for name in arrays)
        self._layers = [(arrays[f"{layer}.weight"], arrays[f"{layer}.bias"]) for layer in range(count)]
        self._spread = np.exp(arrays.get("log_spread", np.zeros(0)))
        self._space = space

    def head(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """Unnormalised log-probabilities ``[B, A]`` of discrete actions, or the mean of a normal distribution."""
        hidden = np.asarray(states, dtype=np.float32)
        for weight, bias in self._layers[:-1]:
            hidden = np.tanh(hidden @ weight.T + bias)
        weight, bias = self._layers[-1]
        return np.asarray(hidden @ weight.T + bias)

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Actions ``[B]`` or ``[B, A]``, those of a box clipped to it."""
        head = self.head(states)
        if isinstance(self._space, gym.spaces.Box):
            drawn = head + self._spread * rng.standard_normal(head.shape)
            return np.asarray(drawn.clip(self._space.low, self._space.high), dtype=np.float32)
        return np.asarray((head + rng.gumbel(size=head.shape)).argmax(axis=1), dtype=np.int64)
