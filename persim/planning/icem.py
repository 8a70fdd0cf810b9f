"""iCEM: the cross-entropy method made sample-efficient (Pinneri et al. 2020, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from persim.errors import InputError
from persim.planning.cem import to_box
from persim.planning.planner import (
    EliteSettings,
    Memory,
    Planner,
    PlannerSettings,
    Plans,
    best_rows,
    pick,
    shifted,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ICEMSettings(EliteSettings):
    """Settings of ``ICEM``, named as in the paper.

    Attributes:
        beta: colour of the noise along a plan; 0 is white, higher is slower.
        decay: gamma, by which the number of samples falls from round to round (never below twice the elites).
        keep: xi, share of the elites that compete again in the next round, and shifted at the next step.
        momentum: alpha, share of the old mean and spread that a refit keeps.
        spread: first standard deviation of each step, where the largest action is 1.

    Raises:
        InputError: a share outside [0, 1), a decay below 1, a negative colour or spread.
    """

    plans: int = 128
    horizon: int = 30
    elites: int = 10
    iterations: int = 3
    beta: float = 2.0
    decay: float = 1.25
    keep: float = 0.3
    momentum: float = 0.1
    spread: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("keep", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but it has to be at least 0 and below 1")
        if self.decay < 1:
            raise InputError(f"decay is {self.decay}, but it has to be at least 1")
        if self.beta < 0 or self.spread <= 0:
            raise InputError(
                f"beta is {self.beta} and spread {self.spread}, but beta has to be at least 0 and spread positive"
            )


def coloured_noise(beta: float, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Gaussian noise of unit variance along the last axis with power falling as frequency ** -beta.

    After Timmer and Koenig (1995); ``beta`` 0 is white noise.
    """
    steps = shape[-1]
    frequency = np.maximum(np.fft.rfftfreq(steps), 1 / steps)
    scale = frequency ** (-beta / 2)
    size = (*shape[:-1], len(scale))
    real, imaginary = rng.standard_normal(size) * scale, rng.standard_normal(size) * scale
    for edge in [0] + ([-1] if steps % 2 == 0 else []):  # these frequencies have no phase
        real[..., edge] *= np.sqrt(2)
        imaginary[..., edge] = 0
    weights = np.full(len(scale), 2.0) * scale**2
    weights[0] = scale[0] ** 2
    if steps % 2 == 0:
        weights[-1] = scale[-1] ** 2
    spread = np.sqrt(2 * weights.sum()) / steps
    return np.asarray(np.fft.irfft(real + 1j * imaginary, n=steps) / spread)


class ICEM(Planner):
    """CEM with coloured noise, kept and shifted elites, fewer samples each round, and the mean at the last."""

    settings_type: ClassVar[type[PlannerSettings]] = ICEMSettings
    spaces = (gym.spaces.Box,)
    _settings: ICEMSettings
    _space: gym.spaces.Box

    def search(
        self, states: Floats, agents: NDArray[np.int64], memory: Memory | None, rng: np.random.Generator
    ) -> tuple[Plans, Memory]:
        """See ``Planner``."""
        s, space = self._settings, self._space
        mean = np.zeros((len(states), s.horizon, *space.shape)) if memory is None else memory[0]
        kept = mean[:, None][:, :0] if memory is None else memory[1]
        spread = np.full_like(mean, s.spread)
        n_kept = int(s.keep * s.elites)
        for iteration in range(s.iterations):
            count = max(int(s.plans * s.decay**-iteration), min(2 * s.elites, s.plans))
            samples = [self._samples(mean, spread, count, rng), kept]
            if iteration == s.iterations - 1:
                samples.append(mean[:, None])
            plans = np.concatenate(samples, axis=1)
            scores = self._scorer(states, agents, to_box(space, plans), s.elites)
            elites = pick(plans, best_rows(scores, s.elites))
            kept = elites[:, :n_kept]
            mean = s.momentum * mean + (1 - s.momentum) * elites.mean(1)
            spread = s.momentum * spread + (1 - s.momentum) * elites.std(1)
        fresh = rng.uniform(-1, 1, size=kept[:, :, 0].shape)
        moved = np.concatenate([kept[:, :, 1:], fresh[:, :, None]], axis=2)
        return to_box(space, elites[:, 0]), (shifted(mean, mean[:, -1]), moved)

    def _samples(self, mean: Floats, spread: Floats, count: int, rng: np.random.Generator) -> Floats:
        episodes, horizon, *action = mean.shape
        noise = coloured_noise(self._settings.beta, (episodes, count, *action, horizon), rng)
        return np.asarray((mean[:, None] + spread[:, None] * np.moveaxis(noise, -1, 2)).clip(-1, 1))
