"""Section that pools agents and environments: interquartile means, performance profiles, probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from persim import seeding
from sweeps.reporting.compare import number
from sweeps.reporting.draw import Curve, Pair, drawn, iqm_figure, profile_figure
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
    """Compare all methods with PerSim in tables and pictures, or say that nothing is measured."""
    found = scores(results.of("reward"))
    title = "Aggregates over agents and environments"
    if not found:
        return [Section(title, "aggregates", ("Nothing has measured rewards with N = 500 yet.",))]
    ours = next((scored for scored in found if scored.method == OURS), None)
    tables = [_table(found, ours, env) for env in (None, *ENV_TITLES)]
    figures = (*_iqm(found, ours), *_profiles(found))
    return [Section(title, "aggregates", (MEANING, _METHOD), tuple(t for t in tables if t.rows), figures)]


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
    panels: dict[str, list[Curve]] = {}
    for env, regime in dict.fromkeys(task[:2] for scored in found for task in scored.runs):
        curves = [_curve(scored, env, regime) for scored in found if scored.within(env, regime)]
        if any(curve.method == OURS for curve in curves) or len(curves) > 1:
            panels[f"{ENV_TITLES[env]}, {regime}"] = curves
    caption = (
        "Performance profiles: the share of runs whose score is above the threshold, averaged over the five agents, "
        "with pointwise 95 % intervals where there are several trials. Higher is better."
    )
    if panels:
        yield Figure("profiles", drawn("profiles", partial(profile_figure, panels, THRESHOLDS)), caption)


def _curve(scored: MethodScores, env: str, regime: str) -> Curve:
    rng = seeding.generator(0, "report", "profile", env, regime, scored.method)
    share, low, high = profile([scored.runs[task] for task in scored.within(env, regime)], THRESHOLDS, rng)
    return Curve(scored.method, share, low, high)
