"""Figures 1 and 5 from their rows: the agents by their factors, in the colours of each covariate."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from persim.envs import get
from persim.evaluation.diagnosis_pictures import draw_map, named


def latent_figure(frame: pd.DataFrame) -> Figure:
    """A panel per environment and covariate, in a line for each regime.

    Args:
        frame: of ``sweeps.latent.factor_frame``, or a part of it.
    """
    columns = list(dict.fromkeys(zip(frame["env"], frame["covariate"], strict=True)))
    regimes = list(dict.fromkeys(frame["regime"]))
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(2.6 * len(columns), 0.2 + 2.5 * len(regimes)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(regimes), len(columns), squeeze=False)
        for line, regime in zip(grid, regimes, strict=True):
            for axes, (env, covariate) in zip(line, columns, strict=True):
                own = (frame["regime"] == regime) & (frame["env"] == env) & (frame["covariate"] == covariate)
                _draw(axes, frame[own])
    return figure


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
