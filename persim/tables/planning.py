"""Plan for one agent with the inputs that are known ahead, and score policies of the user by simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from persim import seeding
from persim.errors import InputError, check_at_least
from persim.planning.cem import CEM, CEMSettings
from persim.tables.reading import Array
from persim.tables.rewards import Reward, RewardOf, Row
from persim.tables.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

PLANS, ROUNDS, ELITES = 200, 10, 20


@dataclass(frozen=True)
class _Around:
    """Actions ``[..., A]`` by numbers between -1 and 1, so that a search begins where the agent usually acts.

    0 is the usual action, -1 and 1 are the bounds, and half-way lies about one recorded deviation from the usual: rare
    doses that are far larger than all others do not make the search try them at every step.

    Attributes:
        usual: ``[A]``.
        low: ``[A]``.
        high: ``[A]``.
        bend: how much finer the scale is near the usual than near the bounds, below and above ``[2, A]``.
    """

    usual: Array
    low: Array
    high: Array
    bend: Array

    @classmethod
    def of(cls, simulator: Simulator, number: int, space: Box) -> _Around:
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        units, size = simulator.dynamics.units, len(low)
        usual = np.clip(units.centre[number, :size], low, high)
        ways = np.stack([usual - low, high - usual]) / units.spread[number, :size]
        return cls(usual, low, high, 2 * np.arccosh(np.maximum(1, ways / 2)) + 1e-6)

    def __call__(self, unit: Array) -> Array:
        way = np.where(unit < 0, self.usual - self.low, self.high - self.usual)
        bend = np.where(unit < 0, *self.bend)
        return np.asarray(self.usual + way * np.sinh(bend * unit) / np.sinh(bend))


@dataclass(frozen=True)
class _Scorer:
    """Scores plans of one agent by the mean over members of their total reward; see ``persim.planning.Scorer``."""

    simulator: Simulator
    reward: RewardOf
    agent: int
    known: Array
    around: _Around | None

    def actions(self, plans: NDArray[Any]) -> Array:
        """Return the actions ``[..., H, A]`` (codes if discrete) that plans ``[..., H, A]`` or ``[..., H]`` mean."""
        found = plans.astype(np.float64)
        return found[..., None] if self.around is None else self.around(found)

    def __call__(self, states: Array, agents: NDArray[np.int64], plans: NDArray[Any], top: int | None = None) -> Array:
        flat = self.actions(plans.reshape(-1, *plans.shape[2:]))
        total = simulated_reward(self.simulator, self.reward, np.full(len(flat), self.agent),
                                 np.repeat(states, plans.shape[1], axis=0), flat,
                                 np.broadcast_to(self.known, (len(flat), *self.known.shape)))  # fmt: skip
        return np.where(np.isfinite(total), total, -np.inf).reshape(plans.shape[:2])


def simulated_reward(
    simulator: Simulator, reward: RewardOf, agents: NDArray[np.int64], history: Array, action: Array, known: Array
) -> Array:
    """Return the total reward ``[B]``, averaged over members, of actions ``[B, H, A]`` and inputs ``[B, H, C]``."""
    acts = simulator.dynamics.features.acts(action, known)
    states = simulator.dynamics.steps(agents, torch.from_numpy(history), torch.from_numpy(acts)).numpy()
    shape = states.shape[:3]
    step = reward(states, np.broadcast_to(action, (*shape, action.shape[-1])),
                  np.broadcast_to(known, (*shape, known.shape[-1])))  # fmt: skip
    return np.asarray(step.sum(2).mean(0))


def plan(
    simulator: Simulator,
    agent: str,
    steps: int,
    *,
    reward: Reward | None = None,
    start: Any = None,
    known: Any = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    band: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Find actions of the next steps that earn most on the simulator, by the cross-entropy method.

    The search begins where the agent usually acts, and its result is never worse than that on the simulator.

    Args:
        simulator: the simulator.
        agent: its id.
        steps: H.
        reward: a function of the columns after each step (``persim.tables.rewards.Row``), or None for what the recorded
            reward taught.
        start: a table or frame with the agent's latest rows; the end of its training data by default.
        known: a frame with the known inputs of the next steps; needed where the schema has any.
        bounds: lowest and highest action by column; those of the agent's own data by default.
        band: share that a band around the predicted states shall cover, such as 0.9.
        seed: of the search.

    Returns:
        A frame with a row for each step: the actions, the known inputs, and the states that follow.

    Raises:
        InputError: the schema has no action, or an agent, a column, a bound or the reward is not usable.
    """
    schema, number = simulator.schema, simulator.number(agent)
    if not schema.action:
        raise InputError("the schema has no action column, so there is nothing to plan; name one in the schema")
    check_at_least("steps", steps, 1)
    history = simulator.start(agent, start)
    inputs = simulator.known_inputs(known, steps)
    objective = RewardOf(schema, reward, simulator.rewards)
    space = space_of(simulator, number, bounds or {})
    around = None if isinstance(space, Discrete) else _Around.of(simulator, number, space)
    scorer = _Scorer(simulator, objective, number, inputs, around)
    settings = CEMSettings(plans=PLANS, horizon=steps, elites=ELITES, iterations=ROUNDS, spread=(0.3, 0.8))
    searched = space if isinstance(space, Discrete) else Box(-1, 1, space.shape)
    search = CEM(scorer, searched, settings, deviates=around is not None)
    start_from, agents = history[None], np.array([number])
    found, _ = search.search(start_from, agents, None, seeding.generator(seed, "plan"))
    if around is not None:
        both = np.stack([found, np.zeros_like(found)], axis=1)
        found = both[:, scorer(start_from, agents, both)[0].argmax()]
    action = scorer.actions(found[0])
    return simulator.frame(number, history, action, inputs, band)


def space_of(simulator: Simulator, number: int, bounds: Mapping[str, tuple[float, float]]) -> Box | Discrete:
    """The actions that a plan may hold.

    Raises:
        InputError: a bound is of no action, or not two ordered numbers.
    """
    schema = simulator.schema
    if schema.discrete:
        if bounds:
            raise InputError(f"bounds are for continuous actions, but {schema.action[0]!r} has labels; leave them out")
        return Discrete(len(schema.labels))
    low, high = simulator.bounds[:, number].copy()
    for name, limits in bounds.items():
        if name not in schema.action:
            raise InputError(f"bounds of {name!r}, which is no action; actions are: {', '.join(schema.action)}")
        given = np.asarray(limits, dtype=np.float64).ravel()
        if len(given) != 2 or not np.isfinite(given).all() or given[0] >= given[1]:
            raise InputError(f"bounds of {name!r} are {limits!r}; give two numbers, the lower first")
        low[schema.action.index(name)], high[schema.action.index(name)] = given
    return Box(low.astype(np.float32), high.astype(np.float32))


def score_policies(
    simulator: Simulator,
    policies: Mapping[str, Callable[[Row], Any]],
    steps: int,
    *,
    reward: Reward | None = None,
    agents: Sequence[str] | None = None,
    known: Any = None,
) -> pd.DataFrame:
    """Simulate each policy for each agent from the end of its data; return the mean reward of a step.

    Args:
        simulator: the simulator.
        policies: by name: functions of the present columns (states and known inputs; arrays over paths) that return the
            action: an array, or a mapping of columns where there are several. Labels where the action is discrete.
        steps: H.
        reward: as in ``plan``.
        agents: ids; all by default.
        known: a frame with the known inputs of the next steps, the same for all agents.

    Returns:
        A frame with a row for each agent and a column for each policy.

    Raises:
        InputError: an agent is unknown or has no history, or a policy gives what is no action.
    """
    import pandas as pd

    check_at_least("steps", steps, 1)
    names = list(simulator.names if agents is None else agents)
    numbers = np.array([simulator.number(name) for name in names])
    history = np.stack([simulator.start(name, None) for name in names])
    inputs = simulator.known_inputs(known, steps)
    objective = RewardOf(simulator.schema, reward, simulator.rewards)
    scores = {name: _score(simulator, name, policy, numbers, history, inputs, objective)
              for name, policy in policies.items()}  # fmt: skip
    return pd.DataFrame(scores, index=pd.Index(names, name=simulator.schema.agent))


def _score(
    simulator: Simulator, name: str, policy: Callable[[Row], Any], numbers: NDArray[np.int64], history: Array,
    inputs: Array, objective: RewardOf,
) -> Array:  # fmt: skip
    """The mean reward ``[B]`` of a step under a policy."""
    dynamics, states = simulator.dynamics, len(simulator.schema.state)
    members = dynamics.theta.shape[0]
    now = torch.from_numpy(history)[None].expand(members, -1, -1)
    total = np.zeros(len(numbers))
    for known in inputs:
        shape = (members, len(numbers))
        given = np.broadcast_to(known, (*shape, len(known)))
        action = _actions(simulator, name, policy, now[..., :states].numpy(), given)
        acts = dynamics.features.acts(action, given)
        now = dynamics.follow(numbers, now, torch.from_numpy(acts))
        total += objective(now[..., :states].numpy(), action, given).mean(0)
    return total / len(inputs)


def _actions(simulator: Simulator, name: str, policy: Callable[[Row], Any], states: Array, known: Array) -> Array:
    """Actions ``[K, B, A]`` of a policy (codes if discrete).

    Raises:
        InputError: it gives something else, or fails.
    """
    schema = simulator.schema
    columns = [*zip(schema.state, np.moveaxis(states, -1, 0), strict=True),
               *zip(schema.known, np.moveaxis(known, -1, 0), strict=True)]  # fmt: skip
    try:
        found = policy(Row(columns))
        parts = [found[column] for column in schema.action] if isinstance(found, Mapping) else [found]
        if schema.discrete:
            words = np.broadcast_to(np.asarray(parts[0]).astype(str), states.shape[:2])
            codes = np.searchsorted(sorted(schema.labels), words)
            order = np.argsort(schema.labels)
            parts = [order[np.clip(codes, 0, len(order) - 1)].astype(np.float64)]
            if not (np.array(schema.labels)[parts[0].astype(int)] == words).all():
                raise ValueError(f"labels are {', '.join(schema.labels)}")
        arrays = [np.broadcast_to(np.asarray(part, dtype=np.float64), states.shape[:2]) for part in parts]
        stacked = np.stack(arrays, axis=-1)
        if stacked.shape[-1] != len(schema.action) or not np.isfinite(stacked).all():
            raise ValueError(f"it has to give finite values of {', '.join(schema.action)}")
        return stacked
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"policy {name!r} gives no action ({type(error).__name__}: {error})") from error
