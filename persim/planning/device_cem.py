"""The cross-entropy method for continuous actions on a GPU: plans are drawn, scored and refitted where the model is.

For 100 episodes a round draws 3.6 million numbers, which one core does in longer than the GPU takes to score the plans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.random import Generator
from torch import Tensor

from persim.envs.spec import Agents, Array
from persim.planning.cem import CEM, to_box
from persim.planning.planner import Found, Memory, shifted
from persim.planning.prepared import PreparedScorer
from persim.seeding import Streams, drawn

Uniform: TypeAlias = Callable[[tuple[int, ...]], Tensor]


def device_uniform(rng: Generator, episodes: int, device: torch.device) -> Uniform:
    """Makes a source of uniform numbers ``[B, ...]`` in [0, 1) on a device, given the shape ``[...]`` for each episode.

    It takes one seed from the planner's generator; with ``Streams`` one from each group, so that a group draws what it
    would draw alone. The numbers are not those that the planner's generator would draw.
    """
    seeds = drawn(rng, episodes, lambda g, n: g.integers(2**63, size=1))
    counts = [count for count in rng.counts if count] if isinstance(rng, Streams) else [episodes]
    sources = [torch.Generator(device).manual_seed(seed) for seed in seeds.tolist()]

    def draw(shape: tuple[int, ...]) -> Tensor:
        groups = zip(sources, counts, strict=True)
        return torch.cat([torch.rand(n, *shape, dtype=torch.double, device=device, generator=g) for g, n in groups])

    return draw


def device_truncated_normal(mean: Tensor, spread: Tensor, plans: int, uniform: Uniform) -> Tensor:
    """Draws P samples ``[B, P, ...]`` as ``persim.planning.cem.truncated_normal`` does, given means and deviations.

    These are ``[B, ...]``. In double precision: in single, ranks near 1 would be rounded to 1, the end of the box.
    """
    low, high = (torch.special.ndtr((edge - mean) / spread).unsqueeze(1) for edge in (-1.0, 1.0))
    normal: Tensor = torch.special.ndtri(low + uniform((plans, *mean.shape[1:])) * (high - low))
    return (mean.unsqueeze(1) + spread.unsqueeze(1) * normal).clamp(-1, 1)


class DeviceCEM(CEM):
    """``CEM`` with continuous actions on a ``PreparedScorer``, whose device it draws and refits on.

    Plans may be deviations from an imitated policy: the scorer adds it in its rollouts, also in those of a CUDA graph.
    """

    _scorer: PreparedScorer

    def _continuous(self, states: Array, agents: Agents, memory: Memory | None, rng: Generator, space: Box) -> Found:
        s, device, episodes = self._settings, self._scorer.device, len(states)
        shape = (episodes, s.horizon, *space.shape)
        first = drawn(rng, episodes, lambda g, n: g.uniform(*s.spread, size=n)).reshape(-1, *[1] * (len(shape) - 1))
        uniform = device_uniform(rng, episodes, device)
        mean, spread, low, high = (
            torch.from_numpy(np.array(part, dtype=np.float64)).to(device)
            for part in (np.zeros(shape) if memory is None else memory[0], first, space.low, space.high)
        )
        spread, index = spread.expand(shape), torch.arange(episodes, device=device).unsqueeze(1)
        for iteration in range(1 + s.iterations):
            samples = self._with_imitation(device_truncated_normal(mean, spread, s.plans, uniform))
            plans = ((low + high) / 2 + samples * (high - low) / 2).float()
            best = self._scorer.scores(states, agents, plans).argsort(dim=1, descending=True, stable=True)
            elites = samples[index, best[:, : s.elites]]
            kept = s.smoothing if iteration else 0.0
            elite_mean = elites.mean(1)
            mean = kept * mean + (1 - kept) * elite_mean
            deviation = elites.std(1, correction=int(s.elites > 1))
            spread = (kept * spread + (1 - kept) * deviation).clamp(min=1e-6)
        start = mean.cpu().numpy()
        return to_box(space, elite_mean.cpu().numpy()), (shifted(start, np.zeros_like(start[:, 0])),)
