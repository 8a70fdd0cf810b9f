"""Scoring plans: what a sequence of actions earns on a model, member by member (Appendix D.1, Step 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from persim.envs.spec import EnvSpec
from persim.errors import InputError, check_choice

PRECISIONS = ("float32", "bfloat16")
COLUMNS = 16_384  # plans rolled out at once by PlainScorer, to bound its memory


class Scorer(Protocol):
    """The one thing that a planner knows about the world."""

    def __call__(
        self, states: NDArray[np.float64], agents: NDArray[np.int64], plans: NDArray[np.generic], top: int | None = None
    ) -> NDArray[np.float64]:
        """Mean return over the K members of each plan.

        Each member is rolled out on its own. The step that ends an episode still pays, later ones do not.
        What helps a planner (``persim.envs.spec.PlanningHints``) is part of the return.
        A plan whose return or states are not finite scores minus infinity.

        Args:
            states: ``[B, S]``, where each episode stands.
            agents: ``[B]``, the agent of each episode.
            plans: ``[B, P, H]`` whole numbers, or ``[B, P, H, A]``.
            top: how many plans of each episode the caller wants ranked. The scores of the best ``top``
                plans (of equal ones, the first) are exact, others may be minus infinity.

        Returns:
            Scores ``[B, P]``.

        Raises:
            InputError: the model has not seen an agent.
        """
        ...


@dataclass(frozen=True)
class Objective:
    """What a step of a plan is worth to a planner.

    Attributes:
        spec: gives reward, termination and what helps a planner.
        safety: whether the environment's measure of safety is added to its reward.
    """

    spec: EnvSpec
    safety: bool = True

    def reward(self, states: torch.Tensor, actions: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """Worth of each step; any leading axes."""
        reward, safety = self.spec.reward(states, actions, following), self.spec.planning.safety
        return reward if safety is None or not self.safety else reward + safety(following)

    @property
    def best_reward(self) -> float:
        """The most that ``reward`` can be."""
        hints = self.spec.planning
        best = hints.best_reward + (hints.best_safety if self.safety and hints.safety is not None else 0.0)
        return max(best, float(np.float32(best)))  # rewards are float32, and may be rounded up


class Dynamics(Protocol):
    """A one-step model: agents ``[B]``, states ``[K, B, S]``, actions ``[B]`` or ``[B, A]`` to ``[K, B, S]``."""

    def __call__(self, agents: torch.Tensor, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Next states, each member on its own."""
        ...


def check_agents(agents: NDArray[np.int64], known: int) -> None:
    """Refuses agents that a model has not seen.

    Raises:
        InputError: an id is not below ``known``.
    """
    unseen = agents[(agents < 0) | (agents >= known)]
    if len(unseen):
        raise InputError(
            f"agent {unseen[0] + 1} is not among the {known} agents that the model has seen; give 1 to {known}, "
            "or train with it (an agent never observed can be placed only by its covariates)"
        )


class PlainScorer:
    """Rolls every plan out step by step: any dynamics, any action space, any device.

    Args:
        dynamics: the model, or the true dynamics.
        objective: what a step is worth.
        device: where the dynamics are.
        dtype: of the states.
        known: agents that the dynamics know; any if None.
        precision: of the products of the dynamics, one of ``PRECISIONS``; sums, states and rewards stay as they are.

    Raises:
        InputError: an unknown precision.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        objective: Objective,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        known: int | None = None,
        precision: str = "float32",
    ) -> None:
        self._dynamics, self._objective, self._known = dynamics, objective, known
        self._short = check_choice("precision", precision, PRECISIONS) == "bfloat16"
        self._device, self._dtype = device, dtype

    @torch.no_grad()
    def __call__(
        self, states: NDArray[np.float64], agents: NDArray[np.int64], plans: NDArray[np.generic], top: int | None = None
    ) -> NDArray[np.float64]:
        """See ``Scorer``; here every score is exact."""
        if self._known is not None:
            check_agents(agents, self._known)
        n_plans = plans.shape[1]
        flat = torch.from_numpy(plans).to(self._device).flatten(0, 1)
        start = torch.tensor(states, dtype=self._dtype, device=self._device).repeat_interleave(n_plans, 0)
        who = torch.from_numpy(agents).to(self._device).repeat_interleave(n_plans)
        parts = zip(*(torch.split(tensor, COLUMNS) for tensor in (start, who, flat)), strict=True)
        scores = torch.cat([self._roll(*part) for part in parts])
        return scores.view(-1, n_plans).cpu().numpy()

    def _roll(self, start: torch.Tensor, agents: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        """Returns ``[C]`` of C plans ``[C, H]`` or ``[C, H, A]``, each from its own state ``[C, S]``."""
        spec, states, horizon = self._objective.spec, start.unsqueeze(0), plans.shape[1]
        progress = spec.planning.progress
        total = torch.zeros((), dtype=torch.double, device=start.device)
        alive = torch.ones((), dtype=torch.bool, device=start.device)
        best = total if progress is None else progress(states).double()
        for step in range(horizon):
            actions = plans[:, step] if plans.is_floating_point() else plans[:, step].long()
            with torch.autocast(start.device.type, torch.bfloat16, enabled=self._short):
                following = self._dynamics(agents, states, actions)
            reward = self._objective.reward(states, actions, following).double()
            reward = reward + 0 * following.double().sum(-1)  # a state that is not finite spoils the plan
            total = total + torch.where(alive, reward, 0.0)
            if progress is not None:
                best = torch.where(alive, torch.maximum(best, progress(following).double()), best)
            alive = alive & ~spec.terminated(following)
            states = following
        mean = (total + horizon * best).mean(0)
        return torch.where(mean.isfinite(), mean, -torch.inf)
