"""MLflow: one writer that sends finished cells, once each, and never holds up or fails the sweep."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from persim.errors import InputError
from persim.storage.cells import FinishedCell
from persim.storage.store import is_remote
from sweeps.tracking.access import brief
from sweeps.tracking.entries import DatasetNote
from sweeps.tracking.runs import Extras, Group, Runs

__all__ = ["DatasetNote", "Extras", "Group", "Tracker", "default_uri", "tracking_folder"]

_log = logging.getLogger(__name__)
_NO_EXTRAS = Extras()
_LAST_TRIES_SECONDS = (0.5, 2.0)  # pauses before the tracker gives up


def tracking_folder(store: Path) -> Path:
    """Where an embedded database and its artifacts go: the store, or ``runs`` here, as SQLite needs a file."""
    return Path("runs") if is_remote(store) else store


def default_uri(store: Path) -> str:
    """The embedded database: one SQLite file in the store, or in ``runs`` here if that is no folder."""
    return f"sqlite:///{(tracking_folder(store) / 'mlflow.db').resolve()}"


class Tracker:
    """Sends the runs of one experiment to MLflow from a thread of its own.

    What cannot be sent stays in the store: the next tracker on the same experiment is given all
    finished cells again, and sends those that MLflow does not have.

    Args:
        uri: tracking URI; ``sqlite:///...``, ``http(s)://...`` or another that MLflow knows.
        experiment: name, one per suite; made if missing.
        store: where artifacts go when the URI is a database.
        source: script that the runs name as their source.

    Raises:
        InputError: MLflow cannot be reached, or the experiment was deleted.
    """

    def __init__(self, uri: str, experiment: str, store: Path, source: str = "sweeps/benchmark.py") -> None:
        self.uri = uri
        self._runs = Runs(uri, experiment, store, source)
        self._unsent: deque[Callable[[], None]] = deque()
        self._lost = False
        self._refused = 0
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def how_to_look(self) -> str:
        """What to type and open to compare the runs; MLflow's own start page shows chat traces instead."""
        page = f"#/experiments/{self._runs.experiment_id}/runs?compareRunsMode=CHART"
        if self.uri.startswith("http"):
            return f"open {self.uri}/{page}"
        return f"mlflow ui --backend-store-uri {self.uri}\n  and open http://127.0.0.1:5000/{page}"

    def send(
        self, done: FinishedCell, group: Group, name: str, extras: Extras = _NO_EXTRAS, status: str = "FINISHED"
    ) -> None:
        """Queues a cell; returns at once. One that MLflow has already under this group is skipped.

        Args:
            done: the cell with its rows.
            group: its parent run; made, or opened again, with the first cell that is sent.
            name: of the run.
            extras: what else to show.
            status: ``FINISHED``, or ``FAILED``; a later success replaces a failure.
        """
        self._queue.put(partial(self._runs.send, done, group, name, extras, status))

    def close_group(
        self,
        group: Group,
        metrics: Mapping[str, list[tuple[int, float]]],
        tags: Mapping[str, str],
        files: Sequence[Path],
        status: str = "FINISHED",
    ) -> None:
        """Queues the summary of a group, after the cells sent so far, and the end of its run.

        Args:
            group: whose parent run it is; made if it has none.
            metrics: named ``(step, value)`` points.
            tags: of the parent run.
            files: artifacts; read when they are sent, so they have to stay.
            status: how the group ended, ``FINISHED`` or ``FAILED``.
        """
        self._queue.put(partial(self._runs.end, group, metrics, tags, tuple(files), status))

    def close(self) -> bool:
        """Sends what is left; groups that were begun and not closed end as ``KILLED``.

        Returns:
            Whether MLflow has everything now.
        """
        self._queue.put(self._runs.abandon)
        self._queue.put(None)
        self._thread.join()
        for pause in _LAST_TRIES_SECONDS:
            if self._unsent:
                time.sleep(pause)
                self._send_unsent()
        return not self._unsent and not self._refused

    def _work(self) -> None:
        """Takes all that is queued before it tries to send, so that a dead server is not asked once per cell."""
        going_on = True
        while going_on:
            jobs = [self._queue.get()]
            with suppress(queue.Empty):
                while True:
                    jobs.append(self._queue.get_nowait())
            going_on = None not in jobs
            self._unsent += [job for job in jobs if job is not None]
            self._send_unsent()

    def _send_unsent(self) -> None:
        """Sends what is unsent, oldest first, until MLflow is lost; what it refuses holds up nothing else."""
        while self._unsent:
            try:
                self._try(self._unsent[0])
            except Exception as error:
                if not _is_refusal(error):
                    self._report_loss(error)
                    return
                self._refused += 1
                _log.warning("MLflow at %s does not take a result (%s); it stays in the store", self.uri, brief(error))
            self._lost = False
            self._unsent.popleft()

    @staticmethod
    def _try(job: Callable[[], None]) -> None:
        """Twice, as an idle connection may have been closed or a database locked by others."""
        try:
            job()
        except Exception as error:
            if _is_refusal(error):
                raise
            job()

    def _report_loss(self, error: Exception) -> None:
        if not self._lost:
            _log.warning("MLflow at %s does not answer (%s); results stay in the store", self.uri, brief(error))
        self._lost = True


def _is_refusal(error: Exception) -> bool:
    """Whether the fault lies with what was sent, so that sending it again is no use."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return str(error.error_code) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
    return isinstance(error, InputError)
