"""The cross-entropy method (CEM): refit a distribution over plans to its best samples, iteration by iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.random import Generator
from numpy.typing import NDArray

from persim.envs.spec import Agents, Array
from persim.errors import InputError, check_between
from persim.planning.planner import EliteSettings, Found, Memory, Planner, best_rows, pick, shifted
from persim.seeding import drawn


@dataclass(frozen=True)
class CEMSettings(EliteSettings):
    """Settings of ``CEM``; the defaults are those of the paper in HalfCheetah (Appendix D.1) and of its code.

    Attributes:
        smoothing: share of the old mean and standard deviation that a refit keeps.
        spread: range from which each episode's initial standard deviation is drawn, for actions in [-1, 1].

    Raises:
        InputError: ``smoothing`` is outside [0, 1), or ``spread`` is not two ordered positive numbers.
    """

    plans: int = 200
    horizon: int = 30
    smoothing: float = 0.1
    spread: tuple[float, float] = (0.3, 0.6)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("smoothing", self.smoothing, 0, 1, closed=True)
        if not 0 < self.spread[0] <= self.spread[1]:
            raise InputError(f"spread is {self.spread}, but it has to be two positive numbers, the lower first")


def truncated_normal(mean: Array, spread: Array, plans: int, rng: Generator) -> Array:
    """Draws P samples ``[B, P, ...]`` of normal distributions truncated to [-1, 1], by inverting their distributions.

    Their means and standard deviations are ``[B, ...]``.
    """
    low, high = (torch.special.ndtr(torch.from_numpy((edge - mean) / spread)).numpy() for edge in (-1.0, 1.0))
    uniform = drawn(rng, len(mean), lambda g, n: g.uniform(size=(n, plans, *mean.shape[1:])))
    ranks = torch.from_numpy(low[:, None] + uniform * (high - low)[:, None])
    samples = mean[:, None] + spread[:, None] * torch.special.ndtri(ranks).numpy()
    return np.asarray(samples.clip(-1, 1))


def to_box(space: Box, unit: Array) -> NDArray[np.float32]:
    """Rescales actions ``[..., A]`` from [-1, 1] to the bounds of the box."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return ((low + high) / 2 + unit * (high - low) / 2).astype(np.float32)


class CEM(Planner):
    """The paper's planner of continuous actions, and a counterpart for discrete ones.

    *Continuous* (following the paper's code where the text is silent): plans are samples of a normal
    distribution truncated to the box. After the first iteration mean and standard deviation are those of
    the elites; each of the ``iterations`` after it smooths both. The result is the mean of the last
    elites. The next search starts from the smoothed mean, shifted by one step and ended by 0.

    *Discrete*: each step has a probability for every action, refitted and smoothed in the same way. The
    result is the best plan of all iterations. The next search starts half from this plan, shifted by one
    step, and half from the uniform distribution.
    """

    settings_type = CEMSettings
    _settings: CEMSettings

    def search(self, states: Array, agents: Agents, memory: Memory | None, rng: Generator) -> Found:
        """See ``Planner``."""
        if isinstance(self._space, Discrete):
            return self._discrete(states, agents, memory, rng, int(self._space.n))
        return self._continuous(states, agents, memory, rng, self._space)

    def _continuous(self, states: Array, agents: Agents, memory: Memory | None, rng: Generator, space: Box) -> Found:
        s = self._settings
        shape = (len(states), s.horizon, *space.shape)
        mean = np.zeros(shape) if memory is None else memory[0]
        first = drawn(rng, len(states), lambda g, n: g.uniform(*s.spread, size=n)).reshape(-1, *[1] * (len(shape) - 1))
        spread = np.broadcast_to(first, shape)
        for iteration in range(1 + s.iterations):
            samples = self._with_imitation(truncated_normal(mean, spread, s.plans, rng))
            scores = self._scorer(states, agents, to_box(space, samples), s.elites)
            elites = pick(samples, best_rows(scores, s.elites))
            kept = s.smoothing if iteration else 0.0
            elite_mean = elites.mean(1)
            mean = kept * mean + (1 - kept) * elite_mean
            spread = np.maximum(kept * spread + (1 - kept) * elites.std(1, ddof=int(s.elites > 1)), 1e-6)
        return to_box(space, elite_mean), (shifted(mean, np.zeros_like(mean[:, 0])),)

    def _discrete(self, states: Array, agents: Agents, memory: Memory | None, rng: Generator, n_actions: int) -> Found:
        s = self._settings
        chances = np.full((len(states), s.horizon, n_actions), 1 / n_actions)
        best, best_score = np.zeros((len(states), s.horizon), np.int64), np.full(len(states), -np.inf)
        if memory is not None:
            best = memory[0]
            chances = (chances + one_hot(best, n_actions)) / 2
        for iteration in range(1 + s.iterations):
            plans = categorical(chances, s.plans, rng)
            plans[:, 0] = best  # the best plan so far competes again
            scores = self._scorer(states, agents, plans, s.elites)
            rows = best_rows(scores, s.elites)
            first = np.take_along_axis(scores, rows[:, :1], 1)[:, 0]
            best = np.where((first > best_score)[:, None], pick(plans, rows[:, 0]), best)
            best_score = np.maximum(best_score, first)
            kept = s.smoothing if iteration else 0.0
            chances = kept * chances + (1 - kept) * one_hot(pick(plans, rows), n_actions).mean(1)
        last = drawn(rng, len(states), lambda g, n: g.integers(n_actions, size=n))
        return best, (shifted(best, last),)


def one_hot(plans: NDArray[Any], n_actions: int) -> Array:
    """Encodes discrete actions ``[...]`` one-hot, ``[..., n_actions]``."""
    return np.asarray(np.eye(n_actions)[plans])


def categorical(chances: Array, plans: int, rng: Generator) -> NDArray[np.int64]:
    """Draws P plans ``[B, P, H]``, each step from its own probabilities ``[B, H, n_actions]``."""
    edges = chances.cumsum(-1)[:, None, :, :-1]
    uniform = drawn(rng, len(chances), lambda g, n: g.uniform(size=(n, plans, chances.shape[1], 1)))
    return np.asarray((uniform >= edges).sum(-1))
