"""Doing tasks on Ray: as many at a time as the cluster has room for, and no harm if any worker is lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from persim.learning.training import DivergenceError
from sweeps.engine.scheduler import Outcome, Work, brief
from sweeps.grid.tasks import Task, perform

_POLL_SECONDS = 0.5
_COUNT_SECONDS = 2.0
_BEYOND = 4  # tasks asked for beyond what the cluster has, so that an autoscaler sees the demand


def cell_task(work: Work, task: Task, root: Path, device: str) -> float:
    """Do a task on a worker, with one thread; returns its seconds."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    work(task, root, device)
    return time.perf_counter() - started


class RayPool:
    """Tasks on the running Ray: heavy ones on a share of a GPU if there are any, all others on a CPU each.

    Args:
        root: the store, on a path that every node sees.
        device: of heavy tasks, ``cpu`` or ``cuda``.
        gpu_share: of one GPU for each heavy task, so that several share it.
        autoscale: whether the cluster adds nodes on demand.
        work: does a task.
    """

    def __init__(
        self, root: Path, device: str = "cpu", gpu_share: float = 0.2, *, autoscale: bool = False, work: Work = perform
    ) -> None:
        self._root, self.device, self._share, self._work = root, device, gpu_share, work
        self._beyond = _BEYOND if autoscale else 0
        self._remote = ray.remote(max_retries=0)(cell_task)  # the scheduler tries again by itself
        self._busy: dict[Any, tuple[Task, bool]] = {}
        self._room, self._counted = {False: 0, True: 0}, -_COUNT_SECONDS

    @property
    def running(self) -> int:
        """Number of tasks that Ray has."""
        return len(self._busy)

    def _on_gpu(self, heavy: bool) -> bool:
        return heavy and self.device != "cpu"

    def has_room(self, heavy: bool) -> bool:
        """Whether the cluster, as it is now, could start one more such task."""
        if time.monotonic() - self._counted >= _COUNT_SECONDS:
            there, self._counted = ray.cluster_resources(), time.monotonic()
            self._room = {False: int(there.get("CPU", 1)), True: int(there.get("GPU", 0) / self._share)}
        kind = self._on_gpu(heavy)
        return sum(gpu == kind for _, gpu in self._busy.values()) < self._room[kind] + self._beyond

    def submit(self, task: Task) -> None:
        """Give a task to Ray."""
        gpu = self._on_gpu(task.heavy)
        placed = self._remote.options(num_cpus=1, num_gpus=self._share if gpu else 0)
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
            return Outcome(task, ray.get(ref))
        except RayTaskError as error:  # the task raised; the worker is well
            cause = getattr(error, "cause", error)
            return Outcome(task, error=brief(cause), final=isinstance(cause, DivergenceError))
        except RayError as error:  # the worker or its node is gone
            return Outcome(task, error=f"the worker was lost ({type(error).__name__})")
