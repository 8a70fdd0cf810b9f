"""The paper's tables: our number, the paper's and the difference in a cell, and pictures of reward against N."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from baselines.registry import METHODS
from persim.evaluation.paper import PaperError, PaperReward
from sweeps.reporting.compare import MARKS, Known, decimals, number, size_of, std, with_spread
from sweeps.reporting.draw import Points, drawn, scarcity_figure
from sweeps.reporting.page import Entry, Figure, Section, Table
from sweeps.reporting.remarks import remarks
from sweeps.reporting.results import ENV_TITLES, R2, REWARD, RMSE, STEPS, Block, Line, Results
from sweeps.reporting.select import DAGGER

_WHAT = {
    RMSE: "50-step prediction RMSE (median R²; scored steps of an episode)",
    REWARD: "average reward of an episode",
}
# By suite the title and the text of its section.
_SECTIONS = {
    "prediction": (
        "Prediction error (Tables 1, 6–8)",
        "RMSE of 50 open-loop steps, mean ± standard deviation over trials, with the median R² in parentheses (of "
        "the trials' medians over episodes the median), and the mean number of steps that were scored: an episode that "
        "ends early is scored on fewer than 50 (rows of before this was recorded do not say). Lower is better; the "
        "difference is ours minus the paper's. "
        "Table 1 of the paper repeats cells of Tables 6 to 8.",
    ),
    "reward": (
        "Average reward (Tables 2, 9–11)",
        "Average reward of an episode, mean ± standard deviation over trials. Higher is better. True env+MPC plans "
        "in the true environment and looks at no data: its line is the same under every regime. Lines that plan do so "
        "each with a planner of its own, which stands below the table: a difference between them is not of the models "
        "alone. Table 2 of the paper repeats cells of Tables 9 to 11.",
    ),
    "augmentation": (
        "Synthetic trajectories (Table 3)",
        "Reward of BCQ and CQL on each agent's own trajectory, on all, and with five synthetic ones from PerSim.",
    ),
    "unseen": (
        "Unseen agents (Tables 12, 13)",
        "Agents that were never observed, in MountainCar: a regression from covariates to agent factors, fitted on a "
        "fraction p of the training agents.",
    ),
    "scarcity": (
        "Fewer agents (Tables 14–16)",
        "Average reward when only N agents were observed, whose covariates are drawn afresh in every trial. The "
        "paper's numbers for N = 500 are those of Tables 9 to 11.",
    ),
}


def of_suite(suite: str, results: Results) -> list[Section]:
    """Show the tables of a suite by environment, those of fewer agents with a picture where something is measured."""
    title, text = _SECTIONS[suite]
    if suite == "unseen":  # all in one environment
        return [Section(title, suite, (text,), tuple(map(table, results.of(suite))))]
    sections = [Section(title, suite, (text,))]
    for env, env_title in ENV_TITLES.items():
        blocks = [block for block in results.of(suite) if block.env == env]
        measured = [block for block in blocks if suite == "scarcity" and any(line.ours for line in block.lines)]
        tables, pictures = tuple(map(table, blocks)), tuple(map(_picture, measured))
        sections.append(Section(env_title, f"{suite}-{env}", tables=tables, figures=pictures, level=3))
    return sections


def table(block: Block) -> Table:
    """Make a table of one block."""
    size = "" if block.suite == "scarcity" else ", N = 500"
    caption = f"{block.title} data{size}: {_WHAT[block.metric]}"
    about = {agent: printed.replace("=", " ").replace(";", ", ") for agent, printed in block.agents.items()}
    heads = [f"agent {agent + 1}\n{covariates}" for agent, covariates in about.items()]
    rows = tuple((_name(line), *(entry(block.metric, line, agent) for agent in block.agents)) for line in block.lines)
    return Table(caption, ("method", *heads), rows, remarks(block))


def _name(line: Line) -> Entry:
    if line.ours is None:
        return Entry((line.name, "not measured"))
    return Entry((line.name, line.ours.brief + line.ours.dagger))


def entry(metric: str, line: Line, agent: int) -> Entry:
    """Write our number, the paper's and the difference for an agent id (from 0)."""
    known = line.theirs.get(agent)
    theirs = "paper –" if known is None else f"paper {_theirs(known)}"
    values = line.values(metric, agent)
    if line.ours is None or not len(values):
        return Entry(("–", theirs), "missing")
    digits = decimals(float(values.mean()), error=metric == RMSE)
    ours = with_spread(values, digits)
    if metric == RMSE:
        steps = line.mean(STEPS, agent)
        scored = "" if math.isnan(steps) else f"; {number(steps, 1)} steps"
        ours += f" ({number(float(np.median(line.values(R2, agent))), 3)}{scored})"
    ours += line.ours.dagger
    compared = line.compared(metric, agent)
    if known is None or compared is None:
        return Entry((ours, theirs), "plain")
    told = ", ".join(filter(None, (number(compared.difference, digits, "+"), size_of(compared, known))))
    return Entry((ours, theirs, f"{told} {MARKS[compared.mark]}"), compared.mark)


def _theirs(known: Known) -> str:
    if isinstance(known, PaperError):
        return f"{number(known.rmse, known.decimals)} ({number(known.r2, 3)})"
    return f"{number(known.mean, known.decimals)} ± {known.std:g}"


def _picture(block: Block) -> Figure:
    panels = {f"agent {agent + 1}": list(points(block, agent)) for agent in block.agents}
    name = f"scarcity-{block.env}"
    caption = (
        f"{ENV_TITLES[block.env]}, {block.regime} data: average reward against N; solid ours with the standard "
        "deviation over trials, dashed the paper's."
    )
    return Figure(name, drawn(name, lambda: scarcity_figure(panels)), caption)


def points(block: Block, agent: int) -> Iterator[Points]:
    """Give the lines of an agent (id from 0): for every method the paper's, then ours."""
    for method in dict.fromkeys(line.method for line in block.lines):
        lines, own = [line for line in block.lines if line.method == method], METHODS[method]
        known = [(line.n_agents, line.theirs.get(agent)) for line in lines]
        theirs = tuple((count, found.mean, found.std) for count, found in known if isinstance(found, PaperReward))
        measured = [(line.n_agents, line.values(block.metric, agent)) for line in lines]
        ours = tuple((n, float(x.mean()), std(x)) for n, x in measured if len(x) and math.isfinite(x.mean()))
        dagger = f" {DAGGER}" if any(line.ours and line.ours.reduced for line in lines) else ""
        if theirs:
            yield Points(method, f"{own.title}, paper", theirs, of_paper=True)
        if ours:
            yield Points(method, own.label + dagger, ours)
