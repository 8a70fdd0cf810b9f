"""What MLflow shows of the store: a parent run for each sweep or method, a child run for each cell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from baselines.registry import METHODS, OURS
from persim.envs.registry import names, recorded
from persim.methods.job import PREDICTION, REWARD, TRUE_ENV_REGIME
from persim.methods.planning import planning_text
from persim.storage.cells import Cell, Request
from persim.storage.store import settings_hash

Points = Mapping[str, Iterable[tuple[int, float]]]  # by metric, values with their steps
_COMPARED = {REWARD: "reward", PREDICTION: "prediction_rmse"}


class Parent(NamedTuple):
    """A parent run: its key, by which a sweep that goes on finds it, its name, and the settings of all its cells."""

    key: str
    title: str
    params: Mapping[str, object]


def group_of(request: Request) -> str:
    """Name what the runs of a request share: a sweep is a group, and so are all grids of a suite and preset."""
    return request.id if request.settings else f"{request.suite}-{request.preset}"


def parent_of(request: Request, cell: Cell | None = None) -> Parent:
    """The parent run of a sweep, or of a grid's cells of one method in one environment, suite and preset."""
    if cell is None or request.settings:
        return Parent(request.id, request.title, request.settings)
    # Only built-in environments are asked for their title: no record can make us import its code.
    env = recorded(cell.env).title if cell.env in names() else cell.env
    preset = "" if request.preset in ("", "paper") else f", {request.preset}"
    labels = {"suite": request.suite, "preset": request.preset, "env": cell.env, "method": cell.method}
    key, title = f"{group_of(request)}-{cell.env}-{cell.method}", f"{env} {method_title(cell)}{preset}"
    if request.suite == "planners":  # a parent for each way to plan, so that MLflow compares those
        key += f"-{settings_hash(cell.settings['planning'])}"
        title += f": {planning_text(cell.settings, recorded(cell.env))}"
    return Parent(key, title, labels)


def method_title(cell: Cell) -> str:
    """The paper's name for the method, and whose planner it has if that is not ours."""
    if cell.method not in METHODS:
        return cell.method
    entry = METHODS[cell.method]
    return entry.title if entry.planner == OURS else entry.label


def run_name(suite: str, cell: Cell) -> str:
    """The name that tells the run of a cell from its siblings."""
    if suite == "rank_cv":
        return f"rank {cell.settings['rank']:>2}, repeat {cell.measure['split'] + 1}"
    if suite == "tune":
        stopped = f", stopped at {cell.measure['stopped_at']}" if "stopped_at" in cell.measure else ""
        return f"rank {cell.settings['rank']}, rate {cell.settings['train']['learning_rate']:.1e}{stopped}"
    return f"{'' if cell.regime == TRUE_ENV_REGIME else f'{cell.regime}, N={cell.agents}, '}seed {cell.seed}"


def comparison(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The means over agents and seeds, by key of the parent: ``reward/REGIME`` with N as the step.

    A method that looks at no data has one mean, which is shown beside all others of its environment. The runs are
    the parameters and metrics of the cells of a group, with their ``parent``; a value that MLflow lacks is NaN.
    """
    compared, places, values = [], defaultdict(set), defaultdict(list)
    for run in runs:
        if run.get("what") in _COMPARED:
            compared.append(run)
            if run["regime"] != TRUE_ENV_REGIME:
                places[run["env"]].add((run["regime"], int(run["agents"])))
    for run in compared:
        own, metric = {(run["regime"], int(run["agents"]))}, _COMPARED[run["what"]]
        for regime, agents in places[run["env"]] if run["regime"] == TRUE_ENV_REGIME else own:
            values[run["parent"], f"{metric}/{regime}", agents].append(run.get(f"{metric}/mean", math.nan))
    result: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for (parent, metric, agents), found in values.items():
        result[parent][metric].append((agents, sum(found) / len(found)))
    return result
