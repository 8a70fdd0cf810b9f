"""A picture of some cells: what each method earned or mispredicted, agent by agent."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from baselines.registry import METHODS
from persim.envs import get
from persim.storage import store
from persim.storage.cells import FinishedCell
from sweeps.grid.suites import spec_of

_METRICS = {"reward": "mean reward of an episode", "prediction_rmse": "50-step prediction RMSE"}
_COLOURS = (
    "#1f6fb4",
    "#d9601a",
    "#4a9c5d",
    "#8b5fb0",
    "#b04a5f",
    "#6b6b6b",
    "#b59a2f",
    "#2fa3a8",
    "#7a4f2a",
    "#333333",
)


def plot_methods(path: Path, cells: Sequence[FinishedCell]) -> Path:
    """One panel per metric: every trial a dot, the mean a bar; cells of one environment and regime."""
    first = cells[0].cell
    metrics = [metric for metric in _METRICS if any(row["metric"] == metric for done in cells for row in done.rows)]
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 0.8 + 3.2 * max(1, len(metrics))), layout="constrained")
        FigureCanvasAgg(figure)
        for index, metric in enumerate(metrics):
            axes = figure.add_subplot(len(metrics), 1, index + 1)
            _panel(axes, metric, cells)
        figure.suptitle(f"{get(first.env).title}, {first.regime}, {first.settings['budget']['name']} budget")
        picture = io.BytesIO()
        figure.savefig(picture, dpi=150, metadata={"Software": None})
    store.write_atomic(path, picture.getvalue())
    return path


def _panel(axes: mpl.axes.Axes, metric: str, cells: Sequence[FinishedCell]) -> None:
    """Bars side by side for each agent, one per method and N that measured the metric."""
    measured = [done for done in cells if any(row["metric"] == metric for row in done.rows)]
    series = sorted({(done.cell.method, done.cell.agents) for done in measured})
    agents = range(1, len(spec_of(cells[0].cell).test_agents) + 1)
    several = len({count for method, count in series if METHODS[method].learns}) > 1
    width = 0.8 / len(series)
    for place, (method, count) in enumerate(series):
        own = [done for done in measured if (done.cell.method, done.cell.agents) == (method, count)]
        values = np.array([[done.value(metric, agent) for agent in agents] for done in own])
        where = np.arange(len(agents)) + (place - (len(series) - 1) / 2) * width
        colour = _COLOURS[place % len(_COLOURS)]
        label = METHODS[method].title + (f", N={count}" if several and METHODS[method].learns else "")
        axes.bar(where, values.mean(0), width * 0.9, color=colour, alpha=0.45, label=label)
        axes.scatter(np.tile(where, len(own)), values.ravel(), s=14, color=colour, zorder=3)
    axes.set_xticks(range(len(agents)), [f"agent {agent}" for agent in agents])
    axes.set_ylabel(_METRICS[metric])
    if metric == "prediction_rmse":
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)  # above: bars go anywhere
