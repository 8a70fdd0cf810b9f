"""iCEM: the cross-entropy method made sample-efficient (Pinneri et al. 2020, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box
from numpy.random import Generator

from persim.envs.spec import Agents, Array
from persim.errors import check_between
from persim.planning.cem import to_box
from persim.planning.planner import EliteSettings, Found, Memory, Planner, best_rows, pick, shifted
from persim.seeding import drawn


@dataclass(frozen=True)
class ICEMSettings(EliteSettings):
    """Settings of ``ICEM``, named as in the paper.

    Attributes:
        beta: exponent of the coloured noise along a plan; 0 is white noise, a higher one changes more slowly.
        decay: gamma, by which the number of samples is divided in each iteration, down to twice the elites.
        keep: xi, share of the elites that compete again in the next iteration and, shifted, at the next step.
        momentum: alpha, share of the old mean and standard deviation that a refit keeps.
        spread: initial standard deviation, for actions in [-1, 1].

    Raises:
        InputError: ``keep`` or ``momentum`` is outside [0, 1), or another number is too low.
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
            check_between(name, getattr(self, name), 0, 1, closed=True)
        check_between("decay", self.decay, 1, np.inf, closed=True)
        check_between("beta", self.beta, 0, np.inf, closed=True)
        check_between("spread", self.spread, 0, np.inf)


def coloured_noise(beta: float, shape: tuple[int, ...], rng: Generator) -> Array:
    """Draws Gaussian noise ``shape`` of unit variance whose power along the last axis falls as frequency ** -beta.

    The method is that of Timmer and Koenig (1995); ``beta`` 0 gives white noise.
    """
    steps = shape[-1]
    frequency = np.maximum(np.fft.rfftfreq(steps), 1 / steps)
    scale = frequency ** (-beta / 2)
    size = (*shape[:-1], len(scale))
    real, imaginary = rng.standard_normal(size) * scale, rng.standard_normal(size) * scale
    weights = 2 * scale**2
    for edge in [0, -1] if steps % 2 == 0 else [0]:  # the coefficients of these frequencies are real
        real[..., edge] *= np.sqrt(2)
        imaginary[..., edge] = 0
        weights[edge] = scale[edge] ** 2
    spread = np.sqrt(2 * weights.sum()) / steps
    return np.asarray(np.fft.irfft(real + 1j * imaginary, n=steps) / spread)


class ICEM(Planner):
    """CEM with coloured noise, elites that stay, and fewer samples in each iteration; the last also tries the mean."""

    settings_type = ICEMSettings
    spaces = (Box,)
    _settings: ICEMSettings
    _space: Box

    def search(self, states: Array, agents: Agents, memory: Memory | None, rng: Generator) -> Found:
        """See ``Planner``."""
        s, space = self._settings, self._space
        mean = np.zeros((len(states), s.horizon, *space.shape)) if memory is None else memory[0]
        kept = mean[:, None][:, :0] if memory is None else memory[1]
        spread = np.full_like(mean, s.spread)
        for iteration in range(s.iterations):
            count = max(int(s.plans * s.decay**-iteration), min(2 * s.elites, s.plans))
            others = [kept, mean[:, None]] if iteration == s.iterations - 1 else [kept]
            plans = np.concatenate([self._with_imitation(self._samples(mean, spread, count, rng)), *others], axis=1)
            scores = self._scorer(states, agents, to_box(space, plans), s.elites)
            elites = pick(plans, best_rows(scores, s.elites))
            kept = elites[:, : int(s.keep * s.elites)]
            mean = s.momentum * mean + (1 - s.momentum) * elites.mean(1)
            spread = s.momentum * spread + (1 - s.momentum) * elites.std(1)
        fresh = drawn(rng, len(kept), lambda g, n: g.uniform(-1, 1, size=(n, *kept[0, :, 0].shape)))
        moved = np.concatenate([kept[:, :, 1:], fresh[:, :, None]], axis=2)
        return to_box(space, elites[:, 0]), (shifted(mean, mean[:, -1]), moved)

    def _samples(self, mean: Array, spread: Array, count: int, rng: Generator) -> Array:
        """Draws ``[B, count, H, A]`` around the mean ``[B, H, A]``."""
        episodes, horizon, *action = mean.shape
        beta = self._settings.beta
        noise = drawn(rng, episodes, lambda g, n: coloured_noise(beta, (n, count, *action, horizon), g))
        return np.asarray((mean[:, None] + spread[:, None] * np.moveaxis(noise, -1, 2)).clip(-1, 1))
