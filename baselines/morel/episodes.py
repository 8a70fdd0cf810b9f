"""Many episodes in the pessimistic MDP at once, as stable-baselines3 wants an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from baselines.common.snapshots import copy_of
from baselines.morel.mdp import PessimisticMDP
from baselines.morel.quiet import VecEnv
from persim.data.trajectories import ActionSpace
from persim.storage.store import Arrays

Step = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


class Episodes(VecEnv):  # type: ignore[misc]  # stable-baselines3 is untyped
    """B episodes; one that ends begins anew, in another state.

    Args:
        mdp: where they take place.
        count: B.
        state_dim: S.
        space: of the actions.
        horizon: steps after which an episode is cut off; that is no end of the MDP.
        ignores_ends: whether to keep the ends to itself.
        device: of the MDP.

    Attributes:
        rng: of the start states.
        totals: steps, rewards, episodes that ended, and those of them that the detector ended, since ``count_anew``.
    """

    def __init__(
        self,
        mdp: PessimisticMDP,
        count: int,
        state_dim: int,
        space: ActionSpace,
        horizon: int,
        *,
        ignores_ends: bool = False,
        device: str = "cpu",
    ) -> None:
        # Unbounded: the model knows nothing of the environment's bounds.
        super().__init__(count, gym.spaces.Box(-np.inf, np.inf, (state_dim,)), space)
        self._mdp, self._horizon, self._ignores_ends, self._device = mdp, horizon, ignores_ends, device
        self.rng = np.random.default_rng(0)
        self._states, self._steps = torch.zeros(count, state_dim), np.zeros(count, np.int64)
        self._actions = torch.zeros(0)
        self.count_anew()

    def count_anew(self) -> None:
        """Sets ``totals`` to zero."""
        self.totals = np.zeros(4)

    def reset(self) -> NDArray[np.float32]:
        """Begins all of them; returns their states ``[B, S]``."""
        self._states, self._steps = self._mdp.start(self.num_envs, self.rng), np.zeros(self.num_envs, np.int64)
        return copy_of(self._states)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Says what is played, ``[B]`` or ``[B, A]``."""
        self._actions = torch.from_numpy(actions).to(self._device)

    def step_wait(self) -> Step:
        """Plays it; returns states (of the next episode where one has ended), rewards, ends, and cut-offs."""
        outcome = self._mdp.step(self._states, self._actions)
        self._steps += 1
        ended, rewards = copy_of(outcome.ended), copy_of(outcome.rewards)
        cut = (self._steps >= self._horizon) & ~ended
        over = ended | cut
        self.totals += len(rewards), rewards.sum(), over.sum(), copy_of(outcome.halted).sum()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(cut):  # so that the value of the state stands for what would have followed
            infos[row] = {"TimeLimit.truncated": True, "terminal_observation": copy_of(outcome.following[row])}
        self._states = outcome.following
        if over.any():
            rows = torch.from_numpy(np.flatnonzero(over)).to(self._device)
            self._states[rows] = self._mdp.start(len(rows), self.rng)
            self._steps[over] = 0
        return copy_of(self._states), rewards, np.zeros_like(over) if self._ignores_ends else over, infos

    def state(self) -> Arrays:
        """Where the episodes stand."""
        return {"states": copy_of(self._states), "steps": self._steps.copy()}

    def load_state(self, arrays: Arrays) -> None:
        """Goes on from ``state``."""
        self._states, self._steps = torch.from_numpy(arrays["states"]).to(self._device), arrays["steps"].copy()

    def close(self) -> None:
        """There is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Nobody asks for more than ``render_mode``, and there are no pictures."""
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Episodes have no attributes of their own."""
        raise NotImplementedError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **options: Any) -> list[Any]:
        """Episodes have no methods of their own."""
        raise NotImplementedError(method_name)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> Sequence[bool]:
        """They are not."""
        return [False] * self.num_envs
