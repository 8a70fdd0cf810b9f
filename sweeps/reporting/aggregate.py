"""Section that pools agents and environments: interquartile means, performance profiles, probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from baselines.registry import METHODS
from persim import seeding
from persim.evaluation import paper
from sweeps.reporting.compare import number
from sweeps.reporting.draw import Compared, drawn, iqm_figure, profile_figure
from sweeps.reporting.page import Entry, Figure, Section, Table, text
from sweeps.reporting.results import ENV_TITLES, Block, Results
from sweeps.reporting.select import DAGGER
from sweeps.reporting.stats import Interval, Profile, improvement, iqm, profile

OURS = "persim"
THRESHOLDS = np.linspace(-0.25, 1.5, 176)
_AVERAGE = 5  # index of the average over agents in a row of Table 5
_WORST = -1.0  # score of a run whose reward was not a finite number
_SCORES = (
    "Scores: a trial's average reward of one agent, scaled so that 0 is the average reward of random actions (Table 5) "
    "and 1 the highest average reward that any learning method of the paper reached for that agent under any regime "
    "(Tables 9 to 11). A task is an environment, a regime and an agent; its runs are the trials."
)
_METHOD = (
    "Interquartile mean (IQM): the mean of the middle half of all runs. Intervals are 95 % percentile intervals of a "
    "bootstrap that resamples the trials of each task among themselves (2000 resamples, seeded); where one side has a "
    "single trial of a task there is nothing to resample, hence no interval. Probability of improvement: that a run of "
    "PerSim beats one of the other method on the same task (ties count one half), averaged over tasks. Each method is "
    "compared with PerSim on the tasks that both have. Agarwal et al. (2021)."
)
_UNEQUAL = (
    "Each method acts in its own way here: planners, horizons, plans and numbers of episodes differ between the lines "
    "(they stand below the tables of rewards), so these numbers compare methods as they were run, not models alone. "
    "Where methods earn the most that an episode can pay, which these notes say, scores separate nothing."
)
Task = tuple[str, str, int]  # environment, regime, agent id


@dataclass
class MethodScores:
    """Scores of one method.

    Attributes:
        method: name in ``baselines.registry``.
        runs: for each task the scores ``[trials]``.
        reduced: the tasks whose budget is not the paper's.
    """

    method: str
    runs: dict[Task, NDArray[np.float64]] = field(default_factory=dict)
    reduced: set[Task] = field(default_factory=set)

    def title(self, tasks: Iterable[Task]) -> str:
        """Give the paper's name of the method, with a dagger if the budget of one of these tasks is reduced."""
        return METHODS[self.method].label + (f" {DAGGER}" if self.reduced.intersection(tasks) else "")

    def stratum(self, task: Task) -> tuple[str, ...]:
        """Name the runs of a task; a method that looks at no data has the same runs under every regime."""
        env, regime, agent = task
        return (env, regime if METHODS[self.method].learns else "", str(agent))

    def iqm(self, tasks: Sequence[Task], what: str) -> Interval:
        """Compute the interquartile mean over these tasks; ``what`` names the seed of its bootstrap."""
        rng = seeding.generator(0, "report", what, self.method)
        return iqm([self.runs[task] for task in tasks], rng, list(map(self.stratum, tasks)))

    def within(self, env: str | None, regime: str | None = None) -> list[Task]:
        """Select the tasks of an environment and a regime; None stands for all."""
        return [task for task in self.runs if env in (None, task[0]) and regime in (None, task[1])]


def scores(blocks: Iterable[Block]) -> list[MethodScores]:
    """Score every method that was measured in these blocks of the suite ``reward``, in their order."""
    found: dict[str, MethodScores] = {}
    for block in blocks:
        for line, agent in product(block.lines, block.agents):
            values, task = line.values(block.metric, agent), (block.env, block.regime, agent)
            if len(values):
                scored = found.setdefault(line.method, MethodScores(line.method))
                scored.runs[task] = scaled(values, block.env, agent)
                scored.reduced |= {task} if line.ours and line.ours.reduced else set()
    return list(found.values())


def scaled(rewards: NDArray[np.float64], env: str, agent: int) -> NDArray[np.float64]:
    """Scale the rewards ``[trials]`` of an agent (id from 0) to scores ``[trials]``."""
    low, high = paper.observed_data(env, "random")[_AVERAGE], paper.best_reward(env)[agent]
    found = (rewards - low) / (high - low)
    return np.where(np.isfinite(found), found, _WORST)


def aggregates(results: Results) -> list[Section]:
    """Compare all methods with PerSim in tables and pictures, or say that nothing is measured."""
    found = scores(results.of("reward"))
    title = "Aggregates over agents and environments"
    if not found:
        return [Section(title, "aggregates", ("Nothing has measured rewards with N = 500 yet.",))]
    ours = next((scored for scored in found if scored.method == OURS), None)
    columns = ("method", "tasks", "runs", "IQM [95 %]", "PerSim's IQM on the same tasks", "P(PerSim is better)")
    tables, panels = [], {}
    for env in (None, *ENV_TITLES):
        place = "all environments together" if env is None else ENV_TITLES[env]
        compared = [_compared(ours, scored, env) for scored in found if scored.within(env)]
        if compared:
            tables.append(Table(f"Scores, N = 500: {place}", columns, tuple(map(_row, compared))))
        if env and (shared := [one for one in compared if one.tasks]):
            panels[place] = shared
    figures = (*_iqm(panels), *_profiles(found))
    return [Section(title, "aggregates", (_SCORES, _METHOD, _UNEQUAL), tuple(tables), figures)]


def _compared(ours: MethodScores | None, scored: MethodScores, env: str | None) -> Compared:
    """Compare a method with PerSim on the tasks of an environment (of all: None) that both have."""
    tasks, what = [task for task in scored.within(env) if ours is None or task in ours.runs], env or "all"
    runs = [scored.runs[task] for task in tasks]
    own = scored.iqm(tasks, what) if tasks else None
    reference = better = None
    if tasks and ours is not None and ours is not scored:
        rng, strata = seeding.generator(0, "report", "improvement", what, scored.method), map(scored.stratum, tasks)
        reference = ours.iqm(tasks, what)
        better = improvement([ours.runs[task] for task in tasks], runs, rng, list(strata))
    return Compared(scored.method, scored.title(tasks), len(tasks), sum(map(len, runs)), own, reference, better)


def _row(found: Compared) -> tuple[Entry, ...]:
    style = "plain" if found.tasks else "missing"
    intervals = (text(_interval(one), style) for one in (found.own, found.reference, found.better))
    return (Entry((found.title,)), text(str(found.tasks)), text(str(found.runs)), *intervals)


def _interval(found: Interval | None) -> str:
    if found is None:
        return "–"
    estimate, low, high = (number(value, 2) for value in (found.estimate, found.low, found.high))
    return estimate if math.isnan(found.low) else f"{estimate} [{low}, {high}]"


def _iqm(panels: Mapping[str, Sequence[Compared]]) -> Iterator[Figure]:
    """Draw every method beside PerSim on the same tasks, a panel for each environment."""
    caption = (
        "Interquartile mean of the scores with its 95 % interval; the hollow mark is PerSim's on the same tasks (0: "
        "random actions, 1: the paper's best for each agent; the number in parentheses is that of the tasks)."
    )
    if panels:
        yield Figure("iqm", drawn("iqm", partial(iqm_figure, panels)), caption)


def _profiles(found: Sequence[MethodScores]) -> Iterator[Figure]:
    """Draw a panel for each environment and regime, in which all methods have the same tasks."""
    panels: dict[str, dict[str, Profile]] = {}
    for env, regime in dict.fromkeys(task[:2] for scored in found for task in scored.runs):
        own = {scored.method: _profile(scored, env, regime) for scored in found if scored.within(env, regime)}
        if OURS in own or len(own) > 1:
            panels[f"{ENV_TITLES[env]}, {regime}"] = own
    caption = (
        "Performance profiles: the share of runs whose score is above the threshold, averaged over the five agents, "
        "with pointwise 95 % intervals where there are several trials. Higher is better."
    )
    if panels:
        yield Figure("profiles", drawn("profiles", partial(profile_figure, panels, THRESHOLDS)), caption)


def _profile(scored: MethodScores, env: str, regime: str) -> Profile:
    rng = seeding.generator(0, "report", "profile", env, regime, scored.method)
    return profile([scored.runs[task] for task in scored.within(env, regime)], THRESHOLDS, rng)
