"""Doing tasks on Ray: as many at a time as the cluster has room for, and no harm if any worker is lost."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from persim.learning.training import DivergenceError
from sweeps.engine.gpus import Workers, usable
from sweeps.engine.scheduler import Outcome, Work, brief
from sweeps.grid.tasks import Task, perform

_POLL_SECONDS = 0.5
_COUNT_SECONDS = 2.0
_CPUS = Workers()
_log = logging.getLogger(__name__)


class _Heard(logging.Handler):
    """Keeps the warnings of a worker, whose own log nobody reads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in ("persim", "baselines", "sweeps"):
            self.said.append(record.getMessage())


def cell_task(work: Work, task: Task, root: Path, device: str) -> tuple[float, list[str]]:
    """Do a task on a worker, with one thread; returns its seconds, and what it warned of."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger().addHandler(heard := _Heard())
    try:
        started = time.perf_counter()
        work(task, root, usable(device))
        return time.perf_counter() - started, heard.said
    finally:
        logging.getLogger().removeHandler(heard)


class RayPool:
    """Tasks on the running Ray: heavy ones on a share of a GPU if there are any, all others on a CPU each.

    Args:
        root: the store, on a path that every node sees.
        workers: what to ask Ray for.
        work: does a task.
    """

    def __init__(self, root: Path, workers: Workers = _CPUS, work: Work = perform) -> None:
        self._root, self._workers, self.device, self._work = root, workers, workers.device, work
        self._remote = ray.remote(max_retries=0)(cell_task)  # the scheduler tries again by itself
        self._busy: dict[Any, tuple[Task, bool]] = {}
        self._room, self._counted = {False: 0, True: 0}, -_COUNT_SECONDS
        self._said: set[str] = set()

    @property
    def running(self) -> int:
        """Number of tasks that Ray has."""
        return len(self._busy)

    def has_room(self, heavy: bool) -> bool:
        """Whether the cluster, as it is now, could start one more such task, or is to grow for it."""
        if time.monotonic() - self._counted >= _COUNT_SECONDS:
            self._counted = time.monotonic()
            self._room = {kind: self._workers.room(kind) for kind in (False, True)}
        kind = self._workers.on_gpu(heavy)
        return sum(gpu == kind for _, gpu in self._busy.values()) < self._room[kind]

    def submit(self, task: Task) -> None:
        """Give a task to Ray."""
        gpu = self._workers.on_gpu(task.heavy)
        placed = self._remote.options(num_cpus=1, num_gpus=self._workers.gpu_share if gpu else 0)
        self._busy[placed.remote(self._work, task, self._root, self.device if gpu else "cpu")] = (task, gpu)

    def collect(self) -> list[Outcome]:
        """Wait a moment for workers; return the tasks that ended."""
        if not self._busy:
            time.sleep(_POLL_SECONDS)
            return []
        known = list(self._busy)
        ended, _ = ray.wait(known, num_returns=1, timeout=_POLL_SECONDS)
        if ended:
            ended, _ = ray.wait(known, num_returns=len(known), timeout=0)
        return [self._ended(ref) for ref in ended]

    def _ended(self, ref: Any) -> Outcome:
        task, _ = self._busy.pop(ref)
        try:
            seconds, said = ray.get(ref)
        except RayTaskError as error:  # the task raised; the worker is well
            cause = getattr(error, "cause", error)
            return Outcome(task, error=brief(cause), final=isinstance(cause, DivergenceError))
        except RayError as error:  # the worker or its node is gone
            return Outcome(task, error=f"the worker was lost ({type(error).__name__})")
        for text in said:
            if text not in self._said:
                self._said.add(text)
                _log.warning("%s", text)
        return Outcome(task, seconds)
