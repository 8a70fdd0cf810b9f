"""Figures 1 and 5 from their rows: the agents by their factors, in the colours of each covariate."""

from __future__ import annotations

import math
from itertools import product, zip_longest
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from persim.envs import get
from persim.evaluation.pictures import draw_map, named

WRAP = 3  # panels side by side where there is one regime: more are too small on a page


def latent_figure(frame: pd.DataFrame) -> Figure:
    """A panel per environment and covariate; of several regimes, each has a line.

    Args:
        frame: of ``sweeps.reporting.latent.factor_frame``, or a part of it.
    """
    columns = list(dict.fromkeys(zip(frame["env"], frame["covariate"], strict=True)))
    regimes = list(dict.fromkeys(frame["regime"]))
    width = len(columns) if len(regimes) > 1 else min(WRAP, len(columns))
    lines = math.ceil(len(regimes) * len(columns) / width)
    with mpl.rc_context({"font.size": 10}):
        layout = ConstrainedLayoutEngine(w_pad=0.08)  # a colour bar's label keeps clear of the next panel
        figure = Figure(figsize=(3.1 * width, 0.2 + 2.7 * lines), layout=layout)
        FigureCanvasAgg(figure)
        grid = figure.subplots(lines, width, squeeze=False)
        panels = product(regimes, columns)
        for axes, panel in zip_longest(grid.flat, panels):
            _draw(axes, frame[_rows(frame, *panel)] if panel else frame[:0])
    return figure


def _rows(frame: pd.DataFrame, regime: str, column: tuple[str, str]) -> pd.Series:
    """Which rows are those of one panel."""
    env, covariate = column
    return (frame["regime"] == regime) & (frame["env"] == env) & (frame["covariate"] == covariate)


def _draw(axes: Any, rows: pd.DataFrame) -> None:
    """One map; an empty place where there is no model."""
    if rows.empty:
        axes.set_axis_off()
        return
    first = rows.iloc[0]
    draw_map(axes, rows[["x", "y"]].to_numpy(), rows["value"].to_numpy(), named(first["covariate"], first["unit"]))
    note = "" if first["budget"] == "paper" else f", {first['budget']} budget"
    title = f"{get(first['env']).title}, R² {first['r2']:.4f}\n{first['regime']} data{note}"
    axes.set_title(title, fontsize=10)
