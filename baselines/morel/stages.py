"""The two stages of MOReL one after the other: dynamics, then a policy in the MDP that they make."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from baselines.common.snapshots import below, under
from baselines.morel.dynamics import on
from baselines.morel.mdp import PessimisticMDP, halting_threshold
from baselines.morel.settings import MorelSettings
from baselines.morel.training import DynamicsTraining
from persim import seeding
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.storage.store import Arrays

if TYPE_CHECKING:  # stable-baselines3 takes seconds to import: only those who train wait for it
    from baselines.morel.policy import PolicyTraining

_DYNAMICS_CHUNKS, _POLICY_CHUNKS = 20, 80  # points of a curve


class Stages:
    """What ``baselines.common.chunks.train`` trains.

    Args:
        settings: of both stages.
        data: to learn from.
        spec: the environment.
        seeds: of the cell, and the number of the part.
        device: of the dynamics.
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
        """That of the second stage; made when the first is finished."""
        if self._policy is None:
            from baselines.morel.episodes import Episodes
            from baselines.morel.policy import PolicyTraining

            pessimism, ppo = self._settings.pessimism, self._settings.ppo
            episodes = Episodes(
                self._mdp(),
                ppo.episodes,
                self._spec.state_dim,
                self._spec.action_space,
                pessimism.horizon,
                ignores_ends=ppo.ignores_ends,
                device=self._device,
            )
            self._policy = PolicyTraining(ppo, episodes, seeding.sequence(*self._seeds, "policy"))
        return self._policy

    def _mdp(self) -> PessimisticMDP:
        starts = on(self._device, self._data.observation)
        pessimism, ensemble = self._settings.pessimism, self._dynamics.ensemble
        threshold = halting_threshold(ensemble, self._dynamics.inputs, pessimism)
        return PessimisticMDP(ensemble, starts, threshold, pessimism, self._spec)

    def advance(self, chunk: int) -> tuple[int, dict[str, float]]:
        """One chunk of either stage; see ``baselines.common.chunks.Trainee``."""
        if chunk < len(self._early):
            start, stop = self._early[chunk]
            return stop, {"dynamics_mse": self._dynamics.advance(start, stop)}
        start, stop = self._late[chunk - len(self._early)]
        seed = seeding.sequence(*self._seeds, "policy", start)
        return stop * self._settings.ppo.update_steps, self.policy.advance(start, stop, seed)

    def state(self) -> Arrays:
        """The dynamics, and in the second stage the policy; see ``baselines.common.chunks.Trainee``."""
        dynamics = self._dynamics.state()
        if self._policy is None:
            return under("dynamics/", dynamics)
        finished = {name: value for name, value in dynamics.items() if not name.startswith("adam/")}
        return {**under("dynamics/", finished), **under("policy/", self._policy.state())}

    def load_state(self, arrays: Arrays) -> None:
        """Goes on from ``state``."""
        self._dynamics.load_state(below("dynamics/", arrays))
        if policy := below("policy/", arrays):
            self.policy.load_state(policy)


def _pieces(total: int, most: int) -> list[tuple[int, int]]:
    """Cuts a number of updates into equal pieces, each with its start and its stop."""
    return list(pairwise(np.linspace(0, total, min(most, total) + 1).round().astype(int).tolist()))
