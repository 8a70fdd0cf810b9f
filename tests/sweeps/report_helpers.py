"""Finished cells made by hand, for the tests of the report."""

import json
from dataclasses import replace

from baselines.registry import PRESETS
from persim.storage.cells import CellStore, FinishedCell, row
from persim.storage.store import canonical_json
from sweeps.grid.suites import SUITES, Grid
from sweeps.tuning.rank_trial import SweepSettings


def cells(suite, env, regime, method, values, *, budget=PRESETS["paper"], agents=500, seed=0, **more):
    """One cell per trial: ``values`` is a list of (value of agent 1, ... of agent 5), or of one number for all."""
    grid = Grid(SUITES[suite], ((env, regime),), (method,), (agents,), len(values), budget, seed)
    return [done(cell, value, **more) for cell, value in zip(grid.cells(), values, strict=True)]


def done(cell, values, ended=1000, metric=None, **seconds):
    metric = metric or ("prediction_rmse" if "prediction" in cell.settings["measures"] else "reward")
    values = values if isinstance(values, (tuple, list)) else [values] * 5
    cell = replace(cell, settings=json.loads(canonical_json(cell.settings)))  # lists for tuples, as a store gives them
    rows = [row(metric, value, agent + 1) for agent, value in enumerate(values)]
    if metric == "prediction_rmse":
        rows += [row("prediction_r2", 0.9, agent + 1) for agent in range(len(values))]
    timings = {"train": 10.0, "measure": 2.0} | seconds
    return FinishedCell(cell, rows, {}, cell.settings["seed"], "abc", timings, ended, ended)


def rank_trials(errors, env="cartpole"):
    """``errors``: hold-out errors of the repeats by rank."""
    settings = SweepSettings(env, "random", 500, tuple(errors), 3, 300, 0.2, 0)
    found = []
    for rank, repeats in errors.items():
        for repeat, error in enumerate(repeats):
            rows = [row("holdout_error", error), *(row("prediction_rmse", 0.1, agent + 1) for agent in range(5))]
            found.append(FinishedCell(settings.cell(rank, repeat), rows, {}, 0, "abc", {"train": 5.0}, 7, 7))
    return found


def fill(root, *groups):
    """A store of these cells."""
    for group in groups:
        for finished in group:
            CellStore(root).finish(finished)
    return root
