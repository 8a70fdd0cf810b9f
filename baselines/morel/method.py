"""MOReL as a method (Kidambi et al. 2020), built like the code that the paper used: its policy learns by PPO."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from baselines.common.snapshots import below, under
from baselines.morel.dynamics import DynamicsTraining, on
from baselines.morel.policy import PolicyTraining, StochasticActor
from baselines.morel.settings import BUDGETS, MorelSettings
from baselines.policy_method import PolicyMethod
from persim import seeding
from persim.data.policies import BatchPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.methods import Options, Part
from persim.storage.store import Arrays

# By width of the dynamics, milliseconds of one core: an update, and a step of the policy (docs/baselines.md).
_MS = {128: (2.7, 0.065), 512: (35.0, 0.15), 1024: (120.0, 0.35)}
_DYNAMICS_CHUNKS, _POLICY_CHUNKS = 20, 80  # points of a curve


class Morel(PolicyMethod):
    """A part is one policy, with the dynamics that it was trained in."""

    settings: MorelSettings

    @classmethod
    def maker(cls, *, pooled: bool) -> Callable[[EnvSpec, Options], Morel]:
        """A function that builds it as the options of a command ask."""
        return lambda spec, options: cls(MorelSettings.of(spec, **options.of(BUDGETS)), spec, pooled=pooled)

    def part_seconds(self, spec: EnvSpec, agents: int, steps: float) -> float:
        """Estimate the updates of the dynamics and the steps of the policy."""
        dynamics = self.settings.dynamics
        update_ms, step_ms = _MS[dynamics.width]
        batches = (agents if self.pooled else 1) * steps / dynamics.batch_size
        updates = max(dynamics.epochs * batches, dynamics.min_updates)
        return (updates * update_ms + self.settings.ppo.steps * step_ms) / 1e3

    def _training(self, part: Part) -> Stages:
        return Stages(self.settings, self.rows_of(part), part)

    def _actor(self, arrays: Arrays, spec: EnvSpec, device: str) -> BatchPolicy:
        return StochasticActor(arrays, spec.action_space)


class Stages:
    """The dynamics, then a policy in their pessimistic MDP, chunk by chunk; see ``baselines.common.chunks.Trainee``.

    Args:
        settings: of both stages.
        data: the data to learn from.
        part: gives the environment, the seeds and the device of the dynamics.
    """

    def __init__(self, settings: MorelSettings, data: Trajectories, part: Part) -> None:
        self._settings, self._data, self._part, self._seeds = settings, data, part, (part.seed, part.number)
        self._dynamics = DynamicsTraining(settings.dynamics, data, self._seeds, part.device)
        self._policy: PolicyTraining | None = None
        self._early = _pieces(self._dynamics.updates, _DYNAMICS_CHUNKS)
        self._late = _pieces(settings.ppo.updates, _POLICY_CHUNKS)
        self.chunks = len(self._early) + len(self._late)

    @property
    def policy(self) -> PolicyTraining:
        """The training of the second stage, set up at its first use, when the dynamics are finished."""
        if self._policy is None:
            # Here, since stable-baselines3 takes seconds to import: only those who train wait for it.
            from baselines.morel.mdp import Episodes, PessimisticMDP, halting_threshold

            pessimism, ppo, ensemble = self._settings.pessimism, self._settings.ppo, self._dynamics.ensemble
            threshold = halting_threshold(ensemble, self._dynamics.inputs, pessimism)
            starts = on(self._part.device, self._data.observation)
            mdp = PessimisticMDP(ensemble, starts, threshold, pessimism, self._part.spec)
            episodes = Episodes(mdp, ppo.episodes, ignores_ends=ppo.ignores_ends)
            self._policy = PolicyTraining(ppo, episodes, seeding.sequence(*self._seeds, "policy"))
        return self._policy

    def advance(self, chunk: int) -> tuple[int, dict[str, float]]:
        """Trains one chunk of either stage; returns the step reached in that stage and its new curve values."""
        if chunk < len(self._early):
            start, stop = self._early[chunk]
            return stop, {"dynamics_mse": self._dynamics.advance(start, stop)}
        start, stop = self._late[chunk - len(self._early)]
        seed = seeding.sequence(*self._seeds, "policy", start)
        return stop * self._settings.ppo.update_steps, self.policy.advance(start, stop, seed)

    def arrays(self) -> Arrays:
        """The weights of the policy."""
        return self.policy.actor()

    def state(self) -> Arrays:
        """The dynamics (in the second stage without Adam's moments), and in the second stage the policy."""
        dynamics = self._dynamics.state()
        if self._policy is None:
            return under({"dynamics/": dynamics})
        finished = {name: value for name, value in dynamics.items() if not name.startswith("adam/")}
        return under({"dynamics/": finished, "policy/": self._policy.state()})

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""
        self._dynamics.load_state(below("dynamics/", arrays))
        if policy := below("policy/", arrays):
            self.policy.load_state(policy)


def _pieces(total: int, most: int) -> list[tuple[int, int]]:
    """Cuts the updates 0 to ``total`` into at most ``most`` equal ranges (start, stop)."""
    return list(pairwise(np.linspace(0, total, min(most, total) + 1).round().astype(int).tolist()))
