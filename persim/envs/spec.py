"""Definition of an environment: covariates, test agents, true dynamics, reward and termination."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from persim.errors import InputError, check_at_least, check_between, check_name

Array = NDArray[np.float64]
ActionSpace = Discrete | Box
Agents = NDArray[np.int64]  # ids of agents
Actions = NDArray[np.int64] | NDArray[np.float32]
RewardFn = Callable[[Tensor, Tensor, Tensor], Tensor]
StateFn = Callable[[Tensor], Tensor]
FramesFn = Callable[[Array, Array], Iterator[NDArray[np.uint8]]]

_LONGEST_HORIZON = 10**6
MOST_AGENTS = 10**5


@dataclass(frozen=True)
class Covariate:
    """A physical quantity that differs between agents; ``unit`` is empty for dimensionless ones.

    Raises:
        InputError: the name is none, a number is not finite, or the range is empty.
    """

    name: str
    unit: str
    low: float
    high: float
    default: float

    def __post_init__(self) -> None:
        check_name("covariate", self.name)
        for name in ("low", "high", "default"):
            check_between(f"{name} of covariate {self.name}", getattr(self, name), -math.inf, math.inf)
        if not self.low < self.high:
            raise InputError(f"covariate {self.name}: low is {self.low} and high {self.high}; give a low below high")


@dataclass(frozen=True)
class PlanningHints:
    """Optional knowledge about an environment, beyond its reward, that helps a planner.

    Attributes:
        best_reward: upper bound of the reward of one step. A plan that cannot catch up any more is dropped.
        progress: ``states [..., S] -> values [...]`` in torch. At every step the largest value so far, including
            the start's, is added to a plan's return; it breaks ties between plans that earn the same.
        best_progress: upper bound of ``progress``.
        safety: ``next states [..., S] -> values [...]`` in torch. It is added to the reward of every step to keep
            plans away from where the episode would end, and is small compared with the reward.
        best_safety: upper bound of ``safety``.
    """

    best_reward: float = math.inf
    progress: StateFn | None = None
    best_progress: float = math.inf
    safety: StateFn | None = None
    best_safety: float = math.inf


class HasActions:
    """What follows from an action space."""

    action_space: ActionSpace

    @property
    def discrete(self) -> bool:
        """Whether the actions are discrete."""
        return isinstance(self.action_space, Discrete)

    @property
    def action_dim(self) -> int:
        """The number A of discrete actions or of action dimensions."""
        space = self.action_space
        return int(space.n) if isinstance(space, Discrete) else int(space.shape[0])


@dataclass(frozen=True)
class EnvSpec(HasActions):
    """An environment with agents that differ in their covariates (Appendix E.1, Table 4).

    Axis letters: B batch, S state dimensions, A action dimensions, C covariates.

    Attributes:
        name: the name on the command line.
        title: the name in tables, plots and the gymnasium id ``PerSim/<title>-v0``.
        covariates: the C covariates, in the order of the columns of every covariate table.
        test_agents: covariate rows of the test agents, which come first in any N; none where no method is compared.
        policy_agents: covariate rows of the agents that behaviour policies are trained on.
        horizon: steps after which an episode is truncated.
        observation_space: a Box of shape ``[S]``.
        action_space: ``Discrete`` or a ``Box`` of shape ``[A]``.
        reset: ``(generator, covariates [B, C]) -> states [B, S]``.
        step: ``(states [B, S], actions [B] or [B, A], covariates [B, C]) -> next states [B, S]``,
            the true dynamics, in float64.
        reward: ``(states [..., S], actions [...] or [..., A], next states [..., S]) -> rewards [...]`` in torch.
        terminated: ``next states [..., S] -> bool [...]`` in torch.
        planning: optional knowledge that helps a planner.
        frames: ``(states [T, S], covariates [C]) -> T pictures [height, width, 3]`` for ``render``.
        state_names: names of the S state dimensions with their units, for pictures.

    Raises:
        InputError: a part is missing, out of range, or does not fit the others.
    """

    name: str
    title: str
    covariates: tuple[Covariate, ...]
    test_agents: tuple[tuple[float, ...], ...]
    policy_agents: tuple[tuple[float, ...], ...]
    horizon: int
    observation_space: Box
    action_space: ActionSpace
    reset: Callable[[Generator, Array], Array]
    step: Callable[[Array, Actions, Array], Array]
    reward: RewardFn
    terminated: StateFn
    planning: PlanningHints = field(default_factory=PlanningHints)
    frames: FramesFn | None = None
    state_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            check_name("name", self.name)
            check_at_least("horizon", self.horizon, 1, most=_LONGEST_HORIZON)
            if not isinstance(self.title, str) or not self.title.isprintable() or not self.title:
                raise InputError(f"title is {self.title!r}; give the name for tables and plots")
            for name in ("reset", "step", "reward", "terminated"):
                if not callable(getattr(self, name)):
                    raise InputError(f"{name} is {getattr(self, name)!r}; give a function")
            self._check_agents()
            self._check_spaces()
        except InputError as error:
            raise InputError(f"EnvSpec {str(self.name)[:100]!r}: {error}") from error

    def _check_agents(self) -> None:
        if not self.covariates or not all(isinstance(covariate, Covariate) for covariate in self.covariates):
            raise InputError(f"covariates are {self.covariates!r}; give at least one Covariate")
        if len(set(self.covariate_names)) < len(self.covariates):
            raise InputError(f"covariates {', '.join(self.covariate_names)} name one twice; give each another name")
        for name, rows in (("test_agents", self.test_agents), ("policy_agents", self.policy_agents)):
            try:
                if len(rows):
                    self.covariate_rows(rows)
            except (TypeError, ValueError) as error:  # InputError is one
                raise InputError(f"{name}: {error}") from error

    def _check_spaces(self) -> None:
        if not isinstance(self.observation_space, Box) or len(self.observation_space.shape) != 1:
            raise InputError(f"observation_space is {self.observation_space}; give a Box of shape [S]")
        space = self.action_space
        flat = isinstance(space, Box) and len(space.shape) == 1
        if not flat and not (isinstance(space, Discrete) and space.start == 0):
            raise InputError(f"action_space is {space}; give a Discrete that starts at 0, or a Box of shape [A]")
        if not self.state_dim or not self.action_dim:
            raise InputError("a space has no dimension; give at least one")
        if self.state_names and len(self.state_names) != self.state_dim:
            raise InputError(f"state_names are {len(self.state_names)}; give {self.state_dim}, or none")

    @property
    def state_dim(self) -> int:
        """The number S of state dimensions."""
        return int(self.observation_space.shape[0])

    @property
    def state_labels(self) -> tuple[str, ...]:
        """The S ``state_names``, or ``state 1`` to ``state S`` where the environment has none."""
        return self.state_names or tuple(f"state {number + 1}" for number in range(self.state_dim))

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """The names of the C covariates."""
        return tuple(covariate.name for covariate in self.covariates)

    @property
    def default_agent(self) -> Array:
        """The default covariates ``[C]``, which are those of gymnasium's own environment."""
        return np.array([covariate.default for covariate in self.covariates])

    def covariate_rows(self, rows: ArrayLike | Sequence[Sequence[float]]) -> Array:
        """Return covariates ``[B, C]`` or ``[C]`` as a validated table ``[B, C]``.

        Raises:
            InputError: the number of columns is wrong, or a value is not finite.
        """
        table = np.atleast_2d(np.asarray(rows, dtype=np.float64))
        if table.ndim != 2 or table.shape[1] != len(self.covariates):
            wanted = f"give one row per agent with columns {', '.join(self.covariate_names)}"
            raise InputError(f"covariates of shape {table.shape} do not fit {self.name}; {wanted}")
        if not np.isfinite(table).all():
            raise InputError(f"covariates of {self.name} hold a non-finite value; give finite numbers")
        return table

    def check_ranges(self, covariates: Array) -> None:
        """Check that covariates ``[B, C]`` lie in the ranges that agents are drawn from.

        Raises:
            InputError: a value lies outside its range.
        """
        for covariate, values in zip(self.covariates, covariates.T, strict=True):
            outside = values[(values < covariate.low) | (values > covariate.high)]
            if len(outside):
                found = f"{covariate.name} is {outside[0]:g}, outside {covariate.low:g} to {covariate.high:g}"
                raise InputError(f"{found} of {self.name}; give a value in that range, or pass any_covariates=True")

    def sample_agents(self, n_agents: int, rng: Generator) -> Array:
        """Draw covariates ``[N, C]``: the test agents first, the others uniform in the ranges (Section 5.1).

        Raises:
            InputError: ``n_agents`` is below the number of test agents, or above a hundred thousand.
        """
        n_test = len(self.test_agents)
        if n_agents < n_test:
            have = f"{self.name} has {n_test} test agents, which come first"
            raise InputError(f"number of agents is {n_agents}, but {have}; give at least {n_test}")
        check_at_least("number of agents", n_agents, 1, most=MOST_AGENTS)
        low, high = np.array([(covariate.low, covariate.high) for covariate in self.covariates]).T
        rest = rng.uniform(low, high, size=(n_agents - n_test, len(self.covariates)))
        tested = np.array(self.test_agents, dtype=np.float64).reshape(-1, len(self.covariates))
        return np.concatenate([tested, rest])


def pictures(spec: EnvSpec) -> FramesFn:
    """Return the function that draws states ``[T, S]`` of an environment for covariates ``[C]``.

    Raises:
        InputError: the environment has no pictures.
    """
    if spec.frames is None:
        raise InputError(f"{spec.name} has no pictures; give its EnvSpec a function frames (see envs/cartpole.py)")
    return spec.frames
