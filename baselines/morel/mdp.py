"""The pessimistic MDP: the ensemble's mean, and a penalty and the end wherever its members disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from baselines.morel.dynamics import Ensemble, disagreement
from baselines.morel.settings import PessimismSettings
from persim.envs.spec import EnvSpec

BLOCK = 8192


@dataclass(frozen=True)
class Outcome:
    """What follows ``[B]`` states.

    Attributes:
        following: next states ``[B, S]``.
        rewards: ``[B]``.
        halted: the detector fired ``[B]``.
        ended: no step follows, because of that or (if asked for) because the environment's own episode ends ``[B]``.
    """

    following: Tensor
    rewards: Tensor
    halted: Tensor
    ended: Tensor


class PessimisticMDP:
    """Remembers nothing: episodes, and their limit of steps, are the caller's.

    Args:
        ensemble: of the dynamics.
        starts: states of the data ``[M, S]``; episodes start in any of them.
        threshold: the largest disagreement that passes.
        settings: the penalty and the switches.
        spec: says where episodes end, if they do.
    """

    def __init__(
        self, ensemble: Ensemble, starts: Tensor, threshold: float, settings: PessimismSettings, spec: EnvSpec
    ) -> None:
        self._ensemble, self.threshold, self._settings = ensemble, threshold, settings
        self._starts = ensemble.states.normalise(starts) if settings.normalises_starts_twice else starts
        self._terminated = spec.terminated if settings.terminates else None

    def start(self, count: int, rng: np.random.Generator) -> Tensor:
        """So many start states ``[B, S]``."""
        rows = torch.from_numpy(rng.integers(len(self._starts), size=count))
        return self._starts[rows.to(self._starts.device)]

    @torch.no_grad()
    def step(self, states: Tensor, actions: Tensor) -> Outcome:
        """One step from each of ``[B, S]`` by actions ``[B]`` or ``[B, A]``."""
        outputs = self._ensemble(self._ensemble.inputs(states, actions))
        mean = self._ensemble.outputs.restore(outputs.mean(0))
        following = states + mean[:, :-1]
        halted = ~(disagreement(outputs) <= self.threshold)  # so that NaN halts, too
        rewards = torch.where(halted, self._settings.penalty, mean[:, -1])
        ended = halted if self._terminated is None else halted | self._terminated(following)
        return Outcome(following, rewards, halted, ended)


@torch.no_grad()
def halting_threshold(ensemble: Ensemble, inputs: Tensor, settings: PessimismSettings) -> float:
    """The largest disagreement that passes; ``inputs [M, S + A]`` are those of the data."""
    if settings.rule == "fixed":
        return settings.threshold
    found = torch.cat([disagreement(ensemble(block)) for block in torch.split(inputs, BLOCK)])
    return float(np.percentile(found.cpu().numpy(), settings.percentile))
