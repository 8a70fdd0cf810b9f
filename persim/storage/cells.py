"""Cells and rows: what is computed once, and what is shown (DESIGN: everything shown comes from rows)."""

from __future__ import annotations

import math
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import persim
from persim.storage import store

KIND = "cell"


@dataclass(frozen=True)
class Cell:
    """One unit of work; its id is the hash of everything in it.

    Attributes:
        suite: the grid it belongs to, such as ``"rank_cv"``.
        env: name of the environment.
        regime: how the data were recorded.
        agents: N.
        method: name of the method.
        trial: number of the repetition, from 0.
        settings: whatever else the result depends on; anything JSON can hold.
    """

    suite: str
    env: str
    regime: str
    agents: int
    method: str
    trial: int
    settings: dict[str, Any]

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits."""
        return store.settings_hash(asdict(self))


@dataclass(frozen=True)
class FinishedCell:
    """A cell with what it gave.

    Attributes:
        cell: what was computed.
        rows: one dict per metric and agent: ``metric``, ``agent`` (paper's number, or None), ``value``.
        curves: named lists of ``[x, y]`` points.
        seed: of the sweep.
        commit: version of the code that ran it.
        seconds: named timings.
        started: Unix time at which it began, in milliseconds.
        ended: likewise.
    """

    cell: Cell
    rows: list[dict[str, Any]]
    curves: dict[str, list[list[float]]]
    seed: int
    commit: str
    seconds: dict[str, float]
    started: int
    ended: int

    def value(self, metric: str, agent: int | None = None) -> float:
        """The one value of a metric (of an agent); infinite if it was not a finite number.

        Raises:
            KeyError: there is no such row.
        """
        for row in self.rows:
            if row["metric"] == metric and row["agent"] == agent:
                return math.inf if row["value"] is None else float(row["value"])
        raise KeyError(f"no row for {metric!r}, agent {agent}")


def row(metric: str, value: float, agent: int | None = None) -> dict[str, Any]:
    """One row of a finished cell; ``agent`` is the paper's number, from 1.

    A value that is not finite, as of a prediction that ran away, is kept as None: JSON has no infinity.
    """
    return {"metric": metric, "agent": agent, "value": finite_or_none(value)}


def finite_or_none(value: float) -> float | None:
    """The value as JSON can hold it."""
    return float(value) if math.isfinite(value) else None


class CellStore:
    """Finished cells, models and checkpoints under one folder, named by cell id.

    Args:
        root: the store; on a cluster a path that every node sees.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def record_path(self, cell: Cell) -> Path:
        """Where the finished cell is kept."""
        return self.root / "cells" / cell.suite / f"{cell.id}.json"

    def model_path(self, cell: Cell) -> Path:
        """Where its trained model is kept."""
        return self.root / "models" / f"{cell.id}.safetensors"

    def checkpoint_path(self, cell: Cell) -> Path:
        """Where its training is saved while it runs."""
        return self.root / "checkpoints" / f"{cell.id}.safetensors"

    def dataset_path(self, env: str, regime: str, agents: int, seed: int) -> Path:
        """Where the dataset of these settings is kept."""
        name = store.settings_hash({"env": env, "regime": regime, "agents": agents, "seed": seed})
        return self.root / "datasets" / f"{env.replace(':', '.')}-{regime}-{agents}-{name}.safetensors"

    def finished(self, cell: Cell) -> FinishedCell | None:
        """The finished cell, or None if it is still to be computed.

        Raises:
            InputError: its record is damaged.
        """
        path = self.record_path(cell)
        if not path.exists():
            return None
        record = store.read_record(path, KIND)
        return FinishedCell(**{**record, "cell": Cell(**record["cell"])})

    def finish(self, done: FinishedCell) -> None:
        """Records a finished cell, whole or not at all, and drops its checkpoint."""
        store.write_record(self.record_path(done.cell), KIND, asdict(done))
        self.checkpoint_path(done.cell).unlink(missing_ok=True)


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
