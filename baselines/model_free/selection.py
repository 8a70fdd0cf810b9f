"""Keeps the best policy seen during training, judged in the agent's simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.common.snapshots import below, under
from baselines.model_free.method import Updates
from persim.data.policies import BatchPolicy
from persim.storage.store import Arrays

TRIALS = 10  # policies judged during a training, evenly spaced

Judge = Callable[[BatchPolicy], float]


class _Policy(BatchPolicy):
    def __init__(self, updates: Updates) -> None:
        self._learner = updates.learner

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        return self._learner.act(states, rng)


class Selection:
    """A training that ends with its best policy instead of its last; see ``baselines.common.chunks.Trainee``.

    Offline methods pass their best policy and get worse, and only the true environment would tell when.

    Args:
        updates: the training.
        judge: returns a policy's score, the higher the better; of equal policies the later is kept.
    """

    def __init__(self, updates: Updates, judge: Judge) -> None:
        self._updates, self._judge, self.chunks = updates, judge, updates.chunks
        self._best: Arrays = {}
        self._score = -np.inf

    def advance(self, chunk: int) -> tuple[int, dict[str, float]]:
        """Trains one chunk and, at ``TRIALS`` evenly spaced chunks, judges the policy."""
        reached, losses = self._updates.advance(chunk)
        done = (chunk + 1) * TRIALS // self.chunks
        if done == chunk * TRIALS // self.chunks:
            return reached, losses
        score = self._judge(_Policy(self._updates))
        if score >= self._score:
            self._best, self._score = self._updates.arrays(), score
        return reached, {**losses, "simulated_return": score}

    def arrays(self) -> Arrays:
        """The weights of the best policy."""
        return self._best

    def state(self) -> Arrays:
        """The state of the training, and the best policy so far with its score ``[1]``."""
        score = {"score": np.array([self._score])} if self._best else {}
        return {**under("training/", self._updates.state()), **under("best/", self._best), **score}

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""
        self._updates.load_state(below("training/", arrays))
        self._best = below("best/", arrays)
        self._score = float(arrays["score"][0]) if self._best else -np.inf
