"""The two stages of MOReL: first the dynamics, then a policy in the pessimistic MDP of these dynamics."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from baselines.common.snapshots import below, under
from baselines.morel.dynamics import DynamicsTraining, on
from baselines.morel.policy import PolicyTraining
from baselines.morel.settings import MorelSettings
from persim import seeding
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.storage.store import Arrays

_DYNAMICS_CHUNKS, _POLICY_CHUNKS = 20, 80  # points of a curve


class Stages:
    """Both stages, chunk by chunk; see ``baselines.common.chunks.Trainee``.

    Args:
        settings: of both stages.
        data: the data to learn from.
        spec: the environment.
        seeds: seed of the cell, and number of the part.
        device: device of the dynamics.
    """

    def __init__(
        self, settings: MorelSettings, data: Trajectories, spec: EnvSpec, seeds: tuple[int, int], device: str
    ) -> None:
        self._settings, self._data, self._spec, self._seeds, self._device = settings, data, spec, seeds, device
        self._dynamics = DynamicsTraining(settings.dynamics, data, seeds, device)
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
            starts = on(self._device, self._data.observation)
            threshold = halting_threshold(ensemble, self._dynamics.inputs, pessimism)
            episodes = Episodes(
                PessimisticMDP(ensemble, starts, threshold, pessimism, self._spec),
                ppo.episodes,
                self._spec.state_dim,
                self._spec.action_space,
                pessimism.horizon,
                ignores_ends=ppo.ignores_ends,
                device=self._device,
            )
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

    def state(self) -> Arrays:
        """The dynamics (in the second stage without Adam's moments), and in the second stage the policy."""
        dynamics = self._dynamics.state()
        if self._policy is None:
            return under("dynamics/", dynamics)
        finished = {name: value for name, value in dynamics.items() if not name.startswith("adam/")}
        return {**under("dynamics/", finished), **under("policy/", self._policy.state())}

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""
        self._dynamics.load_state(below("dynamics/", arrays))
        if policy := below("policy/", arrays):
            self.policy.load_state(policy)


def _pieces(total: int, most: int) -> list[tuple[int, int]]:
    """Cuts the updates 0 to ``total`` into at most ``most`` equal ranges (start, stop)."""
    return list(pairwise(np.linspace(0, total, min(most, total) + 1).round().astype(int).tolist()))
