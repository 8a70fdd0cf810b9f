"""Synthetic trajectories: episodes that take place in a trained simulator (Section 5.4, Appendix F.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persim.data.collect import Columns, in_order, transitions
from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, Covariate, EnvSpec
from persim.errors import InputError, check_at_least
from persim.methods.protocol import Predictor, Simulator
from persim.planning.planner import Plans

PER_AGENT = 5

States = NDArray[np.float32]


def synthetic_trajectories(
    simulator: Simulator,
    data: Trajectories,
    spec: EnvSpec,
    rng: np.random.Generator,
    *,
    agents: Sequence[int],
    per_agent: int = PER_AGENT,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectories:
    """Episodes of some agents in their simulators, all together, fewer as they end (Appendix F.4).

    As in MPC the plan of highest estimated reward is sought, but the whole of it is played, not its first
    action; then the next one is sought from the state where it is predicted to end. Predictions are the
    mean over members that roll out separately within a plan, and start together at the next one.

    The paper does not say where these episodes start. Here they do at initial states of ``data``, of any
    agent: the true environment is not asked for anything. See ``spread_starts``.

    Args:
        simulator: plans and predicts; trained on ``data``.
        data: the offline data.
        spec: gives reward, termination and the step limit.
        rng: the source of all randomness.
        agents: ids.
        per_agent: episodes of each.
        progress: called after every plan with the number of steps so far and of episodes that go on.

    Returns:
        Rows agent by agent as given, marked synthetic; covariates, regime and ids are those of ``data``.
        An episode whose prediction is not finite is truncated before, with a warning; it has no row if
        that is its first step.

    Raises:
        InputError: an agent out of range, fewer than 1 episode, or no finite prediction at all.
    """
    check_at_least("per_agent", per_agent, 1)
    ids = np.repeat(data.agent_ids(agents), per_agent)
    states = spread_starts(data.observation[data.step == 0], len(agents), per_agent, rng).reshape(len(ids), -1)
    active, step = np.arange(len(ids)), 0
    blocks: list[Columns] = []
    while len(active) and step < spec.horizon:
        plans = simulator.plan(ids[active], states, rng)[:, : spec.horizon - step]
        path = _float32(simulator.predict(ids[active], states, plans))
        block, running = _played(spec, path, plans, active, step)
        blocks.append(block)
        active, states, step = active[running], path[running, -1], step + plans.shape[1]
        if progress is not None:
            progress(step, len(active))
    columns = in_order(blocks, spec, len(ids))
    if not len(columns["agent"]):
        raise InputError(f"the simulator of {spec.name} predicts no finite state; train it for more epochs")
    columns["agent"] = ids[columns["agent"]]
    return replace(data, **columns, synthetic=True)


def spread_starts(starts: States, agents: int, per_agent: int, rng: np.random.Generator) -> States:
    """Start states far from each other, so that a policy learns from few episodes what to do wherever it begins.

    For each agent the first is drawn uniformly, each next one is the farthest from those before (Gonzalez 1985),
    in units of the spread of the initial states. Five drawn uniformly often leave a gap: of MountainCar's agent 3
    every fifth episode began in one, and never arrived.

    Args:
        starts: the initial states of the data ``[M, S]``.
        agents: how many there are.
        per_agent: start states of each.
        rng: the source of all randomness.

    Returns:
        ``[agents, per_agent, S]``.
    """
    spread = starts.std(0)
    scaled = starts / np.where(spread > 0, spread, 1)
    chosen = rng.integers(len(starts), size=(agents, 1))
    nearest = np.full((agents, len(starts)), np.inf)
    for _ in range(per_agent - 1):
        nearest = np.minimum(nearest, np.square(scaled - scaled[chosen[:, -1:]]).sum(2))
        again = rng.integers(len(starts), size=agents)  # once every state is taken, anyone may be again
        following = np.where(nearest.max(axis=1) > 0, nearest.argmax(axis=1), again)
        chosen = np.concatenate([chosen, following[:, None]], axis=1)
    return np.asarray(starts[chosen])


def _float32(states: NDArray[np.float64]) -> States:
    """Rounded before anything is computed, so that rewards are those of the rows; too large becomes infinite."""
    with np.errstate(over="ignore"):
        return states.astype(np.float32)


def _played(
    spec: EnvSpec, path: States, plans: Plans, episodes: NDArray[np.int64], first: int
) -> tuple[Columns, NDArray[np.bool_]]:
    """The steps of whole plans up to where each episode ends.

    Args:
        spec: the environment.
        path: predicted states ``[B, H + 1, S]``.
        plans: ``[B, H]`` or ``[B, H, A]``.
        episodes: number of each episode ``[B]``.
        first: number of the first step.

    Returns:
        Columns of the transitions, and which episodes ``[B]`` go on.
    """
    columns = transitions(spec, path[:, :-1], plans, path[:, 1:])
    steps = np.arange(first, first + plans.shape[1])
    columns |= {
        "agent": np.broadcast_to(episodes[:, None], columns["reward"].shape),
        "step": np.broadcast_to(steps, columns["reward"].shape),
        "truncated": ~columns["terminated"] & (steps == spec.horizon - 1),
    }
    finite = np.isfinite(path[:, 1:]).all(axis=2) & np.isfinite(columns["reward"])
    ends: NDArray[np.bool_] = columns["terminated"] | ~finite
    kept = finite & (ends.cumsum(axis=1) - ends == 0)  # nothing ended before
    running = ~np.asarray(ends.any(axis=1))
    return {name: column[kept] for name, column in columns.items()}, running


def simulated(spec: EnvSpec, predictor: Predictor, data: Trajectories) -> EnvSpec:
    """The environment as the predictor knows it; its one covariate is the number of the agent.

    Episodes start at initial states of ``data``, far from each other; reward and ends are the environment's own.
    """

    def reset(rng: np.random.Generator, covariates: Array) -> Array:
        starts = spread_starts(data.observation[data.step == 0], 1, len(covariates), rng)
        return np.asarray(starts[0], dtype=np.float64)

    def step(states: Array, actions: NDArray[Any], covariates: Array) -> Array:
        path = predictor.predict(covariates[:, 0].astype(np.int64), states.astype(np.float32), actions[:, None])
        return np.asarray(path[:, 1])

    agent = Covariate("agent", "", 0, max(1, data.n_agents - 1), 0)
    own = tuple((float(number),) for number in range(len(spec.test_agents)))
    return replace(spec, covariates=(agent,), test_agents=own, policy_agents=(), reset=reset, step=step)
