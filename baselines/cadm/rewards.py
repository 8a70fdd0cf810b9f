"""What a plan is worth to CaDM: the reward functions of its code for the environments that it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from persim.envs import cartpole, mountaincar
from persim.envs.spec import EnvSpec, RewardFn, StateFn


class Earned(NamedTuple):
    """Sums of rewards so far, the best progress, and which particles go on; all broadcast to ``[K, L, B]``."""

    earned: Tensor
    best: Tensor
    alive: Tensor


@dataclass(frozen=True)
class PlanReward:
    """What a step is worth.

    Attributes:
        spec: the environment.
        reward: of a step.
        ends: whether a rollout ends where the episode would; in CaDM's own environments none does.
        progress: of a state; the best on the way is added once for each step, as PerSim's planners do.
    """

    spec: EnvSpec
    reward: RewardFn
    ends: bool
    progress: StateFn | None = None

    def start(self, states: Tensor) -> Earned:
        """Nothing yet, for plans from states ``[B, S]``."""
        nothing = torch.zeros(len(states), dtype=torch.double, device=states.device)
        best = nothing if self.progress is None else self.progress(states).double()
        return Earned(nothing, best, torch.ones(len(states), dtype=torch.bool, device=states.device))

    def add(self, total: Earned, states: Tensor, actions: Tensor, following: Tensor) -> Earned:
        """The sums after one more step of ``[K, L, B, S]``; a state that is not finite spoils its plan."""
        worth = self.reward(states, actions, following).double() + 0 * following.double().sum(-1)
        earned, best = total.earned + torch.where(total.alive, worth, 0.0), total.best
        if self.progress is not None:
            best = torch.where(total.alive, torch.maximum(best, self.progress(following).double()), best)
        return Earned(earned, best, total.alive & ~self.spec.terminated(following) if self.ends else total.alive)

    def score(self, total: Earned, horizon: int) -> Tensor:
        """What whole plans are worth ``[K, L, B]``."""
        return total.earned if self.progress is None else total.earned + horizon * total.best


def plan_reward(spec: EnvSpec, *, progress: bool = True) -> PlanReward:
    """The reward that CaDM plans for; ``progress``: see ``ActingSettings``.

    CaDM's code sums rewards over the whole horizon, whatever has ended on the way, with a reward for each
    of its environments that makes sense so: in CartPole a pole that fell may recover. An environment that
    it does not know tells when its episodes end, and its plans end there.
    """
    helped = spec.planning.progress if progress else None
    if spec.name == cartpole.SPEC.name:
        return PlanReward(spec, _limits_kept, ends=False, progress=helped)
    return PlanReward(spec, spec.reward, ends=spec.name != mountaincar.SPEC.name, progress=helped)


def _limits_kept(states: Tensor, actions: Tensor, following: Tensor) -> Tensor:
    """1 less the number of limits that the next state violates (CaDM's CartPole)."""
    outside = (following[..., 0].abs() > cartpole.MAX_POSITION_M).to(following.dtype)
    return 1 - outside - (following[..., 2].abs() > cartpole.MAX_ANGLE_RAD).to(following.dtype)
