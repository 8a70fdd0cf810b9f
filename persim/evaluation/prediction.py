"""Measure prediction error: open-loop rollouts of a model against the true environment (Section 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from persim.data.collect import collect
from persim.data.policies import TEST_EPSILON, TEST_STEPS, BatchPolicy, EpsilonPolicy
from persim.envs.spec import Actions, Agents, Array, EnvSpec
from persim.errors import InputError
from persim.planning.scoring import Dynamics

WARM_UP = 10
HORIZON = TEST_STEPS - WARM_UP
EPISODES = 200


@dataclass(frozen=True)
class History:
    """The W true steps before a prediction starts, from which some methods infer the agent.

    Attributes:
        states: ``[B, W + 1, S]``; the prediction starts at the last of them.
        actions: ``[B, W]`` or ``[B, W, A]``.
    """

    states: NDArray[Any]
    actions: NDArray[Any]


@dataclass(frozen=True)
class TrueRollouts:
    """True trajectories of the test agents under the test policy, as dense arrays.

    Attributes:
        agents: ``[B]``, id of the agent of each episode.
        states: ``[B, T + 1, S]`` float32, NaN after the episode's end.
        actions: ``[B, T]`` or ``[B, T, A]``, 0 after the episode's end.
    """

    agents: Agents
    states: NDArray[np.float32]
    actions: Actions

    @property
    def start(self) -> NDArray[np.float32]:
        """The states ``[B, S]`` after the warm-up; 0 for episodes that ended earlier, which are not scored."""
        return np.nan_to_num(self.states[:, WARM_UP])

    @property
    def steps(self) -> NDArray[np.float64]:
        """Mean number of steps ``[agents]``, warm-up included, of each agent's episodes, in the order of the agents."""
        taken = np.isfinite(self.states[:, 1:]).all(-1).sum(1)
        return np.array([taken[self.agents == agent].mean() for agent in dict.fromkeys(self.agents.tolist())])

    @property
    def history(self) -> History:
        """The true steps of the warm-up, W = ``WARM_UP``."""
        return History(self.states[:, : WARM_UP + 1], self.actions[:, :WARM_UP])

    @property
    def played(self) -> Actions:
        """The actions ``[B, HORIZON]`` or ``[B, HORIZON, A]`` after the warm-up."""
        return self.actions[:, WARM_UP : WARM_UP + HORIZON]


@dataclass(frozen=True)
class PredictionError:
    """Prediction error of one agent: mean RMSE and median R2 over its episodes (Tables 6 to 8).

    Attributes:
        agent: id of the agent.
        rmse: mean over episodes of the RMSE pooled over steps and raw state dimensions.
        r2: median over episodes of the variance-weighted R2.
        episodes: number of scored episodes; those that ended within the warm-up are not scored.
        steps: mean number of scored steps of these episodes, at most ``HORIZON``.
    """

    agent: int
    rmse: float
    r2: float
    episodes: int
    steps: float


def true_rollouts(
    spec: EnvSpec, policy: BatchPolicy, rng: Generator, agents: Sequence[int] | None = None, episodes: int = EPISODES
) -> TrueRollouts:
    """Play episodes of the test policy (with epsilon 0.01) in the true environment of each test agent.

    Test agent i has id i. By default all play, each for this number of episodes.

    Raises:
        InputError: an id is not that of a test agent.
    """
    chosen = list(range(len(spec.test_agents)) if agents is None else agents)
    if not set(chosen) <= set(range(len(spec.test_agents))):
        raise InputError(f"agents {chosen} are not all test agents; use ids 0 to {len(spec.test_agents) - 1}")
    ids = np.repeat(np.array(chosen, dtype=np.int64), episodes)
    acting, steps = EpsilonPolicy(policy, TEST_EPSILON, spec.action_space), WARM_UP + HORIZON
    data = collect(spec, np.array(spec.test_agents)[ids], acting, rng, horizon=steps)
    states = np.full((len(ids), steps + 1, data.state_dim), np.nan, dtype=np.float32)
    actions = np.zeros((len(ids), steps, *data.action.shape[1:]), dtype=data.action.dtype)
    states[data.agent, data.step] = data.observation
    states[data.agent, data.step + 1] = data.next_observation
    actions[data.agent, data.step] = data.action
    return TrueRollouts(ids, states, actions)


def open_loop(dynamics: Dynamics, agents: Agents, states: NDArray[Any], actions: NDArray[Any]) -> Array:
    """Predict states ``[B, H + 1, S]`` from the start and the actions alone: the mean of members that roll separately.

    Agents ``[B]`` start in states ``[B, S]`` and take actions ``[B, H]`` or ``[B, H, A]``.
    """
    who, played, start = (torch.tensor(array) for array in (agents, actions, states))  # copies: arrays may be read-only
    current = start.unsqueeze(0)
    means = [current.double().mean(0)]
    with torch.no_grad():
        for step in range(actions.shape[1]):
            current = dynamics(who, current, played[:, step])
            means.append(current.double().mean(0).cpu())
    return torch.stack(means, dim=1).numpy()


def predicted_states(dynamics: Dynamics, rollouts: TrueRollouts) -> Array:
    """Predict states ``[B, HORIZON, S]`` from the true state after ``WARM_UP`` steps."""
    return open_loop(dynamics, rollouts.agents, rollouts.start, rollouts.played)[:, 1:]


def _episode_scores(true: Array, predicted: Array) -> tuple[float, float]:
    """Compute RMSE and variance-weighted R2 of one episode ``[T, S]`` without missing steps."""
    error = np.square(predicted - true)
    spread = np.square(true - true.mean(0)).sum()
    r2 = 1 - error.sum() / spread if spread > 0 else float(not error.any())
    return float(np.sqrt(error.mean())), float(r2)


def prediction_errors(dynamics: Dynamics, rollouts: TrueRollouts) -> list[PredictionError]:
    """Measure the errors per test agent of 50-step open-loop prediction; steps after termination are left out."""
    return errors_of(predicted_states(dynamics, rollouts), rollouts)


def errors_of(predicted: Array, rollouts: TrueRollouts) -> list[PredictionError]:
    """Compute the errors per test agent of predictions ``[B, HORIZON, S]``.

    Raises:
        InputError: every episode of an agent ended within the warm-up.
    """
    true = rollouts.states[:, WARM_UP + 1 :].astype(np.float64)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(true).all(axis=-1))
    results = []
    for agent in dict.fromkeys(rollouts.agents.tolist()):
        episodes = np.flatnonzero((rollouts.agents == agent) & known.any(axis=1))
        scores = [_episode_scores(true[i][known[i]], predicted[i][known[i]]) for i in episodes]
        if not scores:
            raise InputError(f"every episode of agent {agent + 1} ended within {WARM_UP} steps; play more episodes")
        rmse, r2 = np.array(scores).T
        steps = float(known[episodes].sum(1).mean())
        results.append(PredictionError(int(agent), float(rmse.mean()), float(np.median(r2)), len(scores), steps))
    return results
