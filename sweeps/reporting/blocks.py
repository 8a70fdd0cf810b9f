"""The paper's tables as blocks: one environment and regime each, a line per method, ours and theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from baselines.registry import METHODS
from persim.evaluation import paper
from sweeps.grid.suites import ENVS, SUITES
from sweeps.reporting.compare import Comparison, Known, compare
from sweeps.reporting.select import Library, Measured

RMSE, R2, REWARD = "prediction_rmse", "prediction_r2", "reward"
PAPER_AGENTS = 500
_NUMBERS = {
    "prediction": ("6", "7", "8"),
    "reward": ("9", "10", "11"),
    "augmentation": ("3", "3", "3"),
    "scarcity": ("14", "15", "16"),
}


@dataclass(frozen=True)
class Line:
    """A method in a block.

    Attributes:
        name: the paper's, with N or p if the block has several.
        method: in ``baselines.registry``.
        n_agents: N.
        ours: None if nothing is measured.
        theirs: by agent id (from 0); empty if the paper has none.
    """

    name: str
    method: str
    n_agents: int
    ours: Measured | None
    theirs: Mapping[int, Known]

    def compared(self, metric: str, agent: int) -> Comparison | None:
        """Ours against theirs, for an agent id (from 0); None if one of them is missing."""
        if self.ours is None or agent not in self.theirs:
            return None
        values = self.ours.values(metric, agent + 1)
        return compare(values, self.theirs[agent]) if len(values) else None


@dataclass(frozen=True)
class Block:
    """A part of a table of the paper.

    Attributes:
        table: its number.
        suite: of the section that it stands in; any suite may have asked for its cells.
        env: environment.
        regime: of the data.
        metric: ``prediction_rmse`` or ``reward``.
        agents: covariates of the test agents by id (from 0).
        lines: methods.
    """

    table: str
    suite: str
    env: str
    regime: str
    metric: str
    agents: Mapping[int, str]
    lines: tuple[Line, ...]


def all_blocks(library: Library) -> tuple[Block, ...]:
    """Every block of every table, in the paper's order of experiments."""
    full = [block for suite in ("prediction", "reward", "augmentation") for block in _full_size(library, suite)]
    return (*full, *_unseen(library), *_scarcity(library))


def _full_size(library: Library, suite: str) -> Iterator[Block]:
    metric, tables = RMSE if suite == "prediction" else REWARD, dict(zip(ENVS, _NUMBERS[suite], strict=True))
    for env, regime in SUITES[suite].data:
        lines = tuple(_line(library, metric, env, regime, method) for method in SUITES[suite].methods)
        yield Block(tables[env], suite, env, regime, metric, paper.test_agents(env), lines)


def _line(library: Library, metric: str, env: str, regime: str, method: str) -> Line:
    ours, title = library.measured(metric, env, regime, method, PAPER_AGENTS), METHODS[method].title
    return Line(title, method, PAPER_AGENTS, ours, full_size(metric, env, regime, title))


def full_size(metric: str, env: str, regime: str, title: str) -> Mapping[int, Known]:
    """The paper's numbers for N = 500; its true environment is the same under every regime."""
    if metric == RMSE:
        return paper.prediction_error(env, regime, title)
    return paper.reward(env, "" if title == METHODS["true-env"].title else regime, title)


def _scarcity(library: Library) -> Iterator[Block]:
    suite = SUITES["scarcity"]
    for (env, regime), table in zip(suite.data, _NUMBERS["scarcity"], strict=True):
        lines = [
            Line(f"{METHODS[method].title}, N = {count}", method, count, ours, theirs)
            for count in suite.agents
            for method in suite.methods
            for ours in [library.measured(REWARD, env, regime, method, count)]
            for theirs in [_scarce(env, regime, count, METHODS[method].title)]
        ]
        yield Block(table, "scarcity", env, regime, REWARD, paper.test_agents(env), tuple(lines))


def _scarce(env: str, regime: str, count: int, title: str) -> Mapping[int, Known]:
    if count == PAPER_AGENTS:
        return full_size(REWARD, env, regime, title)
    return paper.scarcity(env, regime, count, title)


def _unseen(library: Library) -> Iterator[Block]:
    for table, metric in (("12", RMSE), ("13", REWARD)):
        for env, regime in SUITES["unseen"].data:
            lines = tuple(_unseen_lines(library, metric, env, regime))
            yield Block(table, "unseen", env, regime, metric, paper.unseen_agents(), lines)


def _unseen_lines(library: Library, metric: str, env: str, regime: str) -> Iterator[Line]:
    suite, known = SUITES["unseen"], paper.unseen_error if metric == RMSE else paper.unseen_reward
    for method in suite.methods:
        share, title = METHODS[method].p, METHODS[method].title
        theirs = known(regime, title) if share is None else known(regime, "PerSim", share)
        ours = library.measured(metric, env, regime, method, PAPER_AGENTS, suite.unseen[env])
        if theirs or ours is not None:
            yield Line(title, method, PAPER_AGENTS, ours, theirs)
