"""Recording trajectories of many agents at once in the true environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from persim.data.policies import BatchPolicy, UniformPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError, check_choice
from persim.seeding import generator

REGIMES = ("pure", "random", "pure-eps-20", "pure-eps-40")


def collect(
    spec: EnvSpec,
    covariates: Array,
    policy: BatchPolicy,
    rng: np.random.Generator,
    *,
    horizon: int | None = None,
    regime: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Trajectories:
    """One episode of every agent, all stepped together, fewer as they end.

    Args:
        spec: the environment.
        covariates: ``[N, C]``, one row per agent.
        policy: chooses the actions from the float32 observations.
        rng: the source of initial states and of the policy's randomness.
        horizon: steps after which an episode is truncated; the environment's own by default.
        regime: a name for the record.
        progress: called after every step with its number, from 1, and the number of episodes that go on.

    Returns:
        Trajectories of N agents.
    """
    limit = spec.horizon if horizon is None else horizon
    covariates = spec.covariate_rows(covariates)
    active = np.arange(len(covariates))
    states = spec.reset(rng, covariates)
    blocks: list[dict[str, NDArray[Any]]] = []
    for step in range(limit):
        observation = states.astype(np.float32)
        actions = policy.act(observation, rng)
        following = spec.step(states, actions, covariates[active])
        before, chosen, after = (torch.from_numpy(x) for x in (states, actions, following))
        ended = spec.terminated(after).numpy()
        blocks.append(
            {
                "agent": active,
                "step": np.full(len(active), step),
                "observation": observation,
                "action": actions,
                "next_observation": following.astype(np.float32),
                "reward": spec.reward(before, chosen, after).numpy().astype(np.float32),
                "terminated": ended,
                "truncated": ~ended & (step == limit - 1),
            }
        )
        active, states = active[~ended], following[~ended]
        policy.keep(~ended)
        if progress is not None:
            progress(step + 1, len(active))
        if not len(active):
            break
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    order = np.lexsort((columns["step"], columns["agent"]))
    columns = {name: column[order] for name, column in columns.items()}
    return Trajectories(spec.name, len(covariates), spec.action_space, **columns, covariates=covariates, regime=regime)


def check_regime(regime: str) -> str:
    """Returns ``regime`` if data can be recorded under it.

    Raises:
        InputError: it is unknown, or follows behaviour policies, which do not exist yet.
    """
    check_choice("regime", regime, REGIMES)
    if regime != "random":
        raise InputError(
            f"regime {regime!r} follows behaviour policies, which this version does not have; use --regime random"
        )
    return regime


def population(spec: EnvSpec, n_agents: int, seed: int) -> Array:
    """Covariates ``[N, C]`` of the agents of a dataset; the test agents come first.

    Raises:
        InputError: fewer agents than test agents.
    """
    return spec.sample_agents(n_agents, generator(seed, "agents", spec.name, n_agents))


def collect_regime(spec: EnvSpec, regime: str, n_agents: int, seed: int) -> Trajectories:
    """The offline dataset of a regime: one trajectory of each of N agents (Section 5.1).

    Args:
        spec: the environment.
        regime: one of ``REGIMES``.
        n_agents: N, at least the number of test agents.
        seed: gives the covariates (``agents``) and the episodes (``data``).

    Raises:
        InputError: an unknown regime, one that needs behaviour policies, or too few agents.
    """
    check_regime(regime)
    covariates = population(spec, n_agents, seed)
    rng = generator(seed, "data", spec.name, regime, n_agents)
    return collect(spec, covariates, UniformPolicy(spec.action_space), rng, regime=regime)
