"""The paper's tables as blocks: one environment and regime each, a line per method, ours and theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from baselines.registry import METHODS
from persim.data import REGIMES
from persim.evaluation import paper
from sweeps.grid.suites import ALL_METHODS, ENVS, SUITES
from sweeps.reporting.compare import Comparison, Known, compare
from sweeps.reporting.select import Library, Measured

RMSE, R2, REWARD = "prediction_rmse", "prediction_r2", "reward"
PAPER_AGENTS = 500
_NUMBERS = {"prediction": ("6", "7", "8"), "reward": ("9", "10", "11"), "scarcity": ("14", "15", "16")}
# Where a reward may come from: the same cell of another suite is as good.
_REWARD_SUITES = ("reward", "augmentation", "scarcity")


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
        suite: that measures it.
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
    blocks = [*_grid(library, "prediction"), *_grid(library, "reward"), *_augmentation(library)]
    return (*blocks, *_unseen(library), *_scarcity(library))


def _grid(library: Library, suite: str) -> Iterator[Block]:
    metric = RMSE if suite == "prediction" else REWARD
    suites = ("prediction",) if suite == "prediction" else _REWARD_SUITES
    for env, table in zip(ENVS, _NUMBERS[suite], strict=True):
        for regime in REGIMES:
            lines = _lines(library, metric, env, regime, suites, SUITES[suite].methods)
            yield Block(table, suite, env, regime, metric, paper.test_agents(env), lines)


def _augmentation(library: Library) -> Iterator[Block]:
    suites = ("augmentation", "reward", "scarcity")
    for env, regime in SUITES["augmentation"].data:
        lines = _lines(library, REWARD, env, regime, suites, SUITES["augmentation"].methods)
        yield Block("3", "augmentation", env, regime, REWARD, paper.test_agents(env), lines)


def _lines(
    library: Library, metric: str, env: str, regime: str, suites: Sequence[str], methods: Sequence[str]
) -> tuple[Line, ...]:
    """A line for each of the paper's methods, and for each other that was measured in the first of these suites."""
    lines = []
    for method in dict.fromkeys((*methods, *METHODS)):
        where = suites if method in methods else suites[:1]
        ours = library.measured(metric, env, regime, method, PAPER_AGENTS, suites=where)
        if ours is not None or method in methods:
            theirs = full_size(metric, env, regime, METHODS[method].title)
            lines.append(Line(METHODS[method].title, method, PAPER_AGENTS, ours, theirs))
    return tuple(lines)


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
            for ours in [library.measured(REWARD, env, regime, method, count, suites=("scarcity", "reward"))]
            for theirs in [_scarce(env, regime, count, METHODS[method].title)]
        ]
        yield Block(table, "scarcity", env, regime, REWARD, paper.test_agents(env), tuple(lines))


def _scarce(env: str, regime: str, count: int, title: str) -> Mapping[int, Known]:
    if count == PAPER_AGENTS:
        return full_size(REWARD, env, regime, title)
    return paper.scarcity(env, regime, count, title)


def _unseen(library: Library) -> Iterator[Block]:
    for table, metric in (("12", RMSE), ("13", REWARD)):
        for regime in ("random", "pure"):
            lines = tuple(_unseen_lines(library, metric, regime))
            yield Block(table, "unseen", "mountaincar", regime, metric, paper.unseen_agents(), lines)


def _unseen_lines(library: Library, metric: str, regime: str) -> Iterator[Line]:
    known = paper.unseen_error if metric == RMSE else paper.unseen_reward
    for method in SUITES["unseen"].methods:
        share, title = METHODS[method].p, METHODS[method].title
        theirs = known(regime, title) if share is None else known(regime, "PerSim", share)
        ours = library.measured(metric, "mountaincar", regime, method, PAPER_AGENTS, suites=("unseen",))
        if theirs or ours is not None:
            yield Line(title, method, PAPER_AGENTS, ours, theirs)


def learners(blocks: Iterable[Block]) -> list[str]:
    """Methods that have measured anything in these blocks, in the registry's order."""
    there = {line.method for block in blocks for line in block.lines if line.ours is not None}
    return [method for method in (*ALL_METHODS, "persim-bcq-5", "persim-cql-5") if method in there]
