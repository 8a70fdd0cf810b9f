"""BCQ and CQL as methods: one policy for all agents (-P), or one for each test agent (-A)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from baselines.common.chunks import Trainee, check_finite
from baselines.common.generators import torch_seed
from baselines.model_free.settings import OfflineSettings, chosen_settings
from baselines.policy_method import PolicyMethod
from persim import seeding
from persim.data.policies import BatchPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.methods import Options, Part
from persim.storage.store import Arrays

if TYPE_CHECKING:  # d3rlpy takes seconds to import: only those who train or act wait for it
    from baselines.model_free.learner import Learner, Transitions

_CHUNKS = 100  # points of a curve


class ModelFree(PolicyMethod):
    """BCQ or CQL, as its settings say; a part is one policy."""

    settings: OfflineSettings

    @classmethod
    def maker(cls, algorithm: str, *, pooled: bool) -> Callable[[EnvSpec, Options], ModelFree]:
        """A function that builds ``bcq`` or ``cql`` as the options of a command ask."""
        return lambda spec, options: cls(chosen_settings(algorithm, spec, options), spec, pooled=pooled)

    def part_seconds(self, spec: EnvSpec, agents: int, steps: float) -> float:
        """Estimate the updates of one policy."""
        return self.settings.updates * self.settings.update_ms / 1e3

    def _training(self, part: Part) -> Trainee:
        from baselines.model_free.learner import Learner, Transitions

        spec, rows = part.spec, Transitions(self._sources(part), part.device)
        init = seeding.sequence(part.seed, "init", part.number)
        learner = Learner(self.settings, spec.state_dim, spec.action_space, init, part.device)
        if self.settings.normalised:
            learner.scale = rows.normalise()
        return Updates(learner, rows, self.settings, (part.seed, part.number))

    def _sources(self, part: Part) -> list[Trajectories]:
        """Return what a part learns from."""
        return [self.rows_of(part)]

    def _actor(self, arrays: Arrays, spec: EnvSpec, device: str) -> BatchPolicy:
        from baselines.model_free.learner import Learner

        learner = Learner(self.settings, spec.state_dim, spec.action_space, np.random.SeedSequence(0), device)
        learner.load(arrays)
        return learner


class Updates:
    """A learner with its rows; see ``baselines.common.chunks.Trainee``."""

    def __init__(self, learner: Learner, rows: Transitions, settings: OfflineSettings, seeds: tuple[int, int]) -> None:
        self.learner, self._rows, self._settings, self._seeds = learner, rows, settings, seeds
        self._size = math.ceil(settings.updates / _CHUNKS)
        self.chunks = math.ceil(settings.updates / self._size)
        self.state, self.load_state, self.arrays = learner.state, learner.load_state, learner.arrays

    def advance(self, chunk: int) -> tuple[int, dict[str, float]]:
        """Makes the updates of one chunk; the values are the means of their losses.

        Raises:
            DivergenceError: a loss became non-finite.
        """
        start = chunk * self._size
        stop = min(start + self._size, self._settings.updates)
        seed = seeding.sequence(*self._seeds, "batches", start)
        size = (stop - start, self._settings.batch_size)
        chosen = torch.from_numpy(np.random.default_rng(seed).integers(len(self._rows), size=size))
        sums: dict[str, float] = {}
        with torch_seed(seed):
            for step, batch in enumerate(chosen, start + 1):
                for name, value in self.learner.update(self._rows.batch(batch), step).items():
                    check_finite(name, value, step)
                    sums[name] = sums.get(name, 0.0) + value
        return stop, {name: value / (stop - start) for name, value in sums.items()}
