"""Running cells: tasks go to workers, finished cells into the store, once each, whatever dies on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray

from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, code_version
from sweeps.engine.graph import TaskGraph
from sweeps.engine.pool import Outcome, Pool, PoolSettings, Work
from sweeps.engine.work import PIECE, dataset, perform
from sweeps.grid.tasks import Plan, Task, missing, piece_output, plan


class Bar(Protocol):
    """Shows how far the run is."""

    def task(self, task: Task, seconds: float) -> None:
        """A task is done."""
        ...

    def cells(self, done: int, running: int, failed: int) -> None:
        """Counts."""
        ...


class _Datasets:
    """Puts each dataset into Ray's object store once, and drops it after the last task that needs it."""

    def __init__(self, tasks: Mapping[str, Task], cells: CellStore) -> None:
        self._cells = cells
        self._users: dict[str, set[str]] = {}
        for task in tasks.values():
            if task.kind == "part":
                self._users.setdefault(task.needs[0], set()).add(task.key)
        self._refs: dict[str, Any] = {}

    def of(self, task: Task) -> Any:
        """The dataset of a task, or None if it needs none."""
        if task.kind != "part":
            return None
        key = task.needs[0]
        if key not in self._refs:
            self._refs[key] = ray.put(dataset(task, self._cells))
        return self._refs[key]

    def release(self, task: Task) -> None:
        """The task does not need it any more."""
        if task.kind == "part":
            users = self._users[task.needs[0]]
            users.discard(task.key)
            if not users:
                self._refs.pop(task.needs[0], None)


def run_cells(
    todo: Sequence[Cell],
    cells: CellStore,
    pool_settings: PoolSettings,
    bar: Bar,
    on_finished: Callable[[FinishedCell], None],
    work: Work = perform,
) -> dict[str, str]:
    """Computes cells on the running Ray; returns the errors of those that failed, by cell id.

    A task that fails is tried three times; then the cells that need it have failed, and the others go on.

    Args:
        todo: cells without a record.
        cells: the store.
        pool_settings: where and how.
        bar: told of every step.
        on_finished: called with each cell, once it is recorded.
        work: what a worker does for a task.
    """
    planned = plan(todo, cells)
    wanted = [key for keys in planned.of_cell.values() for key in keys]
    tasks = missing(planned.tasks, wanted, cells.root)
    by_id = {cell.id: cell for cell in todo}
    return _Run(planned, tasks, by_id, cells, Pool(pool_settings, work), bar, on_finished).loop()


class _Run:
    def __init__(
        self,
        planned: Plan,
        tasks: Mapping[str, Task],
        todo: Mapping[str, Cell],
        cells: CellStore,
        pool: Pool,
        bar: Bar,
        on_finished: Callable[[FinishedCell], None],
    ) -> None:
        self._planned, self._todo, self._cells, self._bar = planned, todo, cells, bar
        self._graph, self._pool = TaskGraph(tasks), pool
        self._data = _Datasets(tasks, cells)
        self._on_finished = on_finished
        self._open = {cell: {key for key in keys if key in tasks} for cell, keys in planned.of_cell.items()}
        self._cell_of = {key: cell for cell, keys in planned.of_cell.items() for key in keys}
        self._failed: dict[str, str] = {}
        self._finished = 0

    def loop(self) -> dict[str, str]:
        """Hands out, collects, records, until nothing is left."""
        for cell in [cell for cell, keys in self._open.items() if not keys]:
            self._finish(cell)
        while self._graph.unfinished:
            self._pool.resize(self._graph.ready(False), self._graph.ready(True))
            self._hand_out()
            for outcome in self._pool.collect():
                self._take_in(outcome)
            self._bar.cells(self._finished, self._pool.running, len(self._failed))
        return self._failed

    def _hand_out(self) -> None:
        for heavy in (False, True):
            while self._pool.has_idle(heavy) and (task := self._graph.take(heavy)) is not None:
                try:
                    data = self._data.of(task)
                except Exception as error:  # a damaged dataset fails its own cells only
                    self._give_up(self._graph.fail(task.key, str(error)))
                    continue
                self._pool.submit(task, data)

    def _take_in(self, outcome: Outcome) -> None:
        task = outcome.task
        if outcome.error is not None:
            self._give_up(self._graph.fail(task.key, outcome.error, final=outcome.final))
            return
        self._data.release(task)
        self._graph.succeed(task.key)
        self._bar.task(task, outcome.seconds)
        cell = self._cell_of.get(task.key)
        if cell is None:
            return
        self._open[cell].discard(task.key)
        if not self._open[cell]:
            self._finish(cell)

    def _give_up(self, failed: Sequence[str]) -> None:
        for key in failed:
            cell = self._cell_of.get(key)
            if cell is not None:
                self._failed.setdefault(cell, self._graph.failed[key])

    def _finish(self, cell_id: str) -> None:
        try:
            done = finished_cell(self._todo[cell_id], len(self._planned.of_cell[cell_id]), self._cells.root)
            self._cells.finish(done)
        except Exception as error:  # a full disk, a damaged piece: this cell failed, the others go on
            self._failed[cell_id] = str(error)
            return
        for number in range(len(self._planned.of_cell[cell_id])):
            (self._cells.root / piece_output(self._todo[cell_id], number)).unlink(missing_ok=True)
        self._finished += 1
        self._on_finished(done)


def finished_cell(cell: Cell, pieces: int, root: Path) -> FinishedCell:
    """Puts the measurements of a cell together.

    Raises:
        InputError: one is missing or damaged.
    """
    records = [store.read_record(root / piece_output(cell, number), PIECE) for number in range(pieces)]
    decisions = [record["timings"]["decision_ms"] for record in records if record["timings"]]
    seconds = {"train": max((record["train_seconds"] for record in records), default=0.0)}
    seconds["measure"] = sum(record["ended"] - record["started"] for record in records) / 1e3
    if decisions:
        seconds["decision"] = sum(decisions) / len(decisions) / 1e3
    return FinishedCell(
        cell=cell,
        rows=[entry for record in records for entry in record["rows"]],
        curves=records[0]["curves"] if records else {},
        seed=int(cell.settings["seed"]),
        commit=code_version(),
        seconds=seconds,
        started=min((record["started"] for record in records), default=0),
        ended=max((record["ended"] for record in records), default=0),
    )
