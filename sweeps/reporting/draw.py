"""Pictures of results as SVG (in the report) or PNG (of a sweep), in one look and with one colour for each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from numpy.typing import NDArray

from baselines.registry import METHODS
from persim.evaluation.pictures import drawn as picture_of
from persim.methods.job import spec_of
from persim.storage import store
from persim.storage.cells import FinishedCell
from sweeps.reporting.stats import Interval, Profile
from sweeps.reporting.text_tables import METRICS
from sweeps.tuning.ranks import RankSummary

_PALETTE = ("#1f6fb4", "#6fa8dc", "#0b3d66", "#333333", "#999999", "#d9601a", "#e3a21a", "#2e8b57", "#7bbf6a",
            "#8b5fb0", "#c39bd3", "#b03a4f", "#e58a97", "#2fa3a8", "#7a4f2a", "#123f66", "#3f8fd2", "#86b9e6",
            "#b9d4ea")  # fmt: skip
COLOURS = dict(zip(METHODS, cycle(_PALETTE), strict=False))  # so that a method can be added without a colour
_BLUE, _ORANGE, _GREY = "#1f6fb4", "#d9601a", "#888888"
_LOOK = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path"}
_LEGEND_ENTRY = 2.5  # inches


@dataclass(frozen=True)
class Compared:
    """A method's scores beside PerSim's on the tasks that both have; None stands for what cannot be compared.

    Attributes:
        method: in ``baselines.registry``.
        title: its name, as people read it.
        tasks: how many.
        runs: how many the method has of these tasks.
        own: interquartile mean of the method.
        reference: that of PerSim.
        better: probability that PerSim is better.
    """

    method: str
    title: str
    tasks: int
    runs: int
    own: Interval | None
    reference: Interval | None
    better: Interval | None


@dataclass(frozen=True)
class Points:
    """A method's rewards of one agent, each an N with mean and standard deviation; ours or the paper's."""

    method: str
    label: str
    values: tuple[tuple[int, float, float], ...]
    of_paper: bool = False


@contextmanager
def look(more: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw with Matplotlib's defaults, the house's settings and ``more``, whatever the user's settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_LOOK, **(more or {})})
        yield


def drawn(name: str, draw: Callable[[], Figure]) -> bytes:
    """Draw a figure as SVG; the same name and figure always give the same bytes."""
    return _saved(draw, {"svg.hashsalt": name}, format="svg", metadata={"Date": None, "Creator": None})


def save_png(path: Path, draw: Callable[[], Figure], dpi: int = 150) -> Path:
    """Draw a figure into a PNG file, which may be in an object store."""
    store.write_atomic(path, _saved(draw, {}, format="png", dpi=dpi, metadata={"Software": None}))
    return path


def _saved(draw: Callable[[], Figure], settings: Mapping[str, Any], **how: Any) -> bytes:
    with look(settings):
        return picture_of(draw(), **how)


def _panels(
    panels: Mapping[str, Any],
    columns: int,
    size: tuple[float, float],
    labels: tuple[str, str],
    draw: Callable[[Any, Any], None],
    one_range: bool = False,
) -> Figure:
    """Draw panels, given by title, with the same horizontal axis under one legend.

    ``size`` is the figure's width and height in inches, ``labels`` are those of all horizontal and of all vertical
    axes, ``draw`` draws one of ``panels``; with ``one_range`` all vertical axes have the same range.
    """
    figure = Figure(figsize=size, layout="constrained")
    lines = max(1, math.ceil(len(panels) / columns))
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=one_range)
    legend: dict[str, Any] = {}
    for axes, panel in zip_longest(grid.flat, panels.items()):
        if panel is None:
            axes.set_visible(False)
            continue
        draw(axes, panel[1])
        axes.set_title(panel[0], fontsize=10)
        axes.tick_params(labelbottom=True)  # also above a place that stays empty
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            legend.setdefault(label, handle)
    figure.supxlabel(labels[0], fontsize=10)
    figure.supylabel(labels[1], fontsize=10)
    entries = int(size[0] / _LEGEND_ENTRY)
    figure.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=entries, frameon=False)
    return figure


def _log_ticks(axes: Any, values: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic, with these whole numbers as its only ticks."""
    axes.set_xscale("log")
    axes.set_xticks(values)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def iqm_figure(panels: Mapping[str, Sequence[Compared]]) -> Figure:
    """Draw estimates as marks with intervals: a panel for each environment, in it a line for each method."""
    tallest = max(map(len, panels.values()))
    figure = Figure(figsize=(1 + 3.5 * len(panels), 1.2 + 0.34 * tallest), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)
    for axes, (title, methods) in zip(grid.flat, panels.items(), strict=True):
        for place, found in enumerate(methods):
            colour, apart = COLOURS[found.method], 0.15 if found.reference else 0
            _mark(axes, found.reference, place - apart, COLOURS["persim"], "white")
            _mark(axes, found.own, place + apart, colour, colour)
        axes.set_yticks(range(len(methods)), [f"{found.title} ({found.tasks})" for found in methods])
        axes.set(title=title, xlabel="IQM of the score", ylim=(len(methods) - 0.5, -0.5))
        for edge in (0, 1):
            axes.axvline(edge, color="#bbbbbb", linewidth=0.8, linestyle=":", zorder=0)
    return figure


def _mark(axes: Any, found: Interval | None, y: float, colour: str, face: str) -> None:
    if found is None:
        return
    if not math.isnan(found.low):
        axes.plot([found.low, found.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot([found.estimate], [y], "o", color=colour, markerfacecolor=face, markersize=6)


def profile_figure(panels: Mapping[str, Mapping[str, Profile]], thresholds: NDArray[np.float64]) -> Figure:
    """Draw the performance profile of each method over thresholds ``[T]``, a panel for each set of tasks."""

    def draw(axes: Any, profiles: Mapping[str, Profile]) -> None:
        for method, (share, low, high) in profiles.items():
            axes.plot(thresholds, share, color=COLOURS[method], label=METHODS[method].label)
            axes.fill_between(thresholds, low, high, color=COLOURS[method], alpha=0.15, linewidth=0)
        axes.set(xlim=(thresholds[0], thresholds[-1]), ylim=(-0.02, 1.02))

    columns = min(4, len(panels))
    size = max(5.0, 2.9 * columns), 0.9 + 2.5 * math.ceil(len(panels) / columns)
    return _panels(panels, columns, size, ("score", "share of runs above"), draw, one_range=True)


def scarcity_figure(panels: Mapping[str, Sequence[Points]]) -> Figure:
    """Draw reward against N, a panel for each agent: ours with error bars, the paper's dashed."""

    def draw(axes: Any, lines: Sequence[Points]) -> None:
        for points in lines:
            n_agents, mean, std = np.array(points.values).T
            named = {"color": COLOURS[points.method], "label": points.label}
            if points.of_paper:
                axes.plot(n_agents, mean, "--", marker="x", markersize=4, linewidth=1, alpha=0.7, **named)
            else:
                spread, style = np.nan_to_num(std), {"markersize": 5, "capsize": 3, "linewidth": 1.8, "zorder": 3}
                axes.errorbar(n_agents, mean, spread, marker="o", **style, **named)
            _log_ticks(axes, [25, 50, 100, 250, 500])

    return _panels(panels, 3, (10, 6), ("agents observed, N", "average reward"), draw)


def plot_methods(path: Path, cells: Sequence[FinishedCell], about: str) -> Path:
    """Draw what each method earned and mispredicted into a PNG file, a panel for each metric.

    The finished cells are those of one environment and regime; ``about`` says below the panels what they are.
    """
    found = {metric: [done for done in cells if done.has(metric)] for metric in METRICS}
    panels = {METRICS[metric]: (metric, measured) for metric, measured in found.items() if measured}
    size = 9, 1.2 + 3.2 * len(panels)
    return save_png(path, lambda: _panels(panels, 1, size, (about, ""), lambda axes, panel: _draw_bars(axes, *panel)))


def _draw_bars(axes: Any, metric: str, cells: Sequence[FinishedCell]) -> None:
    """Draw for each agent a bar per method and N, paler for fewer agents, and every trial as a dot."""
    series: dict[tuple[str, int], list[FinishedCell]] = {}
    for done in sorted(cells, key=lambda done: (list(METHODS).index(done.cell.method), done.cell.agents)):
        series.setdefault((done.cell.method, done.cell.agents), []).append(done)
    sizes = sorted({count for method, count in series if METHODS[method].learns}, reverse=True)
    shades = dict(zip(sizes, np.linspace(0.5, 0.15, len(sizes)), strict=True))
    agents, width = range(1, len(spec_of(cells[0].cell).test_agents) + 1), 0.8 / len(series)
    for place, ((method, count), own) in enumerate(series.items()):
        values = np.array([[done.value(metric, agent) for agent in agents] for done in own])
        where = np.arange(len(agents)) + (place - (len(series) - 1) / 2) * width
        title = METHODS[method].label if metric == "reward" else METHODS[method].title
        label = title + (f", N={count}" if len(sizes) > 1 and METHODS[method].learns else "")
        colour = COLOURS[method]
        axes.bar(where, values.mean(0), width * 0.9, color=colour, alpha=shades.get(count, 0.5), label=label)
        axes.scatter(np.tile(where, len(own)), values.ravel(), s=14, color=colour, zorder=3)
    axes.set_xticks(range(len(agents)), [f"agent {agent}" for agent in agents])
    axes.set_yscale("log" if metric == "prediction_rmse" else "linear")


def rank_figure(
    title: str, trials: Sequence[FinishedCell], summaries: Sequence[RankSummary], chosen: RankSummary
) -> Figure:
    """Draw hold-out error against rank: every trial, the means, and the chosen rank.

    The bars are the standard errors of the paired differences: a rank whose bar reaches the line of the lowest mean is
    within one standard error of the best.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes, ranks = figure.add_subplot(), [s.rank for s in summaries]
    tried = [trial.cell.settings["rank"] for trial in trials]
    errors = [trial.value("holdout_error") for trial in trials]
    axes.scatter(tried, errors, s=16, color=_GREY, label="one trial", zorder=2)
    means, spread = [s.error for s in summaries], [s.standard_error for s in summaries]
    axes.errorbar(
        ranks,
        means,
        spread,
        color=_BLUE,
        marker="o",
        capsize=4,
        label="mean ± s.e. of the difference to the best",
        zorder=3,
    )
    axes.axhline(min(means), color=_GREY, linestyle="--", linewidth=1, label="lowest mean")
    axes.axvline(chosen.rank, color=_ORANGE, linewidth=1.5, label=f"chosen rank {chosen.rank}", zorder=1)
    axes.set(yscale="log", xlabel="rank", ylabel="hold-out error (share of variance)", title=title)
    _log_ticks(axes, ranks)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def tensor_figure(panels: Mapping[str, tuple[Mapping[str, Mapping[int, float]], int]]) -> Figure:
    """Draw errors against rank, a panel for each environment, given by the errors of each metric and a chosen rank."""
    lines = {
        "error": ("error of the best sum", {"color": _BLUE, "marker": "o", "zorder": 3}),
        "max_error": ("its largest error of one entry", {"color": _BLUE, "linestyle": "--", "linewidth": 1}),
        "inside_error": ("the same without clipped states", {"color": "#2e8b57", "marker": "s", "zorder": 4}),
        "cover_error": ("error of the proof's sum", {"color": _GREY, "marker": "x", "linewidth": 1}),
    }

    def draw(axes: Any, panel: tuple[Mapping[str, Mapping[int, float]], int]) -> None:
        errors, chosen = panel
        for metric, (label, style) in lines.items():
            ranks, values = list(errors[metric]), list(errors[metric].values())
            axes.plot(ranks, np.maximum(values, 1e-16), markersize=5, label=label, **style)
        axes.axvline(chosen, color=_ORANGE, linewidth=1.5, label="rank that the paper chose", zorder=1)
        axes.set_yscale("log")
        _log_ticks(axes, [1, 2, 3, 5, 10, 15, 30])

    return _panels(panels, len(panels), (1 + 3.2 * len(panels), 3.6), ("rank r", "error"), draw)
