"""Scoring plans: the return of action sequences on a model, averaged over its members (Appendix D.1, Step 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.envs.spec import Agents, Array, EnvSpec
from persim.errors import InputError, check_between, check_choice
from persim.learning.training import PRECISIONS as PRECISIONS

MEMBERS, MEAN = ROLLOUTS = ("members", "mean")
OFF, AUTO, ON = PRIORS = ("off", "auto", "on")  # use of a behaviour prior; auto: as far as the data warrant
Plans = NDArray[Any]
COLUMNS = 16_384  # plans rolled out at once by PlainScorer, to bound its memory


class Scorer(Protocol):
    """Scores plans; it is all that a planner knows about the world."""

    def __call__(self, states: Array, agents: Agents, plans: Plans, top: int | None = None) -> Array:
        """Returns the return ``[B, P]`` of each plan, as an ``Objective`` defines it.

        The step that ends an episode still earns its reward, later ones earn nothing. The terms in
        ``persim.envs.spec.PlanningHints`` are part of the return. A plan whose return or states are not
        finite scores minus infinity.

        Args:
            states: the current state of each episode ``[B, S]``.
            agents: id of each episode's agent ``[B]``.
            plans: discrete ``[B, P, H]``, or continuous ``[B, P, H, A]``.
            top: how many plans of each episode have to be ranked; all by default. The scores of the best
                ``top`` plans (the first of equal ones) are exact, the others may be minus infinity.

        Raises:
            InputError: the model was not trained on an agent.
        """
        ...


@dataclass(frozen=True)
class Objective:
    """Defines what a planner maximises.

    Attributes:
        spec: gives reward, termination and the planning hints.
        safety: whether the environment's safety term is added to its reward.
        rollout: ``members``: each of the K members rolls a plan out on its own, and the score is the mean of their
            returns (Appendix D.1). ``mean``: at every step all members start from the mean of the states that they
            predicted, and the score is the return of this one rollout (the authors' code in HalfCheetah).
        penalty: taken off the reward of every step, times the members' disagreement (``disagreement``), so that plans
            stay where the model knows the dynamics, as in MOPO (Yu et al. 2020). Ours; 0 is the paper's.

    Raises:
        InputError: the rollout is unknown, or the penalty is below 0.
    """

    spec: EnvSpec
    safety: bool = True
    rollout: str = MEMBERS
    penalty: float = 0.0

    def __post_init__(self) -> None:
        check_choice("rollout", self.rollout, ROLLOUTS)
        check_between("penalty", self.penalty, 0, math.inf, closed=True)

    @property
    def averages(self) -> bool:
        """Whether all members step from their mean state."""
        return self.rollout == MEAN

    def reward(self, states: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Returns rewards ``[...]`` of states and next states ``[..., S]`` and actions ``[...]`` or ``[..., A]``."""
        reward, safety = self.spec.reward(states, actions, following), self.spec.planning.safety
        return reward if safety is None or not self.safety else reward + safety(following)

    @property
    def best_reward(self) -> float:
        """An upper bound of ``reward``."""
        hints = self.spec.planning
        best = hints.best_reward + (hints.best_safety if self.safety and hints.safety is not None else 0.0)
        return max(best, float(np.float32(best)))  # rewards are float32 and may be rounded up


class Dynamics(Protocol):
    """A one-step model of K members."""

    def __call__(self, agents: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        """Maps agents ``[B]``, states ``[K, B, S]`` and actions ``[B]`` or ``[B, A]`` to next states ``[K, B, S]``.

        The states may be ``[1, B, S]``, the same for all members.
        """
        ...


def disagreement(states: Tensor, following: Tensor, unit: Tensor) -> Tensor:
    """Returns how much the K members disagree on a step ``[C]``.

    It is the deviation of the state differences that they predict, in units of their deviation in the data, averaged
    over the state dimensions; 0 for a single member.

    Args:
        states: ``[K, C, S]``, or ``[1, C, S]`` where all members start from the same.
        following: the predicted next states ``[K, C, S]``.
        unit: deviations of the state differences ``[S]``.
    """
    scaled = (following - states) / unit
    return (scaled - scaled.mean(0)).square().mean(0).sqrt().mean(-1)  # ten times faster on a CPU than std(0)


def known_unit(unit: Tensor | None, objective: Objective) -> Tensor:
    """Returns the unit ``[S]`` of state differences; ones if the objective needs none.

    Raises:
        InputError: it is needed, but the model does not know it.
    """
    if objective.penalty and (unit is None or not bool((unit > 0).all())):
        raise InputError(
            "this model does not know the deviations of its data, in which a penalty measures disagreement (it was "
            "trained by an earlier version); train it again, or plan with penalty 0"
        )
    return torch.ones(objective.spec.state_dim) if unit is None or not objective.penalty else unit


def check_agents(agents: Agents, known: int) -> None:
    """Checks that a model was trained on these agents ``[B]``.

    Raises:
        InputError: an id is not in 0 to ``known - 1``.
    """
    unseen = agents[(agents < 0) | (agents >= known)]
    if len(unseen):
        advice = f"give 1 to {known}, or train with its data (an agent without data needs covariates)"
        raise InputError(f"agent {unseen[0] + 1} is not among the {known} agents of the model; {advice}")


def rolled_out(
    objective: Objective,
    unit: Tensor,
    start: Tensor,
    horizon: int,
    step: Callable[[int, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """Rolls out C plans and returns their scores ``[C]`` (see ``Scorer``), without a look at any value on the way.

    Args:
        objective: what is maximised.
        unit: deviations of the state differences ``[S]``, in which members disagree.
        start: the state ``[C, S]`` that each begins with.
        horizon: H, the number of steps.
        step: maps the number of a step and states ``[K, C, S]`` to the actions taken, ``[C]``, ``[C, A]`` or
            ``[K, C, A]``, and the next states ``[K, C, S]`` of all members; the states are ``[1, C, S]`` where all
            members are given the same.
    """
    spec, states = objective.spec, start.unsqueeze(0)
    progress = spec.planning.progress
    total = torch.zeros((), dtype=torch.double, device=start.device)
    alive = torch.ones((), dtype=torch.bool, device=start.device)
    best = total if progress is None else progress(states).double()
    for number in range(horizon):
        actions, following = step(number, states)
        doubt = disagreement(states, following, unit) if objective.penalty else None
        following = following.mean(0, keepdim=True) if objective.averages else following
        reward = objective.reward(states, actions, following).double()
        reward = reward if doubt is None else reward - objective.penalty * doubt
        reward = reward + 0 * following.double().sum(-1)  # a non-finite state makes the score non-finite
        total = total + torch.where(alive, reward, 0.0)
        if progress is not None:
            best = torch.where(alive, torch.maximum(best, progress(following).double()), best)
        alive = alive & ~spec.terminated(following)
        states = following
    mean = (total + horizon * best).mean(0)
    return torch.where(mean.isfinite(), mean, -torch.inf)


class PlainScorer:
    """Rolls out every plan step by step, for any dynamics, action space and device.

    Args:
        dynamics: the model, or the true dynamics.
        objective: gives the reward of a step.
        device: the device of the dynamics.
        dtype: of the states.
        known: N, the number of agents of the dynamics; None skips the check of ids.
        unit: deviations of the state differences in the data ``[S]``, which a penalty needs.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        objective: Objective,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        known: int | None = None,
        unit: Tensor | None = None,
    ) -> None:
        self._dynamics, self._objective, self._known = dynamics, objective, known
        self._device, self._dtype = device, dtype
        self._unit = known_unit(unit, objective).to(device, dtype)

    @torch.no_grad()
    def __call__(self, states: Array, agents: Agents, plans: Plans, top: int | None = None) -> Array:
        """See ``Scorer``; every score is exact, whatever ``top`` is."""
        if self._known is not None:
            check_agents(agents, self._known)
        n_plans = plans.shape[1]
        flat = torch.from_numpy(plans).to(self._device).flatten(0, 1)
        start = torch.tensor(states, dtype=self._dtype, device=self._device).repeat_interleave(n_plans, 0)
        who = torch.from_numpy(agents).to(self._device).repeat_interleave(n_plans)
        parts = zip(*(torch.split(tensor, COLUMNS) for tensor in (start, who, flat)), strict=True)
        scores = torch.cat([self._roll(*part) for part in parts])
        return scores.view(-1, n_plans).cpu().numpy()

    def _roll(self, start: Tensor, agents: Tensor, plans: Tensor) -> Tensor:
        """Returns the scores ``[C]`` of C plans ``[C, H]`` or ``[C, H, A]``, each from its own state ``[C, S]``."""

        def step(number: int, states: Tensor) -> tuple[Tensor, Tensor]:
            actions = plans[:, number] if plans.is_floating_point() else plans[:, number].long()
            return actions, self._dynamics(agents, states, actions)

        return rolled_out(self._objective, self._unit, start, plans.shape[1], step)
