"""Rewards on one scale, so that agents and environments can be pooled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from baselines.registry import METHODS
from persim.evaluation import paper
from sweeps.reporting.blocks import Block, Line

_AVERAGE = 5  # place of the average over agents in a row of Table 5
_WORST = -1.0  # score of a run whose reward was not a finite number
Task = tuple[str, str, int]

MEANING = (
    "Scores: a trial's average reward of one agent, scaled so that 0 is the average reward of random actions (Table 5) "
    "and 1 the highest average reward that any learning method of the paper reached for that agent under any regime "
    "(Tables 9 to 11). A task is an environment, a regime and an agent; its runs are the trials."
)


@dataclass(frozen=True)
class MethodScores:
    """Scores of one method.

    Attributes:
        method: in ``baselines.registry``.
        runs: scores of every trial, by task.
        reduced: the tasks whose budget is not the paper's.
    """

    method: str
    runs: dict[Task, NDArray[np.float64]]
    reduced: frozenset[Task]

    def title(self, tasks: Iterable[Task]) -> str:
        """The paper's name, with a dagger if the budget of one of these tasks is reduced."""
        return METHODS[self.method].title + (" †" if self.reduced.intersection(tasks) else "")

    def stratum(self, task: Task) -> tuple[str, ...]:
        """Names the runs of a task: those of a method that looks at no data serve every regime."""
        env, regime, agent = task
        return (env, regime if METHODS[self.method].learns else "", str(agent))

    def within(self, env: str | None, regime: str | None = None) -> list[Task]:
        """The tasks of an environment (all if None), under a regime (all if None), in order."""
        return [task for task in self.runs if env in (None, task[0]) and regime in (None, task[1])]


def scores(blocks: Iterable[Block]) -> list[MethodScores]:
    """Scores of every method that was measured in these blocks of the suite ``reward``, in their order."""
    by_method: dict[str, list[tuple[Block, Line]]] = {}
    for block in blocks:
        for line in block.lines:
            if line.ours is not None:
                by_method.setdefault(line.method, []).append((block, line))
    return [_scores(method, found) for method, found in by_method.items()]


def _scores(method: str, found: list[tuple[Block, Line]]) -> MethodScores:
    runs: dict[Task, NDArray[np.float64]] = {}
    reduced = set()
    for block, line in found:
        assert line.ours is not None  # by ``scores``
        for agent in block.agents:
            values = line.ours.values(block.metric, agent + 1)
            if len(values):
                runs[block.env, block.regime, agent] = scaled(values, block.env, agent)
                if line.ours.reduced:
                    reduced.add((block.env, block.regime, agent))
    return MethodScores(method, runs, frozenset(reduced))


def scaled(rewards: NDArray[np.float64], env: str, agent: int) -> NDArray[np.float64]:
    """Rewards of an agent (id from 0) as scores."""
    low, high = paper.observed_data(env, "random")[_AVERAGE], paper.best_reward(env)[agent]
    found = (rewards - low) / (high - low)
    return np.where(np.isfinite(found), found, _WORST)
