"""Cells and rows: a measurement is computed once, and everything that is shown comes from its rows."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import persim
from persim.errors import InputError, check_at_least, check_name, check_seed
from persim.storage import store

KIND, REQUEST = "cell", "request"
_FILE_NAME_BYTES = 150  # file systems take 255, and a hash, a number and a suffix follow
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One measurement. Its id is the hash of what its numbers depend on, and of nothing else.

    Attributes:
        env: name of the environment.
        regime: how the data were recorded; ``true-env`` for a method that looks at no data.
        agents: N, the number of agents in the data.
        method: key of the method in ``baselines.registry``.
        seed: everything random follows from it.
        settings: the method's own settings, as far as the measurement depends on them.
        measure: what is measured and how; see ``persim.methods.measure``.

    Raises:
        InputError: something is out of range, or a name could not be part of a path.
    """

    env: str
    regime: str
    agents: int
    method: str
    seed: int
    settings: dict[str, Any]
    measure: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("env", "regime", "method"):
            check_name(name, getattr(self, name))
        check_at_least("agents", self.agents, 1)
        check_seed(self.seed)
        check_name("what", self.measure.get("what"))

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits."""
        return store.settings_hash(asdict(self))

    @property
    def what(self) -> str:
        """What is measured: ``prediction``, ``reward``, ``holdout`` or ``tensor``."""
        return str(self.measure["what"])


@dataclass(frozen=True)
class FinishedCell:
    """A cell with its results.

    Attributes:
        cell: the measurement.
        rows: one dict per metric and agent: ``metric``, ``agent`` (the paper's number, or None), ``value``.
        curves: named lists of ``[x, y]`` points.
        commit: version of the code that ran it.
        seconds: named timings.
        started: Unix time at which the measurement began, in milliseconds.
        ended: Unix time at which it ended, in milliseconds.
        model: file of the trained weights, relative to the store; empty if there is none.
        labels: the suites that asked for it, each with its preset; not part of the record in a store.
        machine: what computed it (``persim.storage.machine``); empty for cells that were finished before it was
            recorded.
    """

    cell: Cell
    rows: list[dict[str, Any]]
    curves: dict[str, list[list[float]]]
    commit: str
    seconds: dict[str, float]
    started: int
    ended: int
    model: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(map(_is_row, self.rows)):
            raise InputError("a row is no metric, agent and value; give these three")
        for metric in {entry["metric"] for entry in self.rows}:
            check_name("metric", metric)

    def value(self, metric: str, agent: int | None = None) -> float:
        """Return the one value of a metric (of an agent); infinity stands for what was not finite.

        Raises:
            KeyError: there is no such row.
        """
        for row in self.rows:
            if row["metric"] == metric and row["agent"] == agent:
                return math.inf if row["value"] is None else float(row["value"])
        raise KeyError(f"no row for {metric!r}, agent {agent}")

    def has(self, metric: str) -> bool:
        """Whether any row has this metric."""
        return any(row["metric"] == metric for row in self.rows)


@dataclass(frozen=True)
class Request:
    """What a command asked for: it labels cells, and no number depends on it.

    Attributes:
        suite: the grid, sweep or command, such as ``reward`` or ``rank_cv``.
        preset: name of the budget; empty if the command has none.
        cells: ids of the cells.
        title: of a sweep; empty for a grid.
        settings: of a sweep; a grid needs none, as its cells say everything.
    """

    suite: str
    preset: str
    cells: tuple[str, ...]
    title: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Name of the request: a sweep keeps its name while its cells become more."""
        own = self.settings or {"cells": sorted(self.cells)}
        return f"{self.suite}-{store.settings_hash({'preset': self.preset, 'settings': own})}"


def row(metric: str, value: float, agent: int | None = None) -> dict[str, Any]:
    """One row of a finished cell; ``agent`` is the paper's number, from 1.

    A value that is not finite, as of a prediction that ran away, is kept as None: JSON has no infinity.
    """
    return {"metric": metric, "agent": agent, "value": finite_or_none(value)}


def _is_row(entry: dict[str, Any]) -> bool:
    """Whether these are a metric, the agent's number or None, and a number or None."""
    metric, agent, value = (entry.get(name, _is_row) for name in ("metric", "agent", "value"))
    whose = agent is None or (type(agent) is int and agent >= 1)
    measured = value is None or (isinstance(value, int | float) and abs(value) <= sys.float_info.max)
    return len(entry) == 3 and isinstance(metric, str) and whose and measured


def finite_or_none(value: float) -> float | None:
    """The value as JSON can hold it."""
    return float(value) if math.isfinite(value) else None


def plain(settings: Any) -> Any:
    """Settings in the form that JSON gives them: tuples become lists."""
    return store.parse_json(store.canonical_json(settings))


def file_name(*names: object) -> str:
    """Names, such as of an environment, as a part of a file name; the one place where a name becomes one.

    What could lead elsewhere, or is too long, is replaced by a hash of its own.
    """
    text = "-".join(map(str, names)).replace(":", ".")
    if re.fullmatch(r"\w[\w.-]*", text) and len(text.encode()) <= _FILE_NAME_BYTES:
        return text
    return (
        f"{re.sub(r'[^a-zA-Z0-9]+', '-', text)[:40]}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:12]}"
    )


class CellStore:
    """Datasets, models, finished cells and requests under one folder.

    Args:
        root: the store; on a cluster a path that every node sees.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def record_path(self, cell_id: str) -> Path:
        """Where the finished cell is kept."""
        return self.root / "cells" / f"{cell_id}.json"

    def dataset_path(self, env: str, regime: str, agents: int, seed: int) -> Path:
        """Where the dataset of these settings is kept."""
        name = store.settings_hash({"env": env, "regime": regime, "agents": agents, "seed": seed})
        return self.root / "datasets" / f"{file_name(env, regime, agents)}-{name}.safetensors"

    def finished(self, cell: Cell) -> FinishedCell | None:
        """The finished cell, or None if it is still to be computed.

        Raises:
            InputError: its record is damaged.
        """
        path = self.record_path(cell.id)
        return read_finished(path) if path.exists() else None

    def finished_ids(self) -> set[str]:
        """Ids of all finished cells, from one listing."""
        return {path.stem for path in (self.root / "cells").glob("*.json")}

    def finish(self, done: FinishedCell) -> None:
        """Record a finished cell, whole or not at all."""
        record = {name: value for name, value in asdict(done).items() if name != "labels"}
        store.write_record(self.record_path(done.cell.id), KIND, record)

    def ask(self, request: Request) -> None:
        """Record what a command asks for, so that reports and MLflow know which cells belong together."""
        self.check_version()
        path = self.root / "requests" / f"{request.id}.json"
        if not path.exists() or read_request(path).cells != request.cells:
            store.write_record(path, REQUEST, asdict(request))

    def requests(self) -> Iterator[Request]:
        """Everything that was asked for, in the order of the names.

        Raises:
            InputError: a record is damaged.
        """
        for path in sorted((self.root / "requests").glob("*.json"), key=str):
            yield read_request(path)

    def labels(self) -> dict[str, dict[str, str]]:
        """By cell id the suites that asked for it, each with its preset."""
        found: dict[str, dict[str, str]] = {}
        for request in self.requests():
            for cell_id in request.cells:
                found.setdefault(cell_id, {})[request.suite] = request.preset
        return found

    def check_version(self) -> None:
        """Warn of cells that version 0.1 left here, whose ids were made differently."""
        if old := sum(1 for _ in (self.root / "cells").glob("*/*.json")):
            _log.warning(
                "store %r has cells of version 0.1 (%d): its datasets are used, but its results and models are not, as "
                "they were named differently; nothing is deleted (CHANGELOG.md says how to convert them)",
                str(self.root),
                old,
            )


def read_finished(path: Path) -> FinishedCell:
    """The finished cell in a record.

    Raises:
        InputError: the file is damaged, or of another version.
    """
    record = store.read_record(path, KIND)
    try:
        done = store.build(FinishedCell, record)
    except InputError as error:
        raise InputError(
            f"{str(path)!r} holds a cell of another version ({error}); move it out of the store"
        ) from error
    if done.cell.id != path.stem:
        raise InputError(f"{str(path)!r} holds cell {done.cell.id}, not the one of its name; move it out of the store")
    return done


def read_request(path: Path) -> Request:
    """What a record says was asked for.

    Raises:
        InputError: the file is damaged.
    """
    record = store.read_record(path, REQUEST)
    with store.contents_of(path):
        return store.build(Request, record)


@cache
def code_version() -> str:
    """The git commit this code runs from (``+dirty`` if changed), or the package's version."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        dirty = "+dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD")[:12] + dirty
    except (OSError, subprocess.SubprocessError):
        return persim.__version__
