"""Record trajectories of many agents at once in the true environment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from persim.data.policies import BatchPolicy, EpsilonPolicy, NearestPolicy, UniformPolicy, load_behaviour_policies
from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, EnvSpec
from persim.errors import check_choice
from persim.seeding import Streams, drawn, generator

Columns = dict[str, Any]  # arrays by column name of Trajectories
Progress = Callable[[int, int], None] | None
_logger = logging.getLogger(__name__)

REGIMES = ("pure", "random", "pure-eps-20", "pure-eps-40")
# Probability that an action is uniformly random instead of the behaviour policy's (Section 5.1).
_EPSILON = {"pure": 0.0, "pure-eps-20": 0.2, "pure-eps-40": 0.4}


def collect(
    spec: EnvSpec,
    covariates: Array,
    policy: BatchPolicy,
    rng: Generator,
    *,
    horizon: int | None = None,
    regime: str = "",
    progress: Progress = None,
) -> Trajectories:
    """Record one episode of each of N agents, stepping all running episodes as one batch.

    Args:
        spec: the environment.
        covariates: ``[N, C]``, one row per agent.
        policy: chooses the actions from the float32 observations.
        rng: the source of initial states and of the policy's randomness.
        horizon: steps after which an episode is truncated; the environment's own by default.
        regime: the name under which the trajectories are recorded.
        progress: called after every step with its number, from 1, and the number of running episodes.
    """
    limit = spec.horizon if horizon is None else horizon
    covariates = spec.covariate_rows(covariates)
    active = np.arange(len(covariates))
    starts = iter(np.split(covariates, np.cumsum(rng.counts)[:-1]) if isinstance(rng, Streams) else [covariates])
    states = drawn(rng, len(covariates), lambda generator, _: spec.reset(generator, next(starts)))
    blocks: list[Columns] = []
    for step in range(limit):
        actions = policy.act(states.astype(np.float32), rng)
        following = spec.step(states, actions, covariates[active])
        usable: NDArray[np.bool_] = np.asarray(np.isfinite(following).all(1))
        block = transitions(spec, states[usable], actions[usable], following[usable])
        running = usable.copy()
        running[usable] = ~block["terminated"]
        truncated = ~block["terminated"] & (step == limit - 1)
        blocks.append(block | {"agent": active[usable], "step": np.full(usable.sum(), step), "truncated": truncated})
        active, states = active[running], following[running]
        policy.keep(running)
        if isinstance(rng, Streams):
            rng.keep(running)
        if progress is not None:
            progress(step + 1, len(active))
        if not len(active):
            break
    columns = in_order(blocks, spec, len(covariates))
    return Trajectories(spec.name, len(covariates), spec.action_space, **columns, covariates=covariates, regime=regime)


def transitions(spec: EnvSpec, states: NDArray[Any], actions: NDArray[Any], following: NDArray[Any]) -> Columns:
    """Compute the columns of steps from states to ``following`` ``[..., S]`` by actions ``[...]`` or ``[..., A]``."""
    before, chosen, after = (torch.from_numpy(x) for x in (states, actions, following))
    return {
        "observation": states.astype(np.float32),
        "action": actions,
        "next_observation": following.astype(np.float32),
        "reward": spec.reward(before, chosen, after).numpy().astype(np.float32),
        "terminated": spec.terminated(after).numpy(),
    }


def in_order(blocks: Sequence[Columns], spec: EnvSpec, episodes: int) -> Columns:
    """Join blocks of transitions and sort them by episode and step.

    The blocks hold columns ``[M, ...]``, of which ``agent`` is the number of the episode, from 0. An episode whose
    last row is neither terminated nor truncated ran into a state that is not finite: it is truncated after its last
    good step, and a warning counts such episodes.
    """
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    order = np.lexsort((columns["step"], columns["agent"]))
    columns = {name: column[order] for name, column in columns.items()}
    last = np.append(columns["agent"][1:] != columns["agent"][:-1], True)
    broken = last & ~columns["terminated"] & ~columns["truncated"]
    columns["truncated"] |= broken
    lost = int(broken.sum()) + episodes - len(np.unique(columns["agent"]))
    if lost:
        message = "%d of %d episodes of %s ran into a state that is not finite; they are recorded up to there"
        _logger.warning(message, lost, episodes, spec.name)
    return columns


def check_regime(regime: str, spec: EnvSpec) -> str:
    """Return ``regime`` if data can be recorded under it.

    Raises:
        InputError: the regime is unknown, or the behaviour policies that it needs are missing.
    """
    check_choice("regime", regime, REGIMES)
    if regime != "random":
        load_behaviour_policies(spec.name, len(spec.policy_agents))
    return regime


def behaviour_policy(spec: EnvSpec, regime: str, covariates: Array) -> BatchPolicy:
    """Build the policy that records the data of agents with covariates ``[B, C]`` (Section 5.1).

    Raises:
        InputError: as ``check_regime``.
    """
    check_choice("regime", regime, REGIMES)
    if regime == "random":
        return UniformPolicy(spec.action_space)
    policies = load_behaviour_policies(spec.name, len(spec.policy_agents))
    scale = np.array([covariate.high - covariate.low for covariate in spec.covariates])
    pure = NearestPolicy(policies, np.array(spec.policy_agents), scale, covariates)
    return EpsilonPolicy(pure, _EPSILON[regime], spec.action_space)


def population(spec: EnvSpec, n_agents: int, seed: int) -> Array:
    """Draw the covariates ``[N, C]`` of the agents of a dataset; the test agents come first.

    Raises:
        InputError: ``n_agents`` is below the number of test agents.
    """
    return spec.sample_agents(n_agents, generator(seed, "agents", spec.name, n_agents))


def collect_regime(spec: EnvSpec, regime: str, n_agents: int, seed: int, progress: Progress = None) -> Trajectories:
    """Record the offline dataset of a regime: one trajectory of each of N agents (Section 5.1).

    The seed determines the covariates (``agents``) and the episodes (``data``); ``progress`` is that of ``collect``.

    Raises:
        InputError: the regime is unknown, its behaviour policies are missing, or N is too small.
    """
    covariates = population(spec, n_agents, seed)
    rng = generator(seed, "data", spec.name, regime, n_agents)
    return collect(spec, covariates, behaviour_policy(spec, regime, covariates), rng, regime=regime, progress=progress)
