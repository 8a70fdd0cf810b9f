"""The pessimistic MDP: the ensemble's mean, with a penalty and an end wherever its members disagree.

``Episodes`` plays many episodes in it at once, as an environment of stable-baselines3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.snapshots import copy_of
from baselines.morel.dynamics import Ensemble, disagreement
from baselines.morel.quiet import VecEnv
from baselines.morel.settings import PessimismSettings
from persim.envs.spec import EnvSpec
from persim.storage.store import Arrays

BLOCK = 8192
Step = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


@dataclass(frozen=True)
class Outcome:
    """One step of B episodes.

    Attributes:
        following: next states ``[B, S]``.
        rewards: ``[B]``.
        halted: whether the detector fired ``[B]``.
        ended: whether the episode ends ``[B]``: the detector fired or, if asked for, the environment's own episode
            would end.
    """

    following: Tensor
    rewards: Tensor
    halted: Tensor
    ended: Tensor


class PessimisticMDP:
    """The MDP itself; it has no memory, so the caller keeps the states and limits the length of the episodes.

    Args:
        ensemble: the dynamics.
        starts: states of the data ``[T, S]``; an episode starts in any of them.
        threshold: the largest disagreement at which the detector does not fire.
        settings: the penalty, the horizon and the switches.
        spec: the environment.
    """

    def __init__(
        self, ensemble: Ensemble, starts: Tensor, threshold: float, settings: PessimismSettings, spec: EnvSpec
    ) -> None:
        self._ensemble, self.threshold, self.settings, self.spec = ensemble, threshold, settings, spec
        self._starts = ensemble.states.normalise(starts) if settings.normalises_starts_twice else starts
        self.device = starts.device

    def start(self, count: int, rng: np.random.Generator) -> Tensor:
        """Draws ``count`` start states ``[B, S]``."""
        rows = torch.from_numpy(rng.integers(len(self._starts), size=count))
        return self._starts[rows.to(self.device)]

    @torch.no_grad()
    def step(self, states: Tensor, actions: Tensor) -> Outcome:
        """One step from states ``[B, S]`` by actions ``[B]`` or ``[B, A]``."""
        outputs = self._ensemble(self._ensemble.inputs(states, actions))
        mean = self._ensemble.outputs.restore(outputs.mean(0))
        following = states + mean[:, :-1]
        halted = ~(disagreement(outputs) <= self.threshold)  # so that NaN halts, too
        rewards = torch.where(halted, self.settings.penalty, mean[:, -1])
        ended = halted | self.spec.terminated(following) if self.settings.terminates else halted
        return Outcome(following, rewards, halted, ended)


@torch.no_grad()
def halting_threshold(ensemble: Ensemble, inputs: Tensor, settings: PessimismSettings) -> float:
    """The largest disagreement at which the detector does not fire, given the data's inputs ``[T, S + A]``."""
    if settings.rule == "fixed":
        return settings.threshold
    found = torch.cat([disagreement(ensemble(block)) for block in torch.split(inputs, BLOCK)])
    return float(np.percentile(found.cpu().numpy(), settings.percentile))


class Episodes(VecEnv):  # type: ignore[misc]  # stable-baselines3 is untyped
    """B episodes; when one ends, the next begins at once in a new start state.

    Args:
        mdp: where they take place; after its horizon an episode is truncated, which is not an end of the MDP.
        count: B.
        ignores_ends: whether to hide the ends of episodes from the learner.

    Attributes:
        rng: draws the start states.
        totals: ``[4]``: steps, sum of rewards, finished episodes, and those among them that the detector ended.
    """

    def __init__(self, mdp: PessimisticMDP, count: int, *, ignores_ends: bool = False) -> None:
        # Unbounded: the model knows nothing of the environment's bounds.
        space = gym.spaces.Box(-np.inf, np.inf, (mdp.spec.state_dim,))
        super().__init__(count, space, mdp.spec.action_space)
        self._mdp, self._ignores_ends, self._device = mdp, ignores_ends, mdp.device
        self.rng, self.totals = np.random.default_rng(0), np.zeros(4)
        self._states, self._steps = torch.zeros(count, *space.shape), np.zeros(count, np.int64)
        self._actions = torch.zeros(0)

    def reset(self) -> NDArray[np.float32]:
        """Begins all episodes; returns their states ``[B, S]``."""
        self._states, self._steps = self._mdp.start(self.num_envs, self.rng), np.zeros(self.num_envs, np.int64)
        return copy_of(self._states)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Sets the actions of the next step, ``[B]`` or ``[B, A]``."""
        self._actions = torch.from_numpy(actions).to(self._device)

    def step_wait(self) -> Step:
        """Plays these actions.

        Returns:
            States ``[B, S]`` (of the next episode where one has ended), rewards ``[B]``, ends ``[B]``, and for each
            episode a dict that marks a truncation and has its last state.
        """
        outcome = self._mdp.step(self._states, self._actions)
        self._steps += 1
        ended, rewards = copy_of(outcome.ended), copy_of(outcome.rewards)
        cut = (self._steps >= self._mdp.settings.horizon) & ~ended
        over = ended | cut
        self.totals += len(rewards), rewards.sum(), over.sum(), copy_of(outcome.halted).sum()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(cut):  # so that PPO bootstraps from the value of the last state
            infos[row] = {"TimeLimit.truncated": True, "terminal_observation": copy_of(outcome.following[row])}
        self._states = outcome.following
        if over.any():
            rows = torch.from_numpy(np.flatnonzero(over)).to(self._device)
            self._states[rows] = self._mdp.start(len(rows), self.rng)
            self._steps[over] = 0
        return copy_of(self._states), rewards, np.zeros_like(over) if self._ignores_ends else over, infos

    def state(self) -> Arrays:
        """The states ``[B, S]`` and the steps played ``[B]`` of the episodes."""
        return {"states": copy_of(self._states), "steps": self._steps.copy()}

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""
        self._states, self._steps = torch.from_numpy(arrays["states"]).to(self._device), arrays["steps"].copy()

    def close(self) -> None:
        """Does nothing; there is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Returns None for every episode; stable-baselines3 asks for ``render_mode`` only."""
        return [None] * self.num_envs

    def env_method(self, name: str, *args: Any, **options: Any) -> Any:
        """Not supported: the episodes have no methods and no attributes of their own."""
        raise NotImplementedError(name)

    set_attr = env_method

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> Sequence[bool]:
        """Returns False for every episode: none is wrapped."""
        return [False] * self.num_envs
