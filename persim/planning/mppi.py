"""MPPI: the mean of random plans, weighted by the exponential of their returns (Williams et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box
from numpy.random import Generator

from persim.envs.spec import Agents, Array
from persim.errors import check_between
from persim.planning.cem import to_box
from persim.planning.planner import Found, Memory, Planner, PlannerSettings, shifted
from persim.seeding import drawn


@dataclass(frozen=True)
class MPPISettings(PlannerSettings):
    """Settings of ``MPPI``.

    Attributes:
        temperature: lambda, in units of the return; a smaller one gives the best plans more weight.
        spread: standard deviation of the noise, for actions in [-1, 1].

    Raises:
        InputError: one of them is not positive.
    """

    plans: int = 200
    horizon: int = 30
    temperature: float = 1.0
    spread: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "spread"):
            check_between(name, getattr(self, name), 0, np.inf)


class MPPI(Planner):
    """Adds white noise to the previous plan, shifted by one step, and returns the weighted mean of the results."""

    settings_type = MPPISettings
    spaces = (Box,)
    _settings: MPPISettings
    _space: Box

    def search(self, states: Array, agents: Agents, memory: Memory | None, rng: Generator) -> Found:
        """See ``Planner``."""
        s, space = self._settings, self._space
        mean = np.zeros((len(states), s.horizon, *space.shape)) if memory is None else memory[0]
        noise = drawn(rng, len(states), lambda g, n: g.normal(scale=s.spread, size=(n, s.plans, *mean.shape[1:])))
        noise[:, 0] = 0  # the first candidate is the previous plan
        plans = self._with_imitation((mean[:, None] + noise).clip(-1, 1))
        weights = softmax(self._scorer(states, agents, to_box(space, plans)) / s.temperature)
        mean = np.einsum("bp,bp...->b...", weights, plans)
        return to_box(space, mean), (shifted(mean, np.zeros_like(mean[:, 0])),)


def softmax(scores: Array) -> Array:
    """Turns scores ``[B, P]`` into weights ``[B, P]`` that sum to 1 over P; if all are -inf, the first weight is 1."""
    lost = np.isneginf(scores).all(1)
    scores = scores.copy()
    scores[lost, 0] = 0
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True))
