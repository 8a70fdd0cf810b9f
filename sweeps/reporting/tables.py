"""The paper's tables with our number, the paper's and the difference in every cell."""

from __future__ import annotations

import numpy as np

from persim.evaluation.paper import PaperError
from sweeps.reporting.blocks import R2, RMSE, Block, Line
from sweeps.reporting.compare import MARKS, Known, decimals, mean, number, signed, std, with_spread
from sweeps.reporting.page import Entry, Section, Table
from sweeps.reporting.results import ENV_TITLES, Results
from sweeps.reporting.select import Measured, describe

DAGGER = "†"
_WHAT = {RMSE: "50-step prediction RMSE (median R²)", "reward": "average reward of an episode"}


def prediction(results: Results) -> list[Section]:
    """Show prediction errors, Tables 6 to 8."""
    text = (
        "RMSE of 50 open-loop steps, mean ± standard deviation over trials, with the median R² in parentheses (of "
        "the trials' medians over episodes the median). Lower is better; the difference is ours minus the paper's. "
        "Table 1 of the paper repeats cells of Tables 6 to 8."
    )
    return _by_env(results, "prediction", "Prediction error (Tables 1, 6–8)", text)


def reward(results: Results) -> list[Section]:
    """Show rewards, Tables 9 to 11."""
    text = (
        "Average reward of an episode, mean ± standard deviation over trials. Higher is better. True env+MPC plans "
        "in the true environment and looks at no data: its line is the same under every regime. Table 2 of the paper "
        "repeats cells of Tables 9 to 11."
    )
    return _by_env(results, "reward", "Average reward (Tables 2, 9–11)", text)


def augmentation(results: Results) -> list[Section]:
    """Show rewards with synthetic trajectories, Table 3."""
    text = "Reward of BCQ and CQL on each agent's own trajectory, on all, and with five synthetic ones from PerSim."
    return _by_env(results, "augmentation", "Synthetic trajectories (Table 3)", text)


def unseen(results: Results) -> list[Section]:
    """Show errors and rewards of agents that were never observed, Tables 12 and 13."""
    text = (
        "Agents that were never observed, in MountainCar: a regression from covariates to agent factors, fitted on a "
        "fraction p of the training agents."
    )
    tables = tuple(table(block) for block in results.of("unseen"))
    return [Section("Unseen agents (Tables 12, 13)", "unseen", (text,), tables)]


def _by_env(results: Results, suite: str, title: str, text: str) -> list[Section]:
    sections = [Section(title, suite, (text,))]
    for env, env_title in ENV_TITLES.items():
        tables = tuple(table(block) for block in results.of(suite) if block.env == env)
        sections.append(Section(env_title, f"{suite}-{env}", tables=tables, level=3))
    return sections


def table(block: Block) -> Table:
    """Make a table of one block."""
    size = "" if block.suite == "scarcity" else ", N = 500"
    caption = f"Table {block.table}: {ENV_TITLES[block.env]}, {block.regime} data{size}: {_WHAT[block.metric]}"
    about = {agent: printed.replace("=", " ").replace(";", ", ") for agent, printed in block.agents.items()}
    heads = [f"agent {agent + 1}\n{covariates}" for agent, covariates in about.items()]
    rows = tuple((_name(line), *(entry(block.metric, line, agent) for agent in block.agents)) for line in block.lines)
    return Table(caption, ("method", *heads), rows, _notes(block))


def _name(line: Line) -> Entry:
    if line.ours is None:
        return Entry((line.name, "not measured"))
    trials = f"{line.ours.trials} trial{'s' if line.ours.trials > 1 else ''}"
    return Entry((line.name, f"{trials}, {line.ours.budget}{dagger(line.ours)}"))


def dagger(measured: Measured) -> str:
    """Give the mark of a reduced budget, or nothing."""
    return f" {DAGGER}" if measured.reduced else ""


def entry(metric: str, line: Line, agent: int) -> Entry:
    """Write our number, the paper's and the difference for an agent id (from 0)."""
    known = line.theirs.get(agent)
    theirs = "paper –" if known is None else f"paper {_theirs(known)}"
    values = np.array([]) if line.ours is None else line.ours.values(metric, agent + 1)
    if line.ours is None or not len(values):
        return Entry(("–", theirs), "missing")
    digits = decimals(mean(values), error=metric == RMSE)
    ours = with_spread(mean(values), std(values), digits)
    if metric == RMSE:
        ours += f" ({number(float(np.median(line.ours.values(R2, agent + 1))), 3)})"
    ours += dagger(line.ours)
    compared = line.compared(metric, agent)
    if compared is None:
        return Entry((ours, theirs), "plain")
    return Entry((ours, theirs, f"{signed(compared.difference, digits)} {MARKS[compared.mark]}"), compared.mark)


def _theirs(known: Known) -> str:
    if isinstance(known, PaperError):
        return f"{number(known.rmse, known.decimals)} ({number(known.r2, 3)})"
    return f"{number(known.mean, known.decimals)} ± {known.std:g}"


def _notes(block: Block) -> tuple[str, ...]:
    """Say what differs from the paper's budget, and what else was measured."""
    reduced = [f"{line.name}: {_less(line.ours)}" for line in block.lines if line.ours and line.ours.reduced]
    hidden = [f"{line.name}: {'; '.join(line.ours.others)}" for line in block.lines if line.ours and line.ours.others]
    less = f"{DAGGER} Not the paper's budget (in parentheses the preset paper's). {'; '.join(reduced)}."
    more = f"Also measured, not shown. {'; '.join(hidden)}."
    return tuple(note for note, told in ((less, reduced), (more, hidden)) if told)


def _less(measured: Measured) -> str:
    nothing = "nothing that these numbers depend on differs"
    return f"{measured.budget}, {', '.join(measured.changes) or nothing}"


def behind(measured: Measured) -> str:
    """Describe trials and budget, with a dagger if the budget is reduced."""
    return f"{describe(measured)}{dagger(measured)}"
