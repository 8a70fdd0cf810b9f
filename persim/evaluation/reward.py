"""Measure average reward: what a policy earns in the true environment of each agent (Section 5.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from persim.data.collect import Progress, collect
from persim.data.policies import BatchPolicy
from persim.envs.spec import Agents, Array, EnvSpec
from persim.errors import check_at_least

EPISODES = 20


@dataclass(frozen=True)
class AverageReward:
    """Returns of one agent's episodes.

    Attributes:
        agent: id of the agent.
        mean: mean of the returns.
        std: standard deviation of the returns.
        length: mean number of steps.
    """

    agent: int
    mean: float
    std: float
    length: float


@dataclass(frozen=True)
class RewardResult:
    """Rewards of all agents, and the time of a decision.

    Attributes:
        agents: one entry per agent, in the order asked for.
        decision_ms: wall time of the policy for one decision of one episode, in milliseconds.
    """

    agents: tuple[AverageReward, ...]
    decision_ms: float


class _Stopwatch(BatchPolicy):
    """Measure the time that a policy takes to decide."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy, self.seconds = policy, 0.0

    def act(self, states: NDArray[Any], rng: Generator) -> NDArray[Any]:
        start = time.perf_counter()
        actions = self._policy.act(states, rng)
        self.seconds += time.perf_counter() - start
        return actions

    def keep(self, running: NDArray[np.bool_]) -> None:
        self._policy.keep(running)


def average_rewards(
    spec: EnvSpec,
    covariates: Array,
    policy: Callable[[Agents], BatchPolicy],
    rng: Generator,
    *,
    agents: Sequence[int],
    episodes: int = EPISODES,
    progress: Progress = None,
) -> RewardResult:
    """Play episodes of several agents in the true environment, stepping all running episodes as one batch.

    The initial states depend on ``rng`` alone, so they are the same for every policy.

    Args:
        spec: the environment.
        covariates: ``[N, C]``, of all agents.
        policy: builds the policy of a batch from the agent ids ``[B]`` of its episodes.
        rng: the source of all randomness.
        agents: ids of the agents to test.
        episodes: number of episodes per agent.
        progress: called after every step with its number and the number of running episodes.

    Raises:
        InputError: ``episodes`` is below 1.
    """
    check_at_least("episodes", episodes, 1)
    ids = np.repeat(np.array(agents, dtype=np.int64), episodes)
    acting = _Stopwatch(policy(ids))
    data = collect(spec, covariates[ids], acting, rng, progress=progress)
    returns, lengths = np.zeros(len(ids)), np.bincount(data.agent, minlength=len(ids))
    np.add.at(returns, data.agent, data.reward.astype(np.float64))
    each = zip(agents, returns.reshape(-1, episodes), lengths.reshape(-1, episodes), strict=True)
    results = [AverageReward(int(a), float(r.mean()), float(r.std()), float(n.mean())) for a, r, n in each]
    return RewardResult(tuple(results), acting.seconds / len(data) * 1e3)
