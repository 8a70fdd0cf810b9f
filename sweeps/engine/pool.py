"""A pool of Ray actors that grows and shrinks with the work, and survives the loss of any of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from persim.data import Trajectories
from persim.learning.training import DivergenceError
from sweeps.engine.work import perform
from sweeps.grid.tasks import Task

_POLL_SECONDS = 0.5
_RESIZE_SECONDS = 2.0
_STARTING = 4  # actors asked for beyond what the cluster has, so that an autoscaler sees the demand


@dataclass(frozen=True)
class PoolSettings:
    """Where and how tasks run.

    Attributes:
        root: the store, on a path that every node sees.
        device: of heavy tasks, ``cpu`` or ``cuda``.
        gpu_share: of one GPU for each heavy task, so that several share it.
        autoscale: whether the cluster adds nodes on demand.
    """

    root: Path
    device: str = "cpu"
    gpu_share: float = 0.2
    autoscale: bool = False


Work = Callable[[Task, Path, Trajectories | None, str], float]


class Worker:
    """An actor: one CPU, one thread, and a share of a GPU if it does heavy work on one."""

    def __init__(self, work: Work) -> None:
        import torch

        torch.set_num_threads(1)
        self._work = work

    def ready(self) -> None:
        """Returns once the actor is placed and imported."""

    def run(self, task: Task, root: Path, data: Trajectories | None, device: str) -> float:
        """Does a task; returns its seconds."""
        return self._work(task, root, data, device)


@dataclass(frozen=True)
class Outcome:
    """How a task ended: its seconds, or its error, which is final if it would be the same on every attempt."""

    task: Task
    seconds: float = 0.0
    error: str | None = None
    final: bool = False


class Pool:
    """Workers of two kinds, light and heavy; on a cluster without GPUs there is one kind only.

    Args:
        settings: where and how.
        work: what a worker does for a task; returns its seconds.
    """

    def __init__(self, settings: PoolSettings, work: Work = perform) -> None:
        self._settings, self._work = settings, work
        self._actor = ray.remote(max_restarts=0, max_task_retries=0)(Worker)
        self._starting: dict[Any, tuple[Any, bool]] = {}
        self._idle: dict[bool, list[Any]] = {False: [], True: []}
        self._busy: dict[Any, tuple[Any, bool, Task]] = {}
        self._cpus, self._counted = 0, -_RESIZE_SECONDS

    def kind(self, heavy: bool) -> bool:
        """The kind of worker that does such tasks."""
        return heavy and self._settings.device != "cpu"

    @property
    def running(self) -> int:
        """Tasks that workers are at."""
        return len(self._busy)

    def resize(self, light: int, heavy: int) -> None:
        """Starts workers for so many waiting tasks, as far as there is room; drops idle ones that are in the way."""
        waiting = {False: light, True: heavy} if self.kind(True) else {False: light + heavy, True: 0}
        if time.monotonic() - self._counted >= _RESIZE_SECONDS:
            self._cpus, self._counted = int(ray.cluster_resources().get("CPU", 1)), time.monotonic()
        limit = self._cpus + (_STARTING if self._settings.autoscale else 0)
        for kind, tasks in waiting.items():
            starting = sum(other == kind for _, other in self._starting.values())
            wanted = tasks - len(self._idle[kind]) - starting
            while wanted > 0 and (self._size < limit or self._drop_idle(not kind)):
                self._start(kind)
                wanted -= 1

    @property
    def _size(self) -> int:
        return len(self._starting) + len(self._busy) + sum(map(len, self._idle.values()))

    def _drop_idle(self, kind: bool) -> bool:
        if not self._idle[kind]:
            return False
        ray.kill(self._idle[kind].pop())
        return True

    def _start(self, kind: bool) -> None:
        share = self._settings.gpu_share if kind else 0
        actor = self._actor.options(num_cpus=1, num_gpus=share).remote(self._work)
        self._starting[actor.ready.remote()] = (actor, kind)

    def has_idle(self, heavy: bool) -> bool:
        """Whether a worker waits for such a task."""
        return bool(self._idle[self.kind(heavy)])

    def submit(self, task: Task, data: Any) -> None:
        """Gives a task to an idle worker; ``data`` is a dataset in the object store, or None."""
        kind = self.kind(task.heavy)
        actor = self._idle[kind].pop()
        device = self._settings.device if kind else "cpu"
        self._busy[actor.run.remote(task, self._settings.root, data, device)] = (actor, kind, task)

    def collect(self) -> list[Outcome]:
        """Waits a moment for workers; returns the tasks that ended."""
        known = [*self._busy, *self._starting]
        if not known:
            time.sleep(_POLL_SECONDS)
            return []
        ended, _ = ray.wait(known, num_returns=1, timeout=_POLL_SECONDS)
        if ended:
            ended, _ = ray.wait(known, num_returns=len(known), timeout=0)
        return [outcome for ref in ended if (outcome := self._ended(ref)) is not None]

    def _ended(self, ref: Any) -> Outcome | None:
        if ref in self._starting:
            actor, kind = self._starting.pop(ref)
            try:
                ray.get(ref)
            except RayError:
                return None  # it never came up, or is gone; resize starts another
            self._idle[kind].append(actor)
            return None
        actor, kind, task = self._busy.pop(ref)
        try:
            seconds = ray.get(ref)
        except RayTaskError as error:  # the task raised; the worker is well
            self._idle[kind].append(actor)
            cause = getattr(error, "cause", error)
            return Outcome(task, error=_brief(cause), final=isinstance(cause, DivergenceError))
        except RayError as error:  # the worker or its node is gone
            return Outcome(task, error=f"the worker was lost ({type(error).__name__})")
        self._idle[kind].append(actor)
        return Outcome(task, seconds)


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
