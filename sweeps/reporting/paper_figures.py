"""The paper's Figures 1, 2, 4 and 5: their pictures and their sections, from the files of sweeps/figures.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture
from matplotlib.layout_engine import ConstrainedLayoutEngine

from baselines.registry import METHODS
from persim.data import REGIMES
from persim.envs.registry import recorded
from persim.envs.spec import EnvSpec, pictures
from persim.errors import InputError
from persim.evaluation.pictures import HORIZONS, draw_map, draw_pair, named
from sweeps.reporting.compare import with_spread
from sweeps.reporting.draw import COLOURS, drawn, look
from sweeps.reporting.page import Entry, Figure, Section, Table
from sweeps.reporting.results import ENV_TITLES, PAPER_AGENTS, Results
from sweeps.reporting.select import find

FACTORS, ROLLOUTS = "factors.parquet", "rollouts.parquet"
FACTOR_COLUMNS = ("env", "regime", "budget", "x", "y", "covariate", "unit", "value", "r2")
ROLLOUT_COLUMNS = ("env", "regime", "budget", "method", "agent", "step", "dimension", "name", "true", "predicted")
SHOWN = "random"  # the regime of the pictures: the paper names none
WRAP = 3  # panels side by side where there is one regime: more are too small on a page
_DASHES = {"cadm": "--", "cadm-pets": ":"}
_MARGIN = 0.6  # of the range of the true states: predictions that run away leave the panel


def factors(results: Results) -> list[Section]:
    """Show how well the factors give each covariate, and the map of the agents (Figures 1 and 5)."""
    about = (
        "No covariate is ever shown to PerSim. R² is that of a regression from an agent's factors to its covariate, on "
        "agents that the regression has not seen (cross-validated), the mean over the members of the ensemble; here "
        "its mean ± standard deviation over trials. 1: the factors say everything about the covariate."
    )
    shown = _shown(results.out / FACTORS, FACTOR_COLUMNS)
    caption = (
        f"The agents on a map (t-SNE) of their factors of the first member, {SHOWN} data, in the colours of each "
        "covariate. With R² of this model."
    )
    maps = () if shown.empty else (Figure("factors", drawn("factors", lambda: latent_figure(shown)), caption),)
    return [Section("What the factors know (Figures 1, 5)", "factors", (about,), (_table(results),), maps)]


def _table(results: Results) -> Table:
    """Tabulate the R² of every covariate under every regime."""
    rows = tuple(
        (Entry((ENV_TITLES[env], covariate.replace("_", " "))), *(_entry(results, env, r, covariate) for r in REGIMES))
        for env in ENV_TITLES
        for covariate in recorded(env).covariate_names
    )
    return Table(f"R² from agent factors to covariates, N = {PAPER_AGENTS}", ("covariate", *REGIMES), rows)


def _entry(results: Results, env: str, regime: str, covariate: str) -> Entry:
    metric = f"factor_r2_{covariate}"
    measured = find(results.cells, metric, env, regime, "persim", PAPER_AGENTS)
    if measured is None:
        return Entry(("–",), "missing")
    values = np.array([done.value(metric) for done in measured.cells])
    return Entry((with_spread(values, 4), measured.described + measured.dagger), "plain")


def rollouts(results: Results) -> list[Section]:
    """Show true and predicted states, as curves (Figure 4) and as pictures (Figure 2); nothing without the file."""
    path = results.out / ROLLOUTS
    if not path.exists():
        return []
    about = (
        "One episode of a test agent: every model is given the state at step 0 and the actions of 50 steps, and "
        "predicts all states; CaDM also sees the ten steps before. The episode is one of those that the tables of "
        "prediction errors average over."
    )
    sections = [Section("Predicted and true states (Figures 2, 4)", "rollouts", (about,))]
    for env, rows in _shown(path, ROLLOUT_COLUMNS).groupby("env", sort=False):
        name, data = f"rollouts-{env}", f"{ENV_TITLES[str(env)]}, {SHOWN} data"
        caption = f"{data}: states over 50 steps; a curve that leaves its panel has run away."
        figures = [Figure(name, drawn(name, partial(curves_figure, rows)), caption)]
        for agent, own in rows.groupby("agent", sort=False):
            frames = f"frames-{env}-{agent}"
            caption = f"{data}, agent {agent}: the true state solid, the predicted blue."
            figures.append(Figure(frames, drawn(frames, partial(frames_figure, own)), caption))
        sections.append(Section(ENV_TITLES[str(env)], name, figures=tuple(figures), level=3))
    return sections


def _shown(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read the rows of the regime ``SHOWN`` from a file of sweeps/figures.py if there is one; refuse a damaged file."""
    if not path.exists():
        return pd.DataFrame()
    advice = "write it anew by sweeps/figures.py, or remove it"
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({type(error).__name__}); {advice}") from error
    lacking = [name for name in columns if name not in frame]
    if lacking:
        raise InputError(f"{str(path)!r} has no column {', '.join(lacking)}; {advice}")
    if strange := {str(env) for env in frame["env"]} - ENV_TITLES.keys():
        raise InputError(f"{str(path)!r} has rows of {', '.join(map(repr, strange))}, which is not built in; {advice}")
    return frame[frame["regime"] == SHOWN]


@look()
def latent_figure(frame: pd.DataFrame) -> Picture:
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
    figure = Picture(figsize=(3.1 * width, 0.2 + 2.7 * lines), layout=layout)
    grid = figure.subplots(lines, width, squeeze=False)
    for axes, panel in zip_longest(grid.flat, [(regime, *column) for regime in regimes for column in columns]):
        if panel not in maps:  # no model
            axes.set_axis_off()
            continue
        rows = maps[panel]
        first = rows.iloc[0]
        draw_map(axes, rows[["x", "y"]].to_numpy(), rows["value"].to_numpy(), named(first["covariate"], first["unit"]))
        title = f"{recorded(first['env']).title}, R² {first['r2']:.4f}\n{first['regime']} data{_budget(first, ', {}')}"
        axes.set_title(title, fontsize=10)
    return figure


@look()
def curves_figure(frame: pd.DataFrame) -> Picture:
    """Draw states against steps (Figure 4), a line of panels for each agent and a panel for each state dimension.

    Args:
        frame: rows of ``rollout_frame`` with one environment and regime.
    """
    spec = recorded(frame["env"].iloc[0])
    agents, names = (list(dict.fromkeys(frame[column])) for column in ("agent", "name"))
    figure = Picture(figsize=(3.2 * len(names), 0.6 + 2.4 * len(agents)), layout="constrained")
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
def frames_figure(frame: pd.DataFrame, horizons: Sequence[int] = HORIZONS) -> Picture:
    """Draw pictures of states (Figure 2), a line for each method: the truth solid, the prediction blue and translucent.

    Args:
        frame: rows of ``rollout_frame`` with one environment, regime and agent.
        horizons: steps ahead, a column each.

    Raises:
        InputError: the environment has no pictures.
    """
    spec, agent, methods = (
        recorded(frame["env"].iloc[0]),
        int(frame["agent"].iloc[0]),
        list(dict.fromkeys(frame["method"])),
    )
    draw, covariates = pictures(spec), np.array(spec.test_agents[agent - 1])
    figure = Picture(figsize=(2.3 * len(horizons), 0.5 + 1.7 * len(methods)), layout="constrained")
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
