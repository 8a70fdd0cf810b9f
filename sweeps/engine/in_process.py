"""Doing tasks in this process, one after the other: for debugging, and for machines without Ray."""

from __future__ import annotations

import time
from pathlib import Path

from persim.learning.training import DivergenceError
from sweeps.engine.scheduler import Outcome, Work, brief
from sweeps.grid.tasks import Task, perform


class InProcess:
    """A pool of one worker: this process.

    Args:
        root: the store.
        device: of heavy tasks, ``cpu`` or ``cuda``.
        work: does a task.
    """

    def __init__(self, root: Path, device: str = "cpu", work: Work = perform) -> None:
        self._root, self.device, self._work = root, device, work
        self._task: Task | None = None

    @property
    def running(self) -> int:
        """One while a task waits to be done."""
        return int(self._task is not None)

    def has_room(self, heavy: bool) -> bool:
        """Whether no task waits."""
        return self._task is None

    def submit(self, task: Task) -> None:
        """Keep the task until ``collect``."""
        self._task = task

    def collect(self) -> list[Outcome]:
        """Do the task that waits."""
        assert self._task is not None
        task, self._task = self._task, None
        started = time.perf_counter()
        try:
            self._work(task, self._root, self.device if task.heavy else "cpu")
        except Exception as error:
            return [Outcome(task, error=brief(error), final=isinstance(error, DivergenceError))]
        return [Outcome(task, time.perf_counter() - started)]
