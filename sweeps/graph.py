"""Which task is next: an acyclic graph whose tasks succeed, are tried again, or take others down with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from sweeps.tasks import Task

ATTEMPTS = 3


class TaskGraph:
    """Hands out the tasks whose needs are met.

    Args:
        tasks: by key; what is done already is not among them.
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
        self._ready = {heavy: deque[Task]() for heavy in (False, True)}
        self.failed: dict[str, str] = {}
        self.done: set[str] = set()
        for key, waits in self._waits.items():
            if not waits:
                self._offer(key)

    @property
    def unfinished(self) -> int:
        """Tasks that are neither done nor failed."""
        return len(self._tasks) - len(self.done) - len(self.failed)

    def ready(self, heavy: bool) -> int:
        """How many tasks of a kind could start now."""
        return len(self._ready[heavy])

    def take(self, heavy: bool) -> Task | None:
        """The next task of a kind, or None."""
        queue = self._ready[heavy]
        return queue.popleft() if queue else None

    def succeed(self, key: str) -> None:
        """A task is done: others may start."""
        self.done.add(key)
        for other in self._feeds[key]:
            self._waits[other] -= 1
            if not self._waits[other] and other not in self.failed:
                self._offer(other)

    def fail(self, key: str, error: str) -> list[str]:
        """A task failed: it is tried again, or fails for good with all that need it.

        Returns:
            The keys that failed for good by this.
        """
        self._attempts[key] += 1
        if self._attempts[key] < ATTEMPTS:
            self._ready[self._tasks[key].heavy].appendleft(self._tasks[key])
            return []
        return self._give_up(key, error)

    def _give_up(self, key: str, error: str) -> list[str]:
        if key in self.failed:
            return []
        self.failed[key] = error
        return [key, *(other for feed in self._feeds[key] for other in self._give_up(feed, error))]

    def _offer(self, key: str) -> None:
        task = self._tasks[key]
        self._ready[task.heavy].append(task)
