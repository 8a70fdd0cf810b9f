"""Section that pools agents and environments: interquartile means, performance profiles, probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from baselines.registry import METHODS
from persim import seeding
from persim.evaluation import paper
from sweeps.reporting.blocks import ENV_TITLES, Block
from sweeps.reporting.compare import number
from sweeps.reporting.draw import Pair, drawn, iqm_figure, profile_figure
from sweeps.reporting.page import Entry, Figure, Section, Table, text
from sweeps.reporting.results import Results
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
    "bootstrap that resamples the trials of each task among themselves (2000 resamples, seeded); with one trial a task "
    "there is nothing to resample, hence none. Probability of improvement: that a run of PerSim beats one of the other "
    "method on the same task (ties count one half), averaged over tasks. Each method is compared with PerSim on the "
    "tasks that both have. Agarwal et al. (2021)."
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
        return METHODS[self.method].title + (f" {DAGGER}" if self.reduced.intersection(tasks) else "")

    def stratum(self, task: Task) -> tuple[str, ...]:
        """Name the runs of a task; a method that looks at no data has the same runs under every regime."""
        env, regime, agent = task
        return (env, regime if METHODS[self.method].learns else "", str(agent))

    def within(self, env: str | None, regime: str | None = None) -> list[Task]:
        """Select the tasks of an environment and a regime; None stands for all."""
        return [task for task in self.runs if env in (None, task[0]) and regime in (None, task[1])]


def scores(blocks: Iterable[Block]) -> list[MethodScores]:
    """Score every method that was measured in these blocks of the suite ``reward``, in their order."""
    found: dict[str, MethodScores] = {}
    for own, line in ((block, line) for block in blocks for line in block.lines):
        for agent in own.agents:
            values, task = line.values(own.metric, agent), (own.env, own.regime, agent)
            if len(values):
                scored = found.setdefault(line.method, MethodScores(line.method))
                scored.runs[task] = scaled(values, own.env, agent)
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
    tables = [_table(found, ours, env) for env in (None, *ENV_TITLES)]
    figures = (*_iqm(found, ours), *_profiles(found))
    return [Section(title, "aggregates", (_SCORES, _METHOD), tuple(t for t in tables if t.rows), figures)]


def _beside(ours: MethodScores | None, scored: MethodScores, env: str | None) -> tuple[MethodScores | None, list[Task]]:
    """Select what a method is compared with (None for PerSim itself), and the tasks that both have."""
    if ours is None or ours is scored:
        return None, scored.within(env)
    return ours, [task for task in scored.within(env) if task in ours.runs]


def _mean(scored: MethodScores, tasks: Sequence[Task], what: str) -> Interval:
    """Interquartile mean over these tasks."""
    rng = seeding.generator(0, "report", what, scored.method)
    return iqm([scored.runs[task] for task in tasks], rng, [scored.stratum(task) for task in tasks])


def _better(ours: MethodScores, other: MethodScores, tasks: Sequence[Task], what: str) -> Interval:
    """Probability that ours is better on these tasks."""
    rng = seeding.generator(0, "report", "improvement", what, other.method)
    strata = [other.stratum(task) for task in tasks]
    return improvement([ours.runs[task] for task in tasks], [other.runs[task] for task in tasks], rng, strata)


def _table(found: Sequence[MethodScores], ours: MethodScores | None, env: str | None) -> Table:
    rows = tuple(_row(ours, scored, env) for scored in found if scored.within(env))
    where = "all environments together" if env is None else ENV_TITLES[env]
    columns = ("method", "tasks", "runs", "IQM [95 %]", "PerSim's IQM on the same tasks", "P(PerSim is better)")
    return Table(f"Scores, N = 500: {where}", columns, rows)


def _row(ours: MethodScores | None, scored: MethodScores, env: str | None) -> tuple[Entry, ...]:
    reference, tasks = _beside(ours, scored, env)
    runs = sum(len(scored.runs[task]) for task in tasks)
    head = (Entry((scored.title(tasks),)), text(str(len(tasks))), text(str(runs)))
    if not tasks:
        return (*head, *[Entry(("–",), "missing")] * 3)
    what = env or "all"
    own = text(_interval(_mean(scored, tasks, what)))
    if reference is None:
        return (*head, own, text("–"), text("–"))
    compared = _mean(reference, tasks, what), _better(reference, scored, tasks, what)
    return (*head, own, *(text(_interval(found)) for found in compared))


def _interval(found: Interval) -> str:
    estimate, low, high = (number(value, 2) for value in (found.estimate, found.low, found.high))
    return estimate if math.isnan(found.low) else f"{estimate} [{low}, {high}]"


def _iqm(found: Sequence[MethodScores], ours: MethodScores | None) -> Iterator[Figure]:
    """Draw every method beside PerSim on the same tasks, a panel for each environment."""
    pairs = {env: [pair for scored in found for pair in _pair(ours, scored, env)] for env in ENV_TITLES}
    panels = {ENV_TITLES[env]: own for env, own in pairs.items() if own}
    caption = (
        "Interquartile mean of the scores with its 95 % interval; the hollow mark is PerSim's on the same tasks (0: "
        "random actions, 1: the paper's best for each agent; the number in parentheses is that of the tasks)."
    )
    if panels:
        yield Figure("iqm", drawn("iqm", partial(iqm_figure, panels)), caption)


def _pair(ours: MethodScores | None, scored: MethodScores, env: str) -> Iterator[Pair]:
    reference, tasks = _beside(ours, scored, env)
    if tasks:
        beside = None if reference is None else _mean(reference, tasks, env)
        yield Pair(scored.method, f"{scored.title(tasks)} ({len(tasks)})", _mean(scored, tasks, env), beside)


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
