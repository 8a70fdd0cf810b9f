"""The interface of planners, and the policy that replans at every step (model predictive control)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from persim.data.policies import BatchPolicy
from persim.envs.spec import ActionSpace, Agents, Array
from persim.errors import InputError, check_at_least
from persim.planning.scoring import Plans as Plans
from persim.planning.scoring import Scorer

_MOST_STEPS = 10**8  # of all plans for one decision: memory
Memory = tuple[NDArray[Any], ...]
Found = tuple[Plans, Memory]
Samples = TypeVar("Samples", Array, Tensor)


@dataclass(frozen=True)
class PlannerSettings:
    """Settings that every planner has.

    Attributes:
        plans: P, candidates scored for each decision; iterative planners score P in each iteration.
        horizon: H, steps that a plan looks ahead.

    Raises:
        InputError: a number is below 1.
    """

    plans: int = 1000
    horizon: int = 50

    def __post_init__(self) -> None:
        check_at_least("plans", self.plans, 1, most=_MOST_STEPS)
        check_at_least("horizon", self.horizon, 1, most=_MOST_STEPS // self.plans)


@dataclass(frozen=True)
class EliteSettings(PlannerSettings):
    """Settings of planners that refit a distribution to their best plans.

    Attributes:
        elites: E, the number of best plans that the distribution is refitted to.
        iterations: rounds of sampling and refitting.

    Raises:
        InputError: a number is below 1, or there are more elites than plans.
    """

    elites: int = 50
    iterations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("elites", self.elites, 1)
        check_at_least("iterations", self.iterations, 1)
        if self.elites > self.plans:
            raise InputError(f"elites is {self.elites}, more than the {self.plans} plans; give at most {self.plans}")


class Planner(ABC):
    """Searches for good plans, given only a scorer and an action space; it keeps no state between searches.

    The space is ``Discrete`` or a bounded ``Box``, and the settings are an instance of ``settings_type``. With
    ``deviates`` plans are deviations from an imitated policy, and imitation itself is one of every round's candidates.

    Raises:
        InputError: the planner does not support the action space.
    """

    settings_type: ClassVar[type[PlannerSettings]] = PlannerSettings
    spaces: ClassVar[tuple[type[ActionSpace], ...]] = (Discrete, Box)

    def __init__(self, scorer: Scorer, space: ActionSpace, settings: Any, *, deviates: bool = False) -> None:
        self.check_space(space)
        self._scorer, self._space, self._settings, self._deviates = scorer, space, settings, deviates

    @classmethod
    def check_space(cls, space: ActionSpace) -> None:
        """Checks that the planner supports an action space.

        Raises:
            InputError: it plans actions of the other kind only, or the space is unbounded.
        """
        if not isinstance(space, cls.spaces):
            wanted = " or ".join("discrete" if kind is Discrete else "continuous" for kind in cls.spaces)
            advice = "use persistent_shooting for discrete actions and cem for continuous ones"
            raise InputError(f"{cls.__name__} plans {wanted} actions, but these are {space}; {advice}")
        if isinstance(space, Box) and not space.is_bounded():
            raise InputError(f"planning needs bounds of every action, but the space is {space}; give a bounded Box")

    def _with_imitation(self, plans: Samples) -> Samples:
        """Replaces the last of the candidates ``[B, P, H, A]``, actions in [-1, 1], by no deviation at all."""
        if self._deviates:
            plans[:, -1] = 0
        return plans

    @abstractmethod
    def search(self, states: Array, agents: Agents, memory: Memory | None, rng: Generator) -> Found:
        """Searches for the best plans of B episodes; returns them, ``[B, H]`` or ``[B, H, A]``, and a memory.

        Args:
            states: the current states ``[B, S]``.
            agents: ids ``[B]``.
            memory: the arrays ``[B, ...]`` that the search one step earlier returned; None at the start.
            rng: the source of all randomness.
        """


class MPC(BatchPolicy):
    """Plans at every step for agents ``[B]`` and plays the first action of the best plan (Section 4, Step 2).

    Where plans are deviations, ``actions`` says what plans ``[B, H, A]`` of agents ``[B]`` mean in states ``[B, S]``.
    """

    def __init__(
        self, planner: Planner, agents: Agents, actions: Callable[[Array, Agents, Plans], Plans] | None = None
    ) -> None:
        self._planner, self._agents, self._actions = planner, agents, actions
        self._memory: Memory | None = None

    def act(self, states: NDArray[Any], rng: Generator) -> NDArray[Any]:
        """Returns the first actions ``[B]`` or ``[B, A]`` of the best plans for states ``[B, S]``."""
        plans, self._memory = self._planner.search(states, self._agents, self._memory, rng)
        first = (plans if self._actions is None else self._actions(states, self._agents, plans[:, :1]))[:, 0]
        return first.astype(np.int64) if first.ndim == 1 else first

    def keep(self, running: NDArray[np.bool_]) -> None:
        """Drops the episodes that have ended, those that are False in ``running`` ``[B]``."""
        self._agents = self._agents[running]
        self._memory = None if self._memory is None else tuple(part[running] for part in self._memory)


def shifted(plans: Plans, last: Plans) -> Plans:
    """Drops the first step of plans ``[B, H, ...]`` and appends ``last`` ``[B, ...]``."""
    return np.concatenate([plans[:, 1:], last[:, None]], axis=1)


def pick(plans: Plans, rows: NDArray[np.intp]) -> Plans:
    """Selects from ``[B, P, ...]`` by indices ``[B]`` or ``[B, E]``, giving ``[B, ...]`` or ``[B, E, ...]``."""
    episodes = np.arange(len(plans)).reshape(-1, *[1] * (rows.ndim - 1))
    return np.asarray(plans[episodes, rows])


def best_rows(scores: Array, count: int) -> NDArray[np.intp]:
    """Returns the indices ``[B, count]`` of the highest scores ``[B, P]``, best first; ties keep their order."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]
