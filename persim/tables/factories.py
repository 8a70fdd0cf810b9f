"""Gymnasium environments of your own: record a table in them, or make an ``EnvSpec`` of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from persim.envs.spec import Actions, Array, Covariate, EnvSpec, RewardFn, StateFn
from persim.errors import InputError, check_at_least
from persim.tables.exchange import Episode, table_of
from persim.tables.table import Table

if TYPE_CHECKING:
    import pandas as pd

Factory = Callable[..., gym.Env[Any, Any]]
Policy = Callable[[NDArray[Any], Generator], Any]


def collect_table(
    factory: Factory,
    agents: pd.DataFrame,
    steps: int,
    policy: Policy | None = None,
    *,
    seed: int = 0,
    state: Sequence[str] | None = None,
    action: Sequence[str] | None = None,
    **more: Any,
) -> Table:
    """Record a table in gymnasium environments of your own, one for each agent.

    Args:
        factory: makes the environment of an agent from its covariates as keywords, such as
            ``lambda length: gym.make("Pendulum-v1", l=length)``.
        agents: a frame with one row per agent, whose index has the ids and whose columns are the covariates.
        steps: of each agent; when an episode ends, another begins.
        policy: ``(observation [S], generator) -> action``; random actions if not given.
        seed: of the environments, the random actions and the generator.
        state: names of the state columns.
        action: names of the action columns.
        more: further fields of the schema, such as ``lags=4``.

    Raises:
        InputError: an environment has no flat observations or actions, or what it gives is no usable table.
    """
    check_at_least("steps", steps, 1)
    spawned = np.random.SeedSequence(seed).spawn(len(agents))
    episodes: list[Episode] = []
    for (name, row), source in zip(agents.iterrows(), spawned, strict=True):
        env = factory(**{str(key): value for key, value in row.items()})
        try:
            episodes += _played(env, str(name), steps, policy, source)
        finally:
            env.close()  # type: ignore[no-untyped-call]  # gymnasium's
    return table_of(episodes, state, action, agents, more)


def _played(
    env: gym.Env[Any, Any], agent: str, steps: int, policy: Policy | None, source: np.random.SeedSequence
) -> Iterable[Episode]:
    """Play one agent's environment until it has made so many steps."""
    rng = np.random.default_rng(source)
    first = int(rng.integers(2**31))
    env.action_space.seed(first)
    seeds: list[int | None] = [first]
    while steps > 0:
        observation, _ = env.reset(seed=seeds.pop() if seeds else None)
        seen, acts, rewards, over = [observation], [], [], False
        while steps > 0 and not over:
            act = env.action_space.sample() if policy is None else policy(observation, rng)
            observation, reward, terminated, truncated, _ = env.step(act)
            seen.append(observation)
            acts.append(act)
            rewards.append(reward)
            over, steps = terminated or truncated, steps - 1
        yield Episode(agent, np.array(seen), np.array(acts), np.array(rewards))


def never(states: Tensor) -> Tensor:
    """Say of states ``[..., S]`` that none ends an episode."""
    return torch.zeros(states.shape[:-1], dtype=torch.bool)


def spec_of(
    name: str,
    factory: Factory,
    covariates: Sequence[Covariate],
    set_state: Callable[[Any, Array], None],
    reward: RewardFn,
    *,
    horizon: int,
    terminated: StateFn = never,
    test_agents: Sequence[Sequence[float]] | None = None,
) -> EnvSpec:
    """Make an ``EnvSpec`` of gymnasium environments whose state can be set, to use them in every command.

    Gymnasium has no way to put an environment into a state, nor a reward as a function of it, so both are given. An
    environment that cannot be put into a state can only be recorded, by ``collect_table``. One environment is kept for
    each agent, and they are stepped one after the other, so this is as slow as they are.

    Args:
        name: of the environment, in tables and files.
        factory: makes the environment of an agent from its covariates as keywords.
        covariates: names, units and ranges of the C covariates.
        set_state: ``(env.unwrapped, observation [S]) -> None`` puts an environment that was just reset into the state
            that is seen as this observation.
        reward: ``(states [..., S], actions, next states [..., S]) -> rewards [...]`` in torch.
        horizon: steps after which an episode ends.
        terminated: ``next states [..., S] -> bool [...]`` in torch.
        test_agents: covariates of the agents that methods are compared on; the default agent if not given.

    Raises:
        InputError: the environment has no flat observations or actions.
    """
    envs: dict[tuple[float, ...], gym.Env[Any, Any]] = {}

    def env_of(row: Array) -> gym.Env[Any, Any]:
        key = tuple(map(float, row))
        if key not in envs:
            envs[key] = factory(**{one.name: value for one, value in zip(covariates, key, strict=True)})
        return envs[key]

    def reset(rng: Generator, rows: Array) -> Array:
        seeds = rng.integers(2**31, size=len(rows))
        starts = [env_of(row).reset(seed=int(seed))[0] for row, seed in zip(rows, seeds, strict=True)]
        return np.array(starts, dtype=np.float64)

    def step(states: Array, actions: Actions, rows: Array) -> Array:
        following = np.empty_like(states, dtype=np.float64)
        for number, (state, action, row) in enumerate(zip(states, actions, rows, strict=True)):
            env = env_of(row)
            env.reset()
            set_state(env.unwrapped, state)
            following[number] = env.step(action)[0]
        return following

    default = tuple(one.default for one in covariates)
    env = env_of(np.array(default))
    seen, acts = env.observation_space, env.action_space
    flat = isinstance(acts, gym.spaces.Discrete) or (isinstance(acts, gym.spaces.Box) and len(acts.shape) == 1)
    if not isinstance(seen, gym.spaces.Box) or len(seen.shape) != 1 or not flat:
        raise InputError(f"{name} has observations {seen} and actions {acts}; give flat ones, by gymnasium's wrappers")
    tested = [default] if test_agents is None else test_agents
    return EnvSpec(
        name=name, title=name, covariates=tuple(covariates), test_agents=tuple(map(tuple, tested)),
        policy_agents=(), horizon=horizon, observation_space=seen, action_space=acts,  # type: ignore[arg-type]  # flat
        reset=reset, step=step, reward=reward, terminated=terminated,
    )  # fmt: skip
