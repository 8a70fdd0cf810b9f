"""The bar of a benchmark: cells done, running, failed, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm

from sweeps.estimate import seconds
from sweeps.tasks import Task

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


class CellBar:
    """Advances by the estimated seconds of each task that is done.

    Args:
        title: shown in front.
        tasks: to be done.
        cells: how many there are to compute.
    """

    def __init__(self, title: str, tasks: Mapping[str, Task], cells: int) -> None:
        self._cells = cells
        self._shown: tuple[int, int, int] | None = None
        self._bar = tqdm(
            total=sum(map(seconds, tasks.values())),
            desc=title,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            bar_format=_FORMAT,
        )

    def task(self, task: Task, seconds_taken: float) -> None:
        """A task is done."""
        self._bar.update(seconds(task))

    def cells(self, done: int, running: int, failed: int) -> None:
        """Shows the counts if they have changed."""
        if (done, running, failed) != self._shown:
            self._shown = (done, running, failed)
            lost = f", {failed} failed" if failed else ""
            self._bar.set_postfix_str(f"{done}/{self._cells} cells, {running} tasks running{lost}")

    def close(self) -> None:
        """Leaves the bar on the screen and ends its line."""
        self._bar.close()
