"""CaDM as a policy: at each step it infers the context from the recent transitions and plans with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.cadm.rollouts import Model
from baselines.cadm.windows import encoded_actions, joined
from persim.data.policies import BatchPolicy
from persim.envs import cartpole, mountaincar
from persim.envs.spec import EnvSpec, RewardFn, StateFn
from persim.evaluation.prediction import History
from persim.planning.planner import Memory
from persim.planning.registry import make_planner


@dataclass(frozen=True)
class PlanReward:
    """The return of a plan.

    Attributes:
        spec: the environment.
        reward: the reward of a step.
        ends: whether rewards stop where the episode would end; in CaDM's own environments they never do.
        progress: measures the progress of a state, or None. The best progress of a rollout is added once per step
            of the horizon, as PerSim's planners do.
    """

    spec: EnvSpec
    reward: RewardFn
    ends: bool
    progress: StateFn | None = None

    def returns(self, start: Tensor, steps: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The returns ``[K, L, B]`` of plans from states ``[B, S]``.

        Args:
            start: the states.
            steps: what ``Model.play`` yields; a next state that is not finite makes the return of its plan NaN.
        """
        earned = torch.zeros(len(start), dtype=torch.double, device=start.device)
        best = earned if self.progress is None else self.progress(start).double()
        alive, horizon = torch.ones(len(start), dtype=torch.bool, device=start.device), 0
        for states, actions, following in steps:
            worth = self.reward(states, actions, following).double() + 0 * following.double().sum(-1)
            earned = earned + torch.where(alive, worth, 0.0)
            if self.progress is not None:
                best = torch.where(alive, torch.maximum(best, self.progress(following).double()), best)
            if self.ends:
                alive = alive & ~self.spec.terminated(following)
            horizon += 1
        return earned if self.progress is None else earned + horizon * best


def plan_reward(spec: EnvSpec, *, progress: bool = True) -> PlanReward:
    """The return that CaDM plans for; ``progress`` is explained in ``ActingSettings``.

    CaDM's code sums rewards over the whole horizon, even after the episode would have ended, and has rewards to suit
    for its own environments: in CartPole a fallen pole may recover. In other environments the sum stops where the
    episode ends.
    """
    helped = spec.planning.progress if progress else None
    if spec.name == cartpole.SPEC.name:
        return PlanReward(spec, _limits_kept, ends=False, progress=helped)
    return PlanReward(spec, spec.reward, ends=spec.name != mountaincar.SPEC.name, progress=helped)


def _limits_kept(states: Tensor, actions: Tensor, following: Tensor) -> Tensor:
    """1 minus the number of limits that the next state violates (CartPole in CaDM's code)."""
    outside = (following[..., 0].abs() > cartpole.MAX_POSITION_M).to(following.dtype)
    return 1 - outside - (following[..., 2].abs() > cartpole.MAX_ANGLE_RAD).to(following.dtype)


class Recorder:
    """The last W transitions of each episode, oldest first; empty slots are 0, and the first slots fill first.

    Args:
        episodes: B.
        model: gives W, the dimensions and the device.
    """

    def __init__(self, episodes: int, model: Model) -> None:
        self._spec, self._count, self._length = model.spec, 0, model.settings.history
        self._differences = torch.zeros(episodes, self._length, model.spec.state_dim, device=model.device)
        self._actions = torch.zeros(episodes, self._length, model.spec.action_dim, device=model.device)

    def add(self, before: Tensor, actions: Tensor, after: Tensor) -> None:
        """Appends one transition per episode and drops the oldest if all slots are full.

        The states ``before`` and ``after`` it are ``[B, S]``, the actions ``[B]`` or ``[B, A]``.
        """
        if self._count == self._length:
            self._differences, self._actions = (x.roll(-1, 1) for x in (self._differences, self._actions))
        slot = min(self._count, self._length - 1)
        self._differences[:, slot] = after - before
        self._actions[:, slot] = encoded_actions(actions, self._spec)
        self._count = slot + 1

    def keep(self, running: Tensor) -> None:
        """Drops the episodes that have ended, given which of them go on ``[B]``."""
        self._differences, self._actions = self._differences[running], self._actions[running]

    def histories(self) -> Tensor:
        """The histories as the encoder reads them ``[B, W S + W A]``."""
        return joined(self._differences, self._actions)


def recorded(history: History | None, episodes: int, model: Model) -> Tensor:
    """The encoder's histories ``[B, W S + W A]`` after the true steps of ``history``; all 0 without any.

    States that are not finite, those after the end of an episode, count as 0; no prediction for them is used.
    """
    recorder = Recorder(episodes, model)
    if history is not None:
        states = torch.from_numpy(np.nan_to_num(history.states).astype(np.float32)).to(model.device)
        actions = torch.from_numpy(np.array(history.actions)).to(model.device)
        for step in range(max(0, actions.shape[1] - model.settings.history), actions.shape[1]):
            recorder.add(states[:, step], actions[:, step], states[:, step + 1])
    return recorder.histories()


class ContextScorer:
    """Scores plans by their mean return over particles; the contexts are those of the present step.

    Args:
        model: the trained model.
        contexts: each member's contexts ``[K, B, C]``.
        reward: the return of a plan.
        generator: draws the noise.
    """

    def __init__(self, model: Model, contexts: Tensor, reward: PlanReward, generator: torch.Generator) -> None:
        self._model, self._contexts, self._reward, self._generator = model, contexts, reward, generator
        self._round = 0

    def __call__(
        self, states: NDArray[np.float64], agents: NDArray[np.int64], plans: NDArray[np.generic], top: int | None = None
    ) -> NDArray[np.float64]:
        """Scores ``[B, P]`` of plans ``[B, P, H]`` or ``[B, P, H, A]`` from states ``[B, S]``.

        See ``persim.planning.scoring.Scorer``. Every score is exact, so ``top`` is ignored; ``agents [B]`` is, too,
        since agents differ only by their contexts.
        """
        model, count = self._model, plans.shape[1]
        flat = torch.from_numpy(plans.reshape(-1, *plans.shape[2:])).to(model.device)
        start = torch.tensor(states, device=model.device, dtype=torch.float32)  # a copy: they may be read-only
        episode = torch.arange(len(states), device=model.device).repeat_interleave(count)
        contexts, scores = self._round_contexts(), []
        for part in model.blocks(len(flat)):
            begin = start[episode[part]]
            steps = model.play(begin, contexts[:, episode[part]], flat[part], self._generator)
            scores.append(self._reward.returns(begin, steps).mean((0, 1)))
        means = torch.cat(scores)
        return torch.where(means.isfinite(), means, -torch.inf).view(-1, count).cpu().numpy()

    def _round_contexts(self) -> Tensor:
        """The contexts ``[K, B, C]`` of this call; every second time the public code mixes up their first two axes."""
        self._round += 1
        if not self._model.acting.mixed_episodes or self._round % 2:
            return self._contexts
        members, episodes, width = self._contexts.shape
        return self._contexts.reshape(episodes, members, width).transpose(0, 1)


class ContextPolicy(BatchPolicy):
    """Plans at every step, with contexts inferred from the episode so far.

    Args:
        model: the trained model.
        agents: the agent of each episode ``[B]``; CaDM uses only how many there are.
    """

    def __init__(self, model: Model, agents: NDArray[np.int64]) -> None:
        self._model, self._agents, self._recorder = model, agents, Recorder(len(agents), model)
        self._reward = plan_reward(model.spec, progress=model.acting.progress)
        self._last: tuple[Tensor, Tensor] | None = None
        self._memory: Memory | None = None

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """The first actions, ``[B]`` or ``[B, A]``, of the plans found from states ``[B, S]``."""
        model, how = self._model, self._model.acting
        now = torch.from_numpy(np.array(states, dtype=np.float32)).to(model.device)
        if self._last is not None:
            self._recorder.add(*self._last, now)
        generator = torch.Generator(model.device).manual_seed(int(rng.integers(2**62)))
        scorer = ContextScorer(model, model.contexts(self._recorder.histories()), self._reward, generator)
        planner = make_planner(how.planning.planner, scorer, model.spec.action_space, how.planning.settings)
        plans, memory = planner.search(states, self._agents, self._memory, rng)
        self._memory = memory if how.warm_start else None
        first = np.array(plans[:, 0], dtype=np.int64 if model.spec.discrete else np.float32)
        self._last = (now, torch.from_numpy(first.copy()).to(model.device))
        return first

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Drops the episodes that have ended, given which of them go on ``[B]``."""
        going_on = torch.from_numpy(running).to(self._model.device)
        self._agents = self._agents[running]
        self._recorder.keep(going_on)
        self._last = None if self._last is None else (self._last[0][going_on], self._last[1][going_on])
        self._memory = None if self._memory is None else tuple(part[running] for part in self._memory)
