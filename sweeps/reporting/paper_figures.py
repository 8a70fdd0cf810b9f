"""Sections with the paper's Figures 1, 2, 4 and 5, drawn from the files of sweeps/figures.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from persim.data import REGIMES
from persim.envs import get
from persim.errors import InputError
from sweeps.reporting.blocks import ENV_TITLES, PAPER_AGENTS
from sweeps.reporting.compare import with_spread
from sweeps.reporting.draw import drawn
from sweeps.reporting.draw_paper import curves_figure, frames_figure, latent_figure
from sweeps.reporting.page import Entry, Figure, Section, Table
from sweeps.reporting.results import Results

FACTORS, ROLLOUTS = "factors.parquet", "rollouts.parquet"
FACTOR_COLUMNS = ("env", "regime", "budget", "x", "y", "covariate", "unit", "value", "r2")
ROLLOUT_COLUMNS = ("env", "regime", "budget", "method", "agent", "step", "dimension", "name", "true", "predicted")
SHOWN = "random"  # the regime of the pictures: the paper names none


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
        for covariate in get(env).covariate_names
    )
    return Table(f"R² from agent factors to covariates, N = {PAPER_AGENTS}", ("covariate", *REGIMES), rows)


def _entry(results: Results, env: str, regime: str, covariate: str) -> Entry:
    metric = f"factor_r2_{covariate}"
    measured = results.library.measured(metric, env, regime, "persim", PAPER_AGENTS)
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
    """Read the rows of the regime ``SHOWN`` from a file of sweeps/figures.py; none if there is no such file.

    Raises:
        InputError: the file is damaged, or lacks one of the columns.
    """
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
    return frame[frame["regime"] == SHOWN]
