"""Pictures of the report: SVG whose bytes depend on what is drawn and on nothing else."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from numpy.typing import NDArray

from baselines.registry import METHODS
from sweeps.reporting.stats import Interval

_PALETTE = ("#1f6fb4", "#333333", "#d9601a", "#e3a21a", "#2e8b57", "#7bbf6a", "#8b5fb0", "#c39bd3", "#b03a4f",
            "#e58a97", "#2fa3a8", "#7a4f2a", "#6b6b6b")  # fmt: skip
COLOURS = dict(zip(METHODS, cycle(_PALETTE), strict=False))  # so that a method can be added without a colour
_LOOK = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path"}
_COLUMNS = 4


@dataclass(frozen=True)
class Pair:
    """A method's estimate, and the reference on the same tasks (None: it is the reference)."""

    method: str
    label: str
    own: Interval
    reference: Interval | None


@dataclass(frozen=True)
class Curve:
    """A performance profile of a method, with its bounds."""

    method: str
    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """A method's rewards of an agent against N; ``theirs`` are the paper's."""

    method: str
    label: str
    theirs: bool
    n_agents: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@contextmanager
def _look(salt: str) -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user's are, with what makes an SVG reproducible."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_LOOK, "svg.hashsalt": salt})
        yield


def drawn(name: str, draw: Callable[[], Figure]) -> bytes:
    """A figure as SVG."""
    with _look(name):
        figure = draw()
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def iqm_figure(panels: Mapping[str, Sequence[Pair]]) -> bytes:
    """Marks with intervals, a method in each line and an environment in each panel."""

    def draw() -> Figure:
        tallest = max(map(len, panels.values()))
        figure = Figure(figsize=(1 + 3.5 * len(panels), 1.2 + 0.34 * tallest), layout="constrained")
        for axes, (title, pairs) in zip(
            np.ravel(figure.subplots(1, len(panels), squeeze=False)), panels.items(), strict=True
        ):
            for place, pair in enumerate(pairs):
                if pair.reference is not None:
                    _mark(axes, pair.reference, place - 0.15, COLOURS["persim"], "white")
                _mark(
                    axes, pair.own, place + (0.15 if pair.reference else 0), COLOURS[pair.method], COLOURS[pair.method]
                )
            axes.set_yticks(range(len(pairs)), [pair.label for pair in pairs])
            axes.set(title=title, xlabel="IQM of the score", ylim=(len(pairs) - 0.5, -0.5))
            for edge in (0, 1):
                axes.axvline(edge, color="#bbbbbb", linewidth=0.8, linestyle=":", zorder=0)
        return figure

    return drawn("iqm", draw)


def _mark(axes: mpl.axes.Axes, found: Interval, y: float, colour: str, face: str) -> None:
    if not math.isnan(found.low):
        axes.plot([found.low, found.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot([found.estimate], [y], "o", color=colour, markerfacecolor=face, markersize=6)


def profile_figure(panels: Mapping[str, Sequence[Curve]], thresholds: NDArray[np.float64]) -> bytes:
    """A panel for each set of tasks, one legend for all."""

    def draw() -> Figure:
        columns = min(_COLUMNS, len(panels))
        lines = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(max(5.0, 2.9 * columns), 0.9 + 2.5 * lines), layout="constrained")
        grid = np.ravel(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True))
        for axes, (title, curves) in zip(grid, panels.items(), strict=False):
            for curve in curves:
                axes.plot(thresholds, curve.share, color=COLOURS[curve.method], label=METHODS[curve.method].title)
                axes.fill_between(
                    thresholds, curve.low, curve.high, color=COLOURS[curve.method], alpha=0.15, linewidth=0
                )
            axes.set_title(title, fontsize=10)
            axes.tick_params(labelbottom=True)
            axes.set(xlim=(thresholds[0], thresholds[-1]), ylim=(-0.02, 1.02))
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel("score", fontsize=10)
        figure.supylabel("share of runs above", fontsize=10)
        _legend(figure, columns)
        return figure

    return drawn("profiles", draw)


def _legend(figure: Figure, columns: int) -> None:
    """One legend above all panels, a name once."""
    found: dict[str, mpl.artist.Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=max(2, columns), frameon=False)


def scarcity_figure(name: str, panels: Mapping[str, Sequence[Points]]) -> bytes:
    """Reward against N, a panel for each agent: ours with error bars, the paper's dashed."""

    def draw() -> Figure:
        figure = Figure(figsize=(10, 6), layout="constrained")
        grid = np.ravel(figure.subplots(2, 3, sharex=True))
        for axes, (title, lines) in zip(grid, panels.items(), strict=False):
            for points in lines:
                _points(axes, points)
            axes.set_title(title, fontsize=10)
            axes.tick_params(labelbottom=True)  # also above the place that stays empty
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel("agents observed, N", fontsize=10)
        figure.supylabel("average reward", fontsize=10)
        _legend(figure, 4)
        return figure

    return drawn(name, draw)


def _points(axes: mpl.axes.Axes, points: Points) -> None:
    colour = COLOURS[points.method]
    if points.theirs:
        axes.plot(points.n_agents, points.mean, "--", marker="x", markersize=4, linewidth=1, color=colour, alpha=0.7,
                  label=points.label)  # fmt: skip
    else:
        spread = np.nan_to_num(np.array(points.std))
        axes.errorbar(points.n_agents, points.mean, yerr=spread, marker="o", markersize=5, capsize=3, linewidth=1.8,
                      color=colour, label=points.label, zorder=3)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([25, 50, 100, 250, 500])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
