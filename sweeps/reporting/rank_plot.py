"""Pictures of results, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from persim.storage.cells import FinishedCell
from sweeps.tuning.rank_choice import RankSummary

_BLUE, _ORANGE, _GREY = "#1f6fb4", "#d9601a", "#888888"


def plot_ranks(
    path: Path,
    title: str,
    trials: Sequence[FinishedCell],
    summaries: Sequence[RankSummary],
    chosen: RankSummary,
) -> Path:
    """``rank_figure`` as a PNG file."""
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = rank_figure(title, trials, summaries, chosen)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Software": None})
    return path


def rank_figure(
    title: str,
    trials: Sequence[FinishedCell],
    summaries: Sequence[RankSummary],
    chosen: RankSummary,
) -> Figure:
    """Hold-out error against rank: every trial, mean with standard error, and the choice."""
    best = min(summaries, key=lambda summary: summary.error)
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(
        [trial.cell.settings["rank"] for trial in trials],
        [trial.value("holdout_error") for trial in trials],
        s=16,
        color=_GREY,
        label="one trial",
        zorder=2,
    )
    axes.errorbar(
        [s.rank for s in summaries],
        [s.error for s in summaries],
        yerr=[s.standard_error for s in summaries],
        color=_BLUE,
        marker="o",
        capsize=4,
        label="mean ± standard error",
        zorder=3,
    )
    limit = best.error + best.standard_error
    axes.axhline(limit, color=_GREY, linestyle="--", linewidth=1, label="lowest mean + its standard error")
    axes.axvline(chosen.rank, color=_ORANGE, linewidth=1.5, label=f"chosen rank {chosen.rank}", zorder=1)
    axes.set(yscale="log", xscale="log", xlabel="rank", title=title)
    axes.set_ylabel("hold-out error (share of variance)")
    axes.set_xticks([s.rank for s in summaries])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
