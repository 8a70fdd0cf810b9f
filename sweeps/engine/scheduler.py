"""Running cells: tasks go to workers, finished cells into the store, once each, whatever dies on the way."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from persim.methods.job import Job
from persim.storage.cells import CellStore
from sweeps.grid.tasks import Task, finish, missing, plan

ATTEMPTS = 3
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


class TaskGraph:
    """Hands out the tasks whose needs are met, earlier ones first, so that cells are finished one after the other.

    Args:
        tasks: by key, cell by cell; what is done already is not among them.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = dict(tasks)
        self._waits = {key: sum(need in tasks for need in task.needs) for key, task in tasks.items()}
        self._feeds: dict[str, list[str]] = {key: [] for key in tasks}
        for key, task in tasks.items():
            for need in task.needs:
                if need in tasks:
                    self._feeds[need].append(key)
        self._attempts = dict.fromkeys(tasks, 0)
        self._place = {key: place for place, key in enumerate(tasks)}
        self._ready: dict[bool, list[tuple[int, str]]] = {False: [], True: []}
        self.failed: dict[str, str] = {}
        self.done: set[str] = set()
        for key, waits in self._waits.items():
            if not waits:
                self._offer(key)

    @property
    def unfinished(self) -> int:
        """Tasks that are neither done nor failed."""
        return len(self._tasks) - len(self.done) - len(self.failed)

    def take(self, heavy: bool) -> Task | None:
        """The next task of a kind, or None."""
        queue = self._ready[heavy]
        return self._tasks[heapq.heappop(queue)[1]] if queue else None

    def succeed(self, key: str) -> None:
        """A task is done: others may start."""
        self.done.add(key)
        for other in self._feeds[key]:
            self._waits[other] -= 1
            if not self._waits[other] and other not in self.failed:
                self._offer(other)

    def fail(self, key: str, error: str, *, final: bool = False) -> list[str]:
        """A task failed: it is tried again, or fails for good with all that need it.

        Args:
            key: of the task.
            error: why.
            final: whether it would fail again in the same way.

        Returns:
            The keys that failed for good by this.
        """
        self._attempts[key] += 1
        if self._attempts[key] < ATTEMPTS and not final:
            self._offer(key)
            return []
        return self._give_up(key, error)

    def _give_up(self, key: str, error: str) -> list[str]:
        if key in self.failed:
            return []
        self.failed[key] = error
        return [key, *(other for feed in self._feeds[key] for other in self._give_up(feed, error))]

    def _offer(self, key: str) -> None:
        heapq.heappush(self._ready[self._tasks[key].heavy], (self._place[key], key))


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
