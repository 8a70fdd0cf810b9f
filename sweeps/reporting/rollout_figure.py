"""Figures 2 and 4 from their rows: predicted over true states, PerSim beside both CaDMs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from baselines.registry import METHODS
from persim.envs import get
from persim.envs.spec import EnvSpec, pictures
from persim.evaluation.pictures import HORIZONS, draw_pair, named

_STYLES = {"persim": ("#1f6fb4", "-"), "cadm": ("#d9601a", "--"), "cadm-pets": ("#8b5fb0", ":")}
_MARGIN = 0.6  # of the range of the true states: predictions that run away leave the panel


def curves_figure(frame: pd.DataFrame) -> Figure:
    """State dimensions against steps (Figure 4): a line of panels for each agent, the truth in grey.

    Args:
        frame: of ``sweeps.reporting.rollouts.rollout_frame``, one environment and regime.
    """
    spec, agents = get(frame["env"].iloc[0]), list(dict.fromkeys(frame["agent"]))
    names = list(dict.fromkeys(frame["name"]))
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.2 * len(names), 0.6 + 2.4 * len(agents)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(agents), len(names), squeeze=False, sharex=True)
        for line, agent in zip(grid, agents, strict=True):
            for axes, name in zip(line, names, strict=True):
                _draw_curves(axes, frame[(frame["agent"] == agent) & (frame["name"] == name)])
                axes.set_title(_agent_text(spec, agent) if name == names[0] else "", fontsize=10, loc="left")
                axes.set_ylabel(name)
        for axes in grid[-1]:
            axes.set_xlabel("steps ahead")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _draw_curves(axes: Any, rows: pd.DataFrame) -> None:
    """One state dimension of one episode."""
    methods = list(dict.fromkeys(rows["method"]))
    truth = rows[rows["method"] == methods[0]]
    axes.plot(truth["step"], truth["true"], color="#bbbbbb", linewidth=5, label="true")
    for method in methods:
        own = rows[rows["method"] == method]
        colour, style = _STYLES[method]
        axes.plot(own["step"], own["predicted"], style, color=colour, linewidth=1.8, label=_title(own))
    low, high = truth["true"].min(), truth["true"].max()
    room = _MARGIN * (high - low) or 1.0
    axes.set_ylim(low - room, high + room)


def frames_figure(frame: pd.DataFrame, horizons: Sequence[int] = HORIZONS) -> Figure:
    """Pictures of states (Figure 2): a line for each method, the truth solid, the prediction blue and translucent.

    Args:
        frame: of ``sweeps.reporting.rollouts.rollout_frame``, one environment, regime and agent.
        horizons: steps ahead, a column each.

    Raises:
        InputError: the environment has no pictures.
    """
    spec, agent, methods = get(frame["env"].iloc[0]), int(frame["agent"].iloc[0]), list(dict.fromkeys(frame["method"]))
    draw, covariates = pictures(spec), np.array(spec.test_agents[agent - 1])
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(2.3 * len(horizons), 0.5 + 1.7 * len(methods)), layout="constrained")
        FigureCanvasAgg(figure)
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
    """Name of the method, with its budget if that is not the paper's."""
    first = rows.iloc[0]
    return METHODS[first["method"]].title + ("" if first["budget"] == "paper" else f" ({first['budget']} budget)")


def _agent_text(spec: EnvSpec, agent: int) -> str:
    """Such as ``agent 4: force 10 N, pole length 0.85 m``; a unit that is written out in words has no room."""
    values = zip(spec.covariates, spec.test_agents[agent - 1], strict=True)
    texts = (f"{named(c.name, '')} {value:g}" + (f" {c.unit}" if " " not in c.unit else "") for c, value in values)
    return f"agent {agent}: {', '.join(texts)}"
