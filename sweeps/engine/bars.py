"""The bar of a benchmark: cells done, running, failed, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from sweeps.grid.estimate import seconds
from sweeps.grid.tasks import Task

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
_TRUST = 0.05  # share of the work after which what was measured counts as much as the estimate


class CellBar:
    """Advances by the estimated seconds of each task that is done.

    Args:
        title: shown in front.
        tasks: to be done.
        cells: how many there are to compute.
        workers: that share the work.
    """

    def __init__(self, title: str, tasks: Mapping[str, Task], cells: int, workers: int) -> None:
        self._cells, self._workers = cells, workers
        self._counts = (0, 0, 0)
        self._total = sum(map(seconds, tasks.values()))
        self._done, self._started = 0.0, time.monotonic()
        self._bar = tqdm(
            total=self._total,
            desc=title,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            bar_format=_FORMAT,
        )

    def task(self, task: Task, seconds_taken: float) -> None:
        """A task is done."""
        self._done += seconds(task)
        self._bar.update(seconds(task))
        self._show()

    def cells(self, done: int, running: int, failed: int) -> None:
        """Shows the counts if they have changed."""
        if (done, running, failed) != self._counts:
            self._counts = (done, running, failed)
            self._show()

    def seconds_left(self, elapsed: float) -> float:
        """From the estimates at first, from what was measured later on."""
        trust = _TRUST * self._total
        pace = (elapsed + trust / self._workers) / (self._done + trust) if self._total else 0.0
        return max(0.0, self._total - self._done) * pace

    def _show(self) -> None:
        done, running, failed = self._counts
        left = tqdm.format_interval(self.seconds_left(time.monotonic() - self._started))
        lost = f", {failed} failed" if failed else ""
        self._bar.set_postfix_str(f"{left} left, {done}/{self._cells} cells, {running} tasks running{lost}")

    def close(self) -> None:
        """Leaves the bar on the screen and ends its line."""
        self._bar.close()
