"""What the sections of a report are made from: the finished cells, and the paper's tables with ours beside theirs.

A table is cut into blocks of one environment and regime each, a block into lines of one method each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baselines.registry import METHODS
from persim.envs import get
from persim.errors import InputError
from persim.evaluation import paper
from persim.storage import store
from persim.storage.cells import FinishedCell
from sweeps.grid.suites import ENVS, SUITES, Suite
from sweeps.reporting.compare import Comparison, Known, compare
from sweeps.reporting.select import Measured, find

RMSE, R2, STEPS, REWARD = "prediction_rmse", "prediction_r2", "prediction_steps", "reward"
PAPER_AGENTS = 500
ENV_TITLES = {env: get(env).title for env in ENVS}
# By suite and metric the numbers of the paper's tables, a table per environment or one for all.
_TABLES = {
    ("prediction", RMSE): ("6", "7", "8"),
    ("reward", REWARD): ("9", "10", "11"),
    ("augmentation", REWARD): ("3", "3", "3"),
    ("unseen", RMSE): ("12",),
    ("unseen", REWARD): ("13",),
    ("scarcity", REWARD): ("14", "15", "16"),
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

    def values(self, metric: str, agent: int) -> NDArray[np.float64]:
        """Our values ``[trials]`` for an agent id (from 0); empty if nothing is measured."""
        return np.array([]) if self.ours is None else self.ours.values(metric, agent + 1)

    def mean(self, metric: str, agent: int) -> float:
        """Our mean over trials for an agent id (from 0); NaN if nothing is measured."""
        values = self.values(metric, agent)
        return float(values.mean()) if len(values) else math.nan

    def compared(self, metric: str, agent: int) -> Comparison | None:
        """Ours against theirs, for an agent id (from 0); None if one of them is missing."""
        values = self.values(metric, agent)
        return compare(values, self.theirs[agent]) if len(values) and agent in self.theirs else None


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

    @property
    def title(self) -> str:
        """The table, the environment and the regime, as people read them."""
        return f"Table {self.table}: {ENV_TITLES[self.env]}, {self.regime}"

    @property
    def printed(self) -> list[tuple[Line, int]]:
        """Line and agent id of every number of this table; with fewer agents, N = 500 repeats other tables."""
        own = [line for line in self.lines if self.suite != "scarcity" or line.n_agents != PAPER_AGENTS]
        return [(line, agent) for line in own for agent in line.theirs]


@dataclass(frozen=True)
class Results:
    """Everything that is in a folder of results.

    Attributes:
        cells: all that are finished.
        out: the folder, for sections with files of their own.
        notes: remarks by key, from ``notes.json``.
        price: of a core-hour in $, or None.
    """

    cells: tuple[FinishedCell, ...]
    out: Path
    notes: Mapping[str, str] = field(default_factory=dict)
    price: float | None = None

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The paper's tables, ours beside them."""
        return tuple(all_blocks(self.cells))

    def of(self, suite: str) -> list[Block]:
        """The blocks of a suite."""
        return [block for block in self.blocks if block.suite == suite]


def all_blocks(cells: Sequence[FinishedCell]) -> Iterator[Block]:
    """Every block of every table, in the paper's order of experiments."""
    for (name, metric), tables in _TABLES.items():
        suite = SUITES[name]
        for env, regime in suite.data:
            agents = paper.unseen_agents() if suite.unseen else paper.test_agents(env)
            lines = tuple(_lines(cells, suite, metric, env, regime))
            yield Block(tables[ENVS.index(env)], name, env, regime, metric, agents, lines)


def _lines(cells: Sequence[FinishedCell], suite: Suite, metric: str, env: str, regime: str) -> Iterator[Line]:
    """Give a line per N and method, but none to a method that neither we nor the paper measured."""
    unseen = suite.unseen.get(env, ())
    for count, method in product(suite.agents, suite.methods):
        title = METHODS[method].title if metric == RMSE else METHODS[method].label
        name = title + (f", N = {count}" if len(suite.agents) > 1 else "")
        ours = find(cells, metric, env, regime, method, count, unseen)
        theirs = paper_numbers(metric, env, regime, count, method, unseen=bool(unseen))
        if theirs or ours is not None:
            yield Line(name, method, count, ours, theirs)


def paper_numbers(metric: str, env: str, regime: str, count: int, method: str, *, unseen: bool) -> Mapping[int, Known]:
    """Look up the paper's numbers by agent id (from 0); empty where it has none.

    Those of the true environment are the same under every regime and for every N.
    """
    entry = METHODS[method]
    full = count == PAPER_AGENTS or not entry.learns
    if unseen:
        of_unseen = paper.unseen_error if metric == RMSE else paper.unseen_reward
        return of_unseen(regime, entry.title if entry.p is None else "PerSim", entry.p) if full else {}
    if metric == RMSE:
        return paper.prediction_error(env, regime, entry.title) if full else {}
    if full:
        return paper.reward(env, regime if entry.learns else "", entry.title)
    return paper.scarcity(env, regime, count, entry.title)


def read_notes(out: Path) -> dict[str, str]:
    """The remarks of ``notes.json``; none if there is no such file.

    Raises:
        InputError: it is not an object of texts.
    """
    path = out / "notes.json"
    if not path.exists():
        return {}
    try:
        notes = store.parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); give an object of texts, or remove it") from error
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise InputError(f'{str(path)!r} has to be an object of texts, such as {{"about": "..."}}')
    return notes
