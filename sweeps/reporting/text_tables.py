"""What a benchmark prints at its end: a table for each metric, environment and regime, the paper's beside ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from baselines.registry import METHODS, PRESETS, Budget
from persim.envs import get
from persim.storage.cells import Cell, FinishedCell
from sweeps.grid.suites import TRUE_ENV_REGIME, Grid
from sweeps.reporting.bench_paper import beside

_METRICS = {"prediction_rmse": "50-step prediction RMSE", "reward": "mean reward of an episode"}
_WIDTH = 17


def tables(grid: Grid, results: Sequence[FinishedCell], failed: Collection[str] = ()) -> str:
    """All tables; the smoke suite has no paper to stand beside.

    Args:
        grid: what was asked for.
        results: the cells that are finished.
        failed: ids of those that failed.
    """
    broken = [cell for cell in grid.cells() if cell.id in failed]
    blocks = [
        _table(grid, env, regime, count, metric, results, broken)
        for env, regime in grid.data
        for count in grid.agents
        for metric in _METRICS
    ]
    return "\n".join(block for block in blocks if block)


def _table(
    grid: Grid,
    env: str,
    regime: str,
    count: int,
    metric: str,
    results: Sequence[FinishedCell],
    broken: Sequence[Cell],
) -> str:
    """One table, a line per method; empty if nothing measured that."""
    agents = range(1, len(grid.suite.unseen.get(env, get(env).test_agents)) + 1)
    lines = []
    for method in grid.methods:
        own = [done for done in results if _belongs(done.cell, env, regime, count, method)]
        lost = sum(_belongs(cell, env, regime, count, method) for cell in broken)
        ours = {agent: _values(own, metric, agent) for agent in agents}
        if not lost and not any(ours.values()):
            continue
        trials = f"{max(len(values) for values in ours.values())}" + (f", {lost} failed" if lost else "")
        lines.append(_line(f"{METHODS[method].title} ({trials})", (_text(ours[agent]) for agent in agents)))
        theirs = beside(grid.suite, env, regime, count, metric, method)
        if theirs:
            lines.append(_line("  the paper's", (theirs.get(agent, "-") for agent in agents)))
    if not lines:
        return ""
    title = f"{get(env).title}, {regime} data, N = {count}: {_METRICS[metric]} ({_budget(grid.budget)})"
    head = _line("method (trials)", (f"agent {agent}" for agent in agents))
    return "\n".join(["", title, head, *_unseen(grid, env), *lines])


def _unseen(grid: Grid, env: str) -> list[str]:
    """A line of covariates, where the agents are not the test agents that the other tables have."""
    if env not in grid.suite.unseen:
        return []
    names = "/".join(get(env).covariate_names)
    return [_line(f"  {names}", ("/".join(f"{value:g}" for value in row) for row in grid.suite.unseen[env]))]


def _budget(budget: Budget) -> str:
    """The preset, and whether planning methods play fewer or more episodes than it says."""
    changed = budget.episodes != PRESETS[budget.name].episodes
    return f"{budget.name} budget" + (f", {budget.episodes} episodes of methods that plan" if changed else "")


def _belongs(cell: Cell, env: str, regime: str, count: int, method: str) -> bool:
    if (cell.env, cell.method) != (env, method):
        return False
    return cell.regime == TRUE_ENV_REGIME or (cell.regime, cell.agents) == (regime, count)


def _values(own: Sequence[FinishedCell], metric: str, agent: int) -> list[float]:
    found = []
    for done in own:
        try:
            found.append(done.value(metric, agent))
        except KeyError:
            continue
    return found


def _text(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = np.mean(values)
    digits = 1 if abs(mean) >= 10 else 4
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread}" if abs(mean) < 1e6 else f"{mean:.1e}"


def _line(name: str, columns: Iterable[str]) -> str:
    return f"{name:<26}" + "".join(f"{text:>{_WIDTH}}" for text in columns)
