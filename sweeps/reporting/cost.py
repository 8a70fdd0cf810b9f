"""What each method took: training, a decision, core-hours and money."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, median

from baselines.registry import METHODS
from persim.methods.job import HOLDOUT, REWARD, TENSOR
from persim.storage.cells import FinishedCell
from sweeps.reporting.page import Entry, Section, Table, text
from sweeps.reporting.results import ENV_TITLES, Results
from sweeps.reporting.select import budget_of

_HOUR = 3600
_MEANING = (
    "Training and measuring: median over cells; a decision: the mean; all on the machines that ran them. A "
    "core-hour is an hour of one process with one thread; one on a GPU is counted the same. A trained model that "
    "several cells share is counted once in the sums. PerSim-BCQ-5 and PerSim-CQL-5 start from PerSim's model, whose "
    "training is not counted again. Budget smoke is left out."
)
_TRIED = "choice of planner"
_BUDGETS = {HOLDOUT: "rank sweep", TENSOR: "Theorem 1"}  # of what has none of its own
Group = tuple[str, str, int, str]


def cost(results: Results) -> list[Section]:
    """A table for each environment."""
    groups = _groups(results.cells)
    tables = tuple(_table(env, groups, results.price) for env in dict.fromkeys(group[0] for group in groups))
    price, total = results.price, sum(core_hours(cells) for cells in groups.values())
    rate = () if price is None else (f"A core-hour is taken to cost ${price:g}.",)
    money = "" if price is None else f", ${total * price:.2f}"
    everything = f"All together: {_hours(total)} core-hours{money}."
    return [Section("Time and cost", "cost", (_MEANING, *rate, everything), tables)]


def _groups(cells: Iterable[FinishedCell]) -> dict[Group, list[FinishedCell]]:
    """Group cells by environment, method, N and budget; in the order of environments and methods, sweeps last."""
    order = {name: place for place, name in enumerate((*ENV_TITLES, *METHODS))}
    found: dict[Group, list[FinishedCell]] = {}
    for done in cells:
        cell = done.cell
        budget = _TRIED if "planners" in done.labels else _BUDGETS.get(cell.what, budget_of(done))
        if "smoke" not in (budget, budget_of(done)):
            found.setdefault((cell.env, cell.method, cell.agents, budget), []).append(done)

    def place(group: Group) -> tuple[object, ...]:
        env, method, count, budget = group
        last = budget in (*_BUDGETS.values(), _TRIED)
        return order.get(env, len(order)), env, last, order.get(method, len(order)), method, count, budget

    return {group: found[group] for group in sorted(found, key=place)}


def models(cells: Iterable[FinishedCell]) -> list[float]:
    """Training seconds of the distinct models behind these cells, in increasing order.

    Cells of the same data, method and seed that took exactly the same time share one model.
    """
    found = {}
    for done in cells:
        cell, seconds = done.cell, done.seconds.get("train", 0.0)
        if seconds > 0:
            found[cell.env, cell.regime, cell.agents, cell.method, cell.seed, seconds] = seconds
    return sorted(found.values())


def core_hours(cells: Sequence[FinishedCell]) -> float:
    """Training and measuring of these cells, a shared model once."""
    return (sum(models(cells)) + sum(done.seconds.get("measure", 0.0) for done in cells)) / _HOUR


def _table(env: str, groups: dict[Group, list[FinishedCell]], price: float | None) -> Table:
    columns = ("method", "N", "budget", "cells", "training of a model", "a decision", "prediction errors of a cell",
               "rewards of a cell", "core-hours", *(() if price is None else ("cost",)))  # fmt: skip
    rows = tuple(_row(group, cells, price) for group, cells in groups.items() if group[0] == env)
    return Table(ENV_TITLES.get(env, env), columns, rows)


def _row(group: Group, cells: Sequence[FinishedCell], price: float | None) -> tuple[Entry, ...]:
    _, method, count, budget = group
    title = METHODS[method].label if method in METHODS else method
    decisions = [1e3 * done.seconds["decision"] for done in cells if "decision" in done.seconds]
    measured = [(done.cell.what, done.seconds["measure"]) for done in cells if "measure" in done.seconds]
    shown = (
        str(count),
        budget or "–",
        str(len(cells)),
        _typical(models(cells)),
        f"{mean(decisions):.3g} ms" if decisions else "–",
        _typical([seconds for what, seconds in measured if what != REWARD]),
        _typical([seconds for what, seconds in measured if what == REWARD]),
        _hours(core_hours(cells)),
        *(() if price is None else (f"${core_hours(cells) * price:.2f}",)),
    )
    return (Entry((title,)), *map(text, shown))


def _typical(seconds: Sequence[float]) -> str:
    """Write the median of some times; a dash if there are none."""
    if not seconds:
        return "–"
    found = median(seconds)
    return f"{found:.3g} s" if found < 600 else f"{found / 60:.0f} min"


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours < 10 else f"{hours:.0f}"
