"""Running cells: tasks go to workers, finished cells into the store, once each, whatever dies on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from persim.methods.job import Job
from persim.storage.cells import CellStore
from sweeps.engine.graph import TaskGraph
from sweeps.grid.tasks import Task, finish, missing, plan

Work = Callable[[Task, Path, str], None]  # does a task in a store on a device


@dataclass(frozen=True)
class Outcome:
    """How a task ended: its seconds, or its error, which is final if it would be the same on every attempt."""

    task: Task
    seconds: float = 0.0
    error: str | None = None
    final: bool = False


class Pool(Protocol):
    """Does tasks: on Ray (``sweeps.engine.ray_pool``), or in this process (``sweeps.engine.in_process``)."""

    device: str

    @property
    def running(self) -> int:
        """Number of tasks that are being done."""
        ...

    def has_room(self, heavy: bool) -> bool:
        """Whether it takes one more task of this kind."""
        ...

    def submit(self, task: Task) -> None:
        """Take a task."""
        ...

    def collect(self) -> list[Outcome]:
        """Wait a moment; return the tasks that have ended."""
        ...


class Bar(Protocol):
    """Shows how far the run is."""

    def task(self, task: Task, seconds: float) -> None:
        """A task is done."""
        ...

    def cells(self, done: int, running: int, failed: int) -> None:
        """Show these counts."""
        ...


def run_jobs(todo: Sequence[Job], cells: CellStore, pool: Pool, bar: Bar) -> dict[str, str]:
    """Compute cells; returns the errors of those that failed, by cell id.

    A task that fails is tried three times; then the cells that need it have failed, and the others go on.

    Args:
        todo: cells without a record, with their methods.
        cells: the store.
        pool: does the tasks.
        bar: told of every step.
    """
    return _Run(todo, cells, pool, bar).loop()


class _Run:
    def __init__(self, todo: Sequence[Job], cells: CellStore, pool: Pool, bar: Bar) -> None:
        self._jobs = {job.cell.id: job for job in todo}
        self._cells, self._pool, self._bar = cells, pool, bar
        planned = plan(todo, cells, pool.device)
        self._cell_of = {key: cell for cell, keys in planned.of_cell.items() for key in keys}
        tasks = missing(planned.tasks, list(self._cell_of), cells.root)
        self._open = {cell: {key for key in keys if key in tasks} for cell, keys in planned.of_cell.items()}
        self._graph = TaskGraph(tasks)
        self._failed: dict[str, str] = {}
        self._finished = 0

    def loop(self) -> dict[str, str]:
        """Hand out, collect and record, until nothing is left."""
        for cell in [cell for cell, keys in self._open.items() if not keys]:
            self._finish(cell)
        while self._graph.unfinished:
            for heavy in (False, True):
                while self._pool.has_room(heavy) and (task := self._graph.take(heavy)) is not None:
                    self._pool.submit(task)
            for outcome in self._pool.collect():
                self._take_in(outcome)
            self._bar.cells(self._finished, self._pool.running, len(self._failed))
        return self._failed

    def _take_in(self, outcome: Outcome) -> None:
        key = outcome.task.key
        if outcome.error is not None:
            for lost in self._graph.fail(key, outcome.error, final=outcome.final):
                if lost in self._cell_of:
                    self._failed.setdefault(self._cell_of[lost], self._graph.failed[lost])
            return
        self._graph.succeed(key)
        self._bar.task(outcome.task, outcome.seconds)
        cell = self._cell_of.get(key)
        if cell is not None:
            self._open[cell].discard(key)
            if not self._open[cell]:
                self._finish(cell)

    def _finish(self, cell_id: str) -> None:
        try:
            finish(self._jobs[cell_id], self._cells)
        except Exception as error:  # a full disk, a damaged piece: this cell failed, the others go on
            self._failed[cell_id] = str(error)
            return
        self._finished += 1


def brief(error: BaseException) -> str:
    """The type and the last line of an error, not too long."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
