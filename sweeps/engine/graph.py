"""Which task is next: an acyclic graph whose tasks succeed, are tried again, or take others down with them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from sweeps.grid.tasks import Task

ATTEMPTS = 3


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

    def ready(self, heavy: bool) -> int:
        """How many tasks of a kind could start now."""
        return len(self._ready[heavy])

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
