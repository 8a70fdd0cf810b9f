"""What a planner is, and the policy that replans at every step (model predictive control)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from persim.data.policies import BatchPolicy
from persim.errors import InputError, check_at_least
from persim.planning.scoring import Scorer

Plans = NDArray[Any]
Memory = tuple[NDArray[Any], ...]
Space = gym.spaces.Discrete | gym.spaces.Box


@dataclass(frozen=True)
class PlannerSettings:
    """What every planner has.

    Attributes:
        plans: P, candidates scored for each decision (of iterative planners: in each iteration).
        horizon: H, steps a plan looks ahead.

    Raises:
        InputError: a number below 1.
    """

    plans: int = 1000
    horizon: int = 50

    def __post_init__(self) -> None:
        check_at_least("plans", self.plans, 1)
        check_at_least("horizon", self.horizon, 1)


@dataclass(frozen=True)
class EliteSettings(PlannerSettings):
    """Of planners that refit a distribution to their best plans.

    Attributes:
        elites: plans that it is refitted to.
        iterations: rounds of sampling and refitting.

    Raises:
        InputError: a number below 1, or more elites than plans.
    """

    elites: int = 50
    iterations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("elites", self.elites, 1)
        check_at_least("iterations", self.iterations, 1)
        if self.elites > self.plans:
            raise InputError(f"elites is {self.elites}, more than the {self.plans} plans; give {self.plans} or fewer")


class Planner(ABC):
    """Searches for good plans. It knows a scorer and an action space, nothing else, and keeps no state.

    Args:
        scorer: what a plan is worth.
        space: ``Discrete``, or a bounded ``Box``.
        settings: of this planner.

    Raises:
        InputError: the planner does not fit the action space.
    """

    settings_type: ClassVar[type[PlannerSettings]] = PlannerSettings
    spaces: ClassVar[tuple[type[gym.Space[Any]], ...]] = (gym.spaces.Discrete, gym.spaces.Box)

    def __init__(self, scorer: Scorer, space: Space, settings: Any) -> None:
        self.check_space(space)
        self._scorer, self._space, self._settings = scorer, space, settings

    @classmethod
    def check_space(cls, space: Space) -> None:
        """Refuses an action space that the planner does not fit.

        Raises:
            InputError: it plans other actions, or the space has no bounds.
        """
        if not isinstance(space, cls.spaces):
            wanted = " or ".join("discrete" if kind is gym.spaces.Discrete else "continuous" for kind in cls.spaces)
            raise InputError(
                f"{cls.__name__} plans {wanted} actions, but these are {space}; "
                "use persistent_shooting for discrete actions and icem for continuous ones"
            )
        if isinstance(space, gym.spaces.Box) and not space.is_bounded():
            raise InputError(f"planning needs bounds of every action, but the space is {space}; give a bounded Box")

    @abstractmethod
    def search(
        self, states: NDArray[np.float64], agents: NDArray[np.int64], memory: Memory | None, rng: np.random.Generator
    ) -> tuple[Plans, Memory]:
        """The best plans found.

        Args:
            states: ``[B, S]``.
            agents: ``[B]``.
            memory: what the search one step earlier returned for these episodes; None at the start.
            rng: the source of all randomness.

        Returns:
            Plans ``[B, H]`` or ``[B, H, A]``; and arrays ``[B, ...]`` to give back at the next step.
        """


class MPC(BatchPolicy):
    """Plans anew at every step and plays the first action (Section 4, Step 2).

    Args:
        planner: finds plans.
        agents: ``[B]``, the agent of each episode.
    """

    def __init__(self, planner: Planner, agents: NDArray[np.int64]) -> None:
        self._planner, self._agents = planner, agents
        self._memory: Memory | None = None

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """First actions of the plans found for these states."""
        plans, self._memory = self._planner.search(states, self._agents, self._memory, rng)
        first = plans[:, 0]
        return first.astype(np.int64) if first.ndim == 1 else first

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Forgets the episodes that have ended."""
        self._agents = self._agents[running]
        self._memory = None if self._memory is None else tuple(part[running] for part in self._memory)


def shifted(plans: Plans, last: Plans) -> Plans:
    """Plans ``[B, H, ...]`` one step later, ended by ``last`` ``[B, ...]``."""
    return np.concatenate([plans[:, 1:], last[:, None]], axis=1)


def pick(plans: Plans, rows: NDArray[np.intp]) -> Plans:
    """Of ``[B, P, ...]`` the plans ``[B, ...]`` or ``[B, E, ...]`` with these indices ``[B]`` or ``[B, E]``."""
    episodes = np.arange(len(plans)).reshape(-1, *[1] * (rows.ndim - 1))
    return np.asarray(plans[episodes, rows])


def best_rows(scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Indices ``[B, count]`` of the best plans, best first, of equal ones the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]
