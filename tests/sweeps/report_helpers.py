"""Finished cells made by hand, for the tests of the report."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from baselines.registry import make_method
from persim.envs import get
from persim.learning.ensemble import EnsembleSettings
from persim.methods import Options, PerSim
from persim.methods.holdout import holdouts
from persim.methods.job import Job, predictions
from persim.storage.cells import CellStore, FinishedCell, Request, row
from sweeps.grid.suites import SUITES, Grid
from sweeps.reporting import tables as report_tables
from sweeps.reporting.results import Results
from sweeps.reporting.rows import merge

METRICS = {"prediction": "prediction_rmse", "reward": "reward"}


def cells(suite, env, regime, method, values, *, preset="paper", agents=500, seed=0, what=None, **more):
    """One cell per trial: ``values`` is a list of (value of agent 1, ... of agent 5), or of one number for all."""
    options = {name: more.pop(name) for name in ("rank", "planner") if name in more}
    grid = Grid(SUITES[suite], ((env, regime),), (method,), (agents,), len(values), Options(preset, **options), seed,
                more.pop("episodes", None))  # fmt: skip
    what = what or SUITES[suite].measures[-1]
    own = [job.cell for job in grid.jobs() if job.cell.what == what]
    return [done(cell, value, labels={suite: preset}, **more) for cell, value in zip(own, values, strict=True)]


def done(cell, values, ended=1000, labels=None, **seconds):
    metric = METRICS[cell.what]
    values = values if isinstance(values, (tuple, list)) else [values] * 5
    rows = [row(metric, value, agent + 1) for agent, value in enumerate(values)]
    if metric == "prediction_rmse":
        rows += [row("prediction_r2", 0.9, agent + 1) for agent in range(len(values))]
    timings = {"train": 10.0, "measure": 2.0} | seconds
    return FinishedCell(cell, rows, {}, "abc", timings, ended, ended, labels=labels or {})


def rank_trials(errors, env="cartpole"):
    """``errors``: hold-out errors of the repeats by rank."""
    found, spec = [], get(env)
    for rank, repeats in errors.items():
        settings = make_method("persim", spec, Options(rank=rank)).settings
        method = PerSim(replace(settings, size=EnsembleSettings(1, 1)))
        for number, error in enumerate(repeats):
            cell = Job.of(method, env, "random", 500, 0, holdouts(0.2, number, predictions(spec))).cell
            rows = [row("holdout_error", error), *(row("prediction_rmse", 0.1, agent + 1) for agent in range(5))]
            found.append(FinishedCell(cell, rows, {}, "abc", {"train": 5.0}, 7, 7, labels={"rank_cv": ""}))
    return found


def fill(root, *groups):
    """A store of these cells, and of what asked for them."""
    store, asked = CellStore(root), defaultdict(list)
    for finished in (finished for group in groups for finished in group):
        store.finish(finished)
        for label in finished.labels.items():
            asked[label].append(finished.cell.id)
    for (suite, preset), ids in asked.items():
        store.ask(Request(suite, preset, tuple(ids)))
    return root


def results(*groups, **more):
    merged = {}
    for finished in (finished for group in groups for finished in group):
        merged = merge(merged, {finished.cell.id: finished}, "here")
    return Results(tuple(merged.values()), Path(), **more)


def changed(finished, settings=None, measure=None):
    cell = finished.cell
    cell = replace(cell, settings=cell.settings | (settings or {}), measure=cell.measure | (measure or {}))
    return replace(finished, cell=cell)


def block(found, table, regime="random", env="mountaincar"):
    (wanted,) = [b for b in found.blocks if (b.table, b.regime, b.env) == (table, regime, env)]
    return wanted


def shown_row(found, table, name, regime="random", env="mountaincar"):
    shown = report_tables.table(block(found, table, regime, env))
    (wanted,) = [entries for entries in shown.rows if entries[0].lines[0] == name]
    return wanted
