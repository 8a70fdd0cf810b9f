"""Aggregates over agents and environments: interquartile means, performance profiles, probability of improvement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from persim import seeding
from sweeps.reporting.compare import number
from sweeps.reporting.figures import Curve, Pair, iqm_figure, profile_figure
from sweeps.reporting.page import Entry, Figure, Section, Table, text
from sweeps.reporting.results import ENV_TITLES, Results
from sweeps.reporting.scores import MEANING, MethodScores, Task, scores
from sweeps.reporting.stats import Interval, improvement, iqm, profile

OURS = "persim"
THRESHOLDS = np.linspace(-0.25, 1.5, 176)
_METHOD = (
    "Interquartile mean (IQM): the mean of the middle half of all runs. Intervals are 95 % percentile intervals of a "
    "bootstrap that resamples the trials of each task among themselves (2000 resamples, seeded); with one trial a task "
    "there is nothing to resample, hence none. Probability of improvement: that a run of PerSim beats one of the other "
    "method on the same task (ties count one half), averaged over tasks. Each method is compared with PerSim on the "
    "tasks that both have. Agarwal et al. (2021)."
)


def aggregates(results: Results) -> list[Section]:
    """The section; says so if PerSim has no reward yet."""
    found = scores(results.of("reward"))
    title = "Aggregates over agents and environments"
    if not found:
        return [Section(title, "aggregates", ("Nothing has measured rewards with N = 500 yet.",))]
    tables = [_table(found, None), *(_table(found, env) for env in ENV_TITLES)]
    figures = [figure for figure in (_iqm(found), _profiles(found)) if figure is not None]
    return [Section(title, "aggregates", (MEANING, _METHOD), tuple(t for t in tables if t.rows), tuple(figures))]


def common(one: MethodScores, other: MethodScores, env: str | None) -> list[Task]:
    """The tasks that both have."""
    return [task for task in other.within(env) if task in one.runs]


def of_tasks(scored: MethodScores, tasks: Sequence[Task], what: str) -> Interval:
    """Interquartile mean over these tasks."""
    rng = seeding.generator(0, "report", what, scored.method)
    return iqm([scored.runs[task] for task in tasks], rng, [scored.stratum(task) for task in tasks])


def better(ours: MethodScores, other: MethodScores, tasks: Sequence[Task], what: str) -> Interval:
    """Probability that ours is better on these tasks."""
    rng = seeding.generator(0, "report", "improvement", what, other.method)
    strata = [other.stratum(task) for task in tasks]
    return improvement([ours.runs[task] for task in tasks], [other.runs[task] for task in tasks], rng, strata)


def _ours(found: Sequence[MethodScores]) -> MethodScores | None:
    return next((scored for scored in found if scored.method == OURS), None)


def _table(found: Sequence[MethodScores], env: str | None) -> Table:
    rows = tuple(_row(_ours(found), scored, env) for scored in found if scored.within(env))
    where = "all environments together" if env is None else ENV_TITLES[env]
    columns = ("method", "tasks", "runs", "IQM [95 %]", "PerSim's IQM on the same tasks", "P(PerSim is better)")
    return Table(f"Scores, N = 500: {where}", columns, rows)


def _row(ours: MethodScores | None, scored: MethodScores, env: str | None) -> tuple[Entry, ...]:
    pair = ours is not None and ours is not scored
    tasks = common(ours, scored, env) if ours is not None and pair else scored.within(env)
    head = (
        Entry((scored.title(tasks),)),
        text(str(len(tasks))),
        text(str(sum(len(scored.runs[task]) for task in tasks))),
    )
    what = env or "all"
    if not tasks:
        return (*head, *(Entry(("–",), "missing") for _ in range(3)))
    own = text(_interval(of_tasks(scored, tasks, what)))
    if ours is None or not pair:
        return (*head, own, text("–"), text("–"))
    return (
        *head,
        own,
        text(_interval(of_tasks(ours, tasks, what))),
        text(_interval(better(ours, scored, tasks, what))),
    )


def _interval(found: Interval) -> str:
    estimate, low, high = (number(value, 2) for value in (found.estimate, found.low, found.high))
    return estimate if math.isnan(found.low) else f"{estimate} [{low}, {high}]"


def _iqm(found: Sequence[MethodScores]) -> Figure | None:
    """Every method beside PerSim on the same tasks, a panel per environment."""
    ours = _ours(found)
    panels = {}
    for env, title in ENV_TITLES.items():
        pairs = [_pair(ours, scored, env) for scored in found]
        if any(pairs):
            panels[title] = [pair for pair in pairs if pair is not None]
    if not panels:
        return None
    caption = (
        "Interquartile mean of the scores with its 95 % interval; the hollow mark is PerSim's on the same tasks (0: "
        "random actions, 1: the paper's best for each agent; the number in parentheses is that of the tasks)."
    )
    return Figure("iqm", iqm_figure(panels), caption)


def _pair(ours: MethodScores | None, scored: MethodScores, env: str) -> Pair | None:
    beside = ours if ours is not None and ours is not scored else None
    tasks = scored.within(env) if beside is None else common(beside, scored, env)
    if not tasks:
        return None
    reference = None if beside is None else of_tasks(beside, tasks, env)
    return Pair(scored.method, f"{scored.title(tasks)} ({len(tasks)})", of_tasks(scored, tasks, env), reference)


def _profiles(found: Sequence[MethodScores]) -> Figure | None:
    """A panel for each environment and regime, in which all methods have the same tasks."""
    panels: dict[str, list[Curve]] = {}
    for env, regime in dict.fromkeys(task[:2] for scored in found for task in scored.runs):
        curves = [_curve(scored, env, regime) for scored in found if scored.within(env, regime)]
        if any(curve.method == OURS for curve in curves) or len(curves) > 1:
            panels[f"{ENV_TITLES[env]}, {regime}"] = curves
    if not panels:
        return None
    caption = (
        "Performance profiles: the share of runs whose score is above the threshold, averaged over the five agents, "
        "with pointwise 95 % intervals where there are several trials. Higher is better."
    )
    return Figure("profiles", profile_figure(panels, THRESHOLDS), caption)


def _curve(scored: MethodScores, env: str, regime: str) -> Curve:
    tasks = scored.within(env, regime)
    rng = seeding.generator(0, "report", "profile", env, regime, scored.method)
    share, low, high = profile([scored.runs[task] for task in tasks], THRESHOLDS, rng)
    return Curve(scored.method, share, low, high)
