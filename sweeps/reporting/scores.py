"""Rewards scaled to scores, so that agents and environments can be pooled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from baselines.registry import METHODS
from persim.evaluation import paper
from sweeps.reporting.blocks import Block

_AVERAGE = 5  # index of the average over agents in a row of Table 5
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
        method: name in ``baselines.registry``.
        runs: for each task the scores ``[trials]``.
        reduced: the tasks whose budget is not the paper's.
    """

    method: str
    runs: dict[Task, NDArray[np.float64]]
    reduced: frozenset[Task]

    def title(self, tasks: Iterable[Task]) -> str:
        """Give the paper's name of the method, with a dagger if the budget of one of these tasks is reduced."""
        return METHODS[self.method].title + (" †" if self.reduced.intersection(tasks) else "")

    def stratum(self, task: Task) -> tuple[str, ...]:
        """Name the runs of a task; a method that looks at no data has the same runs under every regime."""
        env, regime, agent = task
        return (env, regime if METHODS[self.method].learns else "", str(agent))

    def within(self, env: str | None, regime: str | None = None) -> list[Task]:
        """Select the tasks of an environment and a regime; None stands for all."""
        return [task for task in self.runs if env in (None, task[0]) and regime in (None, task[1])]


def scores(blocks: Iterable[Block]) -> list[MethodScores]:
    """Score every method that was measured in these blocks of the suite ``reward``, in their order."""
    runs: dict[str, dict[Task, NDArray[np.float64]]] = {}
    reduced: set[tuple[str, Task]] = set()
    measured = [(block, line.method, line.ours) for block in blocks for line in block.lines if line.ours is not None]
    for block, method, ours in measured:
        for agent in block.agents:
            values, task = ours.values(block.metric, agent + 1), (block.env, block.regime, agent)
            if len(values):
                runs.setdefault(method, {})[task] = scaled(values, block.env, agent)
                reduced |= {(method, task)} if ours.reduced else set()
    return [MethodScores(name, own, frozenset(t for t in own if (name, t) in reduced)) for name, own in runs.items()]


def scaled(rewards: NDArray[np.float64], env: str, agent: int) -> NDArray[np.float64]:
    """Scale the rewards ``[trials]`` of an agent (id from 0) to scores ``[trials]``."""
    low, high = paper.observed_data(env, "random")[_AVERAGE], paper.best_reward(env)[agent]
    found = (rewards - low) / (high - low)
    return np.where(np.isfinite(found), found, _WORST)
