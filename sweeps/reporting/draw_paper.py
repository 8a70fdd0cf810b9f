"""Pictures of the paper's Figures 1, 2, 4 and 5, from the frames of ``sweeps.reporting.frames``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from baselines.registry import METHODS
from persim.envs import get
from persim.envs.spec import EnvSpec, pictures
from persim.evaluation.pictures import HORIZONS, draw_map, draw_pair, named
from sweeps.reporting.draw import COLOURS, look

WRAP = 3  # panels side by side where there is one regime: more are too small on a page
_DASHES = {"cadm": "--", "cadm-pets": ":"}
_MARGIN = 0.6  # of the range of the true states: predictions that run away leave the panel


@look()
def latent_figure(frame: pd.DataFrame) -> Figure:
    """Draw the map of agents in the colours of every covariate (Figures 1 and 5), a line of panels for each regime.

    Args:
        frame: rows of ``factor_frame``. With one regime the panels go on in further lines.
    """
    maps = {panel: rows for panel, rows in frame.groupby(["regime", "env", "covariate"], sort=False)}
    regimes = list(dict.fromkeys(frame["regime"]))
    columns = list(dict.fromkeys(zip(frame["env"], frame["covariate"], strict=True)))
    width = len(columns) if len(regimes) > 1 else min(WRAP, len(columns))
    lines = math.ceil(len(regimes) * len(columns) / width)
    layout = ConstrainedLayoutEngine(w_pad=0.08)  # a colour bar's label keeps clear of the next panel
    figure = Figure(figsize=(3.1 * width, 0.2 + 2.7 * lines), layout=layout)
    grid = figure.subplots(lines, width, squeeze=False)
    for axes, panel in zip_longest(grid.flat, [(regime, *column) for regime in regimes for column in columns]):
        if panel not in maps:  # no model
            axes.set_axis_off()
            continue
        rows = maps[panel]
        first = rows.iloc[0]
        draw_map(axes, rows[["x", "y"]].to_numpy(), rows["value"].to_numpy(), named(first["covariate"], first["unit"]))
        title = f"{get(first['env']).title}, R² {first['r2']:.4f}\n{first['regime']} data{_budget(first, ', {}')}"
        axes.set_title(title, fontsize=10)
    return figure


@look()
def curves_figure(frame: pd.DataFrame) -> Figure:
    """Draw states against steps (Figure 4), a line of panels for each agent and a panel for each state dimension.

    Args:
        frame: rows of ``rollout_frame`` with one environment and regime.
    """
    spec = get(frame["env"].iloc[0])
    agents, names = (list(dict.fromkeys(frame[column])) for column in ("agent", "name"))
    figure = Figure(figsize=(3.2 * len(names), 0.6 + 2.4 * len(agents)), layout="constrained")
    grid = figure.subplots(len(agents), len(names), squeeze=False, sharex=True)
    for line, agent in zip(grid, agents, strict=True):
        line[0].set_title(_agent_text(spec, agent), fontsize=10, loc="left")
        for axes, name in zip(line, names, strict=True):
            _draw_curves(axes, frame[(frame["agent"] == agent) & (frame["name"] == name)])
            axes.set_ylabel(name)
    for axes in grid[-1]:
        axes.set_xlabel("steps ahead")
    handles = grid[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _draw_curves(axes: Any, rows: pd.DataFrame) -> None:
    """Draw one state dimension of one episode: the truth in grey, below what each method predicts."""
    methods = {str(method): own for method, own in rows.groupby("method", sort=False)}
    truth = next(iter(methods.values()))
    axes.plot(truth["step"], truth["true"], color="#bbbbbb", linewidth=5, label="true")
    for method, own in methods.items():
        dash, colour = _DASHES.get(method, "-"), COLOURS[method]
        axes.plot(own["step"], own["predicted"], dash, color=colour, linewidth=1.8, label=_title(own))
    low, high = truth["true"].min(), truth["true"].max()
    room = _MARGIN * (high - low) or 1.0
    axes.set_ylim(low - room, high + room)


@look({"font.size": 9})
def frames_figure(frame: pd.DataFrame, horizons: Sequence[int] = HORIZONS) -> Figure:
    """Draw pictures of states (Figure 2), a line for each method: the truth solid, the prediction blue and translucent.

    Args:
        frame: rows of ``rollout_frame`` with one environment, regime and agent.
        horizons: steps ahead, a column each.

    Raises:
        InputError: the environment has no pictures.
    """
    spec, agent, methods = get(frame["env"].iloc[0]), int(frame["agent"].iloc[0]), list(dict.fromkeys(frame["method"]))
    draw, covariates = pictures(spec), np.array(spec.test_agents[agent - 1])
    figure = Figure(figsize=(2.3 * len(horizons), 0.5 + 1.7 * len(methods)), layout="constrained")
    grid = figure.subplots(len(methods), len(horizons), squeeze=False)
    for line, method in zip(grid, methods, strict=True):
        own = frame[frame["method"] == method]
        for axes, steps in zip(line, horizons, strict=True):
            there = own[own["step"] == steps].sort_values("dimension")
            draw_pair(axes, draw, there[["true", "predicted"]].to_numpy(np.float64).T, covariates)
            axes.set_title(f"{steps} steps ahead" if method == methods[0] else "")
        line[0].set_ylabel(_title(own).replace(" (", "\n("))
    figure.suptitle(f"{spec.title}, {_agent_text(spec, agent)}: true states solid, predicted states blue")
    return figure


def _title(rows: pd.DataFrame) -> str:
    """Name the method, with its budget if that is not the paper's."""
    first = rows.iloc[0]
    return METHODS[first["method"]].title + _budget(first, " ({})")


def _budget(row: pd.Series, form: str) -> str:
    """Name the budget of a row in this form, or say nothing if it is the paper's."""
    return "" if row["budget"] == "paper" else form.format(f"{row['budget']} budget")


def _agent_text(spec: EnvSpec, agent: int) -> str:
    """Describe an agent as ``agent 4: force 10 N, pole length 0.85 m``; there is no room for units of several words."""
    values = zip(spec.covariates, spec.test_agents[agent - 1], strict=True)
    texts = (f"{named(c.name, '')} {value:g}" + (f" {c.unit}" if " " not in c.unit else "") for c, value in values)
    return f"agent {agent}: {', '.join(texts)}"
