"""The tables that a benchmark prints at its end, one for each metric and kind of data, with the paper's numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product

import numpy as np

from baselines.registry import METHODS
from persim.envs import get
from persim.evaluation.paper import PaperError
from persim.storage.cells import Cell, FinishedCell
from sweeps.grid.suites import DataKey, Grid, belongs, paper_episodes
from sweeps.reporting.compare import Known
from sweeps.reporting.page import Table
from sweeps.reporting.results import REWARD, RMSE, paper_numbers

METRICS = {RMSE: "50-step prediction RMSE", REWARD: "mean reward of an episode"}


def tables(grid: Grid, results: Sequence[FinishedCell], failed: Collection[str] = ()) -> str:
    """Write all tables of a grid as text, given its finished cells and the ids of those that failed."""
    broken = [job.cell for job in grid.jobs() if job.cell.id in failed]
    lines = []
    for data, metric in product(grid.keys, METRICS):
        found = [line for method in grid.methods for line in _method(grid, data, metric, method, results, broken)]
        lines += [*_head(grid, data, metric), *found] if found else []
    return "\n".join(lines)


def _head(grid: Grid, data: DataKey, metric: str) -> Iterator[str]:
    """Write what stands above the methods, with the covariates of agents that are not the usual test agents."""
    env, regime, count = data
    spec, unseen = get(env), grid.suite.unseen.get(env, ())
    yield ""
    changed = grid.episodes is not None and grid.episodes != paper_episodes(plans=True, preset=grid.options.preset)
    budget = f"{grid.options.preset} budget" + (f", {grid.episodes} episodes of methods that plan" if changed else "")
    yield f"{spec.title}, {regime} data, N = {count}: {METRICS[metric]} ({budget})"
    yield _line("method (trials)", (f"agent {agent + 1}" for agent in range(len(unseen or spec.test_agents))))
    if unseen:
        values = ("/".join(f"{value:g}" for value in row) for row in unseen)
        yield _line(f"  {'/'.join(spec.covariate_names)}", values)


def _method(
    grid: Grid, data: DataKey, metric: str, method: str, results: Sequence[FinishedCell], broken: Sequence[Cell]
) -> Iterator[str]:
    """Write a method's line and the paper's below it; none if the method neither measured the metric nor failed."""
    agents = range(len(grid.suite.unseen.get(data[0], get(data[0]).test_agents)))
    own = [done for done in results if belongs(done.cell, *data, method)]
    lost = sum(belongs(cell, *data, method) and metric.startswith(cell.what) for cell in broken)
    ours = [[done.value(metric, agent + 1) for done in own if done.has(metric)] for agent in agents]
    if lost or any(ours):
        trials = f"{max(map(len, ours))}" + (f", {lost} failed" if lost else "")
        title = METHODS[method].title if metric == RMSE else METHODS[method].label
        yield _line(f"{title} ({trials})", map(_ours, ours))
        theirs = paper_numbers(metric, *data, method, unseen=bool(grid.suite.unseen))
        if theirs and grid.suite.name != "smoke":
            yield _line("  the paper's", (_theirs(theirs.get(agent)) for agent in agents))


def _theirs(known: Known | None) -> str:
    if known is None:
        return "-"
    return f"{known.rmse:.3f}" if isinstance(known, PaperError) else f"{known.mean:.1f} ± {known.std:.1f}"


def _ours(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = np.mean(values)
    digits = 1 if abs(mean) >= 10 else 4
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread}" if abs(mean) < 1e6 else f"{mean:.1e}"


def _line(name: str, columns: Iterable[str]) -> str:
    return f"{name:<38}" + "".join(f"{text:>17}" for text in columns)


def written(table: Table) -> str:
    """Write a table of the report as text, with columns as wide as their longest entry."""
    lines = [[head.replace("\n", ", ") for head in table.columns]]
    lines += [[" ".join(entry.lines) for entry in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([table.caption, *(line.rstrip() for line in shown)])
