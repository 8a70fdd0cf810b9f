"""CaDM as a policy: remembers the episode, reads the context off it once a step, and plans with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.cadm.observations import encoded_actions
from baselines.cadm.rewards import PlanReward
from baselines.cadm.rollouts import Model
from baselines.cadm.settings import ActingSettings
from baselines.cadm.windows import joined
from persim.data.policies import BatchPolicy
from persim.evaluation.prediction import History
from persim.planning.planner import Memory
from persim.planning.registry import make_planner


class Recorder:
    """The last K transitions of each episode, oldest first; empty slots are 0, the first fill first.

    Args:
        episodes: B.
        model: gives the sizes.
        length: K.
    """

    def __init__(self, episodes: int, model: Model, length: int) -> None:
        self._spec, self._device = model.spec, model.device
        self._differences = torch.zeros(episodes, length, self._spec.state_dim, device=self._device)
        self._actions = torch.zeros(episodes, length, self._spec.action_dim, device=self._device)
        self._count, self._length = 0, length

    def add(self, before: Tensor, actions: Tensor, after: Tensor) -> None:
        """Appends a transition of every episode; drops the oldest if all slots are full."""
        if self._count == self._length:
            self._differences, self._actions = (x.roll(-1, 1) for x in (self._differences, self._actions))
        slot = min(self._count, self._length - 1)
        self._differences[:, slot] = after - before
        self._actions[:, slot] = encoded_actions(actions, self._spec)
        self._count = slot + 1

    def keep(self, running: Tensor) -> None:
        """Forgets the episodes that have ended."""
        self._differences, self._actions = self._differences[running], self._actions[running]

    def histories(self) -> Tensor:
        """As the encoder reads them ``[B, K * S + K * A]``."""
        return joined(self._differences, self._actions)


def recorded(history: History | None, episodes: int, model: Model, length: int) -> Tensor:
    """Histories ``[B, K * S + K * A]`` after these true steps; all 0 if there are none.

    An episode whose states are not finite has ended before; whatever is predicted for it, nobody asks.
    """
    recorder = Recorder(episodes, model, length)
    if history is not None:
        states = torch.from_numpy(np.nan_to_num(history.states).astype(np.float32)).to(model.device)
        actions = torch.from_numpy(np.array(history.actions)).to(model.device)
        for step in range(max(0, actions.shape[1] - length), actions.shape[1]):
            recorder.add(states[:, step], actions[:, step], states[:, step + 1])
    return recorder.histories()


class ContextScorer:
    """Scores plans with the contexts of one step: the mean over particles of the sum of rewards.

    Args:
        model: what was learnt.
        contexts: each member's, of every episode ``[K, B, C]``.
        reward: what a step is worth.
        generator: of the noise.
        mixed_episodes: see ``ActingSettings``.
    """

    def __init__(
        self,
        model: Model,
        contexts: Tensor,
        reward: PlanReward,
        generator: torch.Generator,
        *,
        mixed_episodes: bool = False,
    ) -> None:
        self._model, self._contexts, self._reward, self._generator = model, contexts, reward, generator
        self._mixed, self._round = mixed_episodes, 0

    def __call__(
        self, states: NDArray[np.float64], agents: NDArray[np.int64], plans: NDArray[np.generic], top: int | None = None
    ) -> NDArray[np.float64]:
        """See ``persim.planning.scoring.Scorer``; every score is exact, and agents are told apart by context alone."""
        model, count = self._model, plans.shape[1]
        flat = torch.from_numpy(plans.reshape(-1, *plans.shape[2:])).to(model.device)
        start = torch.tensor(states, device=model.device, dtype=torch.float32)  # a copy: they may be read-only
        episode = torch.arange(len(states), device=model.device).repeat_interleave(count)
        contexts = self._round_contexts()
        scores = [
            self._returns(start[episode[part]], contexts[:, episode[part]], flat[part])
            for part in model.blocks(len(flat))
        ]
        return torch.cat(scores).view(-1, count).cpu().numpy()

    def _round_contexts(self) -> Tensor:
        """The contexts; in every second round the public code takes their two first axes for each other."""
        self._round += 1
        if not self._mixed or self._round % 2:
            return self._contexts
        members, episodes, width = self._contexts.shape
        return self._contexts.reshape(episodes, members, width).transpose(0, 1)

    def _returns(self, start: Tensor, contexts: Tensor, plans: Tensor) -> Tensor:
        """Returns ``[C]`` of C plans ``[C, H]`` or ``[C, H, A]``, each from its own state with its own contexts."""
        total = self._reward.start(start)

        def visit(states: Tensor, actions: Tensor, following: Tensor) -> None:
            nonlocal total
            total = self._reward.add(total, states, actions, following)

        self._model.play(start, contexts, plans, visit, self._generator)
        mean = self._reward.score(total, plans.shape[1]).mean((0, 1))
        return torch.where(mean.isfinite(), mean, -torch.inf)


class ContextPolicy(BatchPolicy):
    """Plans anew at every step, with contexts of what has happened in the episode so far.

    Args:
        model: what was learnt.
        settings: how it acts.
        reward: what a step is worth.
        length: K, of the history.
        agents: ``[B]``, the agent of each episode; nothing but their number counts.
    """

    def __init__(
        self, model: Model, settings: ActingSettings, reward: PlanReward, length: int, agents: NDArray[np.int64]
    ) -> None:
        self._model, self._settings, self._reward, self._agents = model, settings, reward, agents
        self._recorder = Recorder(len(agents), model, length)
        self._last: tuple[Tensor, Tensor] | None = None
        self._memory: Memory | None = None

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """First actions of the plans found for these states."""
        model, how = self._model, self._settings
        now = torch.from_numpy(np.array(states, dtype=np.float32)).to(model.device)
        if self._last is not None:
            self._recorder.add(*self._last, now)
        generator = torch.Generator(model.device).manual_seed(int(rng.integers(2**62)))
        contexts = model.contexts(self._recorder.histories())
        scorer = ContextScorer(model, contexts, self._reward, generator, mixed_episodes=how.mixed_episodes)
        planner = make_planner(how.planning.planner, scorer, model.spec.action_space, how.planning.settings)
        plans, memory = planner.search(states, self._agents, self._memory, rng)
        self._memory = memory if how.warm_start else None
        first = np.array(plans[:, 0], dtype=np.int64 if model.spec.discrete else np.float32)
        self._last = (now, torch.from_numpy(first.copy()).to(model.device))
        return first

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Forgets the episodes that have ended."""
        going_on = torch.from_numpy(running).to(self._model.device)
        self._agents = self._agents[running]
        self._recorder.keep(going_on)
        self._last = None if self._last is None else (self._last[0][going_on], self._last[1][going_on])
        self._memory = None if self._memory is None else tuple(part[running] for part in self._memory)
