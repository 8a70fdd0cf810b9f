"""What a plan is worth to CaDM: the reward functions of its code for the environments that it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from persim.envs import cartpole, mountaincar
from persim.envs.spec import EnvSpec, RewardFn


class Earned(NamedTuple):
    """Sums of rewards so far, and which particles go on; both broadcast to ``[K, L, B]``."""

    earned: Tensor
    alive: Tensor


@dataclass(frozen=True)
class PlanReward:
    """What a step is worth.

    Attributes:
        spec: the environment.
        reward: of a step.
        ends: whether a rollout ends where the episode would; in CaDM's own environments none does.
    """

    spec: EnvSpec
    reward: RewardFn
    ends: bool

    def start(self, states: Tensor) -> Earned:
        """Nothing yet, for plans from states ``[B, S]``."""
        everywhere = torch.ones(len(states), dtype=torch.bool, device=states.device)
        return Earned(torch.zeros(len(states), dtype=torch.double, device=states.device), everywhere)

    def add(self, total: Earned, states: Tensor, actions: Tensor, following: Tensor) -> Earned:
        """The sums after one more step of ``[K, L, B, S]``; a state that is not finite spoils its plan."""
        worth = self.reward(states, actions, following).double() + 0 * following.double().sum(-1)
        earned = total.earned + torch.where(total.alive, worth, 0.0)
        return Earned(earned, total.alive & ~self.spec.terminated(following) if self.ends else total.alive)


def plan_reward(spec: EnvSpec) -> PlanReward:
    """The reward that CaDM plans for.

    CaDM's code sums rewards over the whole horizon, whatever has ended on the way, with a reward for each
    of its environments that makes sense so: in CartPole a pole that fell may recover. An environment that
    it does not know tells when its episodes end, and its plans end there.
    """
    if spec.name == cartpole.SPEC.name:
        return PlanReward(spec, _limits_kept, ends=False)
    return PlanReward(spec, spec.reward, ends=spec.name != mountaincar.SPEC.name)


def _limits_kept(states: Tensor, actions: Tensor, following: Tensor) -> Tensor:
    """1 less the number of limits that the next state violates (CaDM's CartPole)."""
    outside = (following[..., 0].abs() > cartpole.MAX_POSITION_M).to(following.dtype)
    return 1 - outside - (following[..., 2].abs() > cartpole.MAX_ANGLE_RAD).to(following.dtype)
