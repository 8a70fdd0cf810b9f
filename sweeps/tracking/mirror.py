"""MLflow as a mirror of the store: one thread sends what MLflow lacks, and never holds up or fails the sweep."""

from __future__ import annotations

import logging
import math
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from persim.data import Trajectories
from persim.errors import without_password
from persim.methods.job import TRUE_ENV_REGIME
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, Request, code_version, read_finished, read_request
from sweeps.tracking import access, entries, views
from sweeps.tracking.runs import Runs

SYNC_SECONDS = 2.0
_LAST_TRIES = (0.0, 0.5, 2.0)  # pauses before the tries of the last sync
_WITH_MODELS = ("prediction", "reward", "smoke")  # the suites whose simulators become MLflow models
_log = logging.getLogger(__name__)


def tracking_folder(root: Path) -> Path:
    """Where an embedded database and its artifacts go: the store, or ``runs`` here, as SQLite needs a file."""
    return Path("runs") if store.is_remote(root) else root


def default_uri(root: Path) -> str:
    """The embedded database: one SQLite file in the store, or in ``runs`` here if that is no folder."""
    return f"sqlite:///{(tracking_folder(root) / 'mlflow.db').resolve()}"


class Mirror:
    """Shows in MLflow everything that was asked for and is finished in a store, whoever computed it.

    What cannot be sent is sent by the next sync, or by the next command on the same store.

    Args:
        uri: ``sqlite:///PATH``, ``http(s)://HOST`` or another that MLflow knows; None for a database in the store.
        root: the store; its folder is made when MLflow has answered.
        source: script that the runs name as their source.

    Raises:
        InputError: MLflow does not answer, or the store cannot be written.
    """

    def __init__(self, uri: str | None, root: Path, source: str) -> None:
        folder = tracking_folder(root).absolute()
        if uri is None:
            store.prepare_folders((root, "store"), (folder, "folder of MLflow's database"))
        self._uri, artifacts = uri or default_uri(root), (folder / "mlartifacts").as_uri()
        self.uri, self._server = without_password(self._uri), self._uri.startswith("http")
        client = access.connect(self._uri, artifacts)
        store.prepare_folder(root)
        lock = access.lock_file(self._uri, folder)
        self._new_runs = partial(Runs, client, None if self._server else artifacts, lock, source)
        self._runs: dict[str, Runs] = {}  # by suite
        self._cells, self._requests, self._datasets = CellStore(root), dict[Path, Request](), dict[Path, Any]()
        self._asked: list[Callable[[], None]] = []  # failures and endings that are still to be sent
        self._lacking: dict[tuple[str, str], Request] = {}  # by group and cell id
        self._refused: set[object] = set()
        self._synced: object = None  # what there was to send when a sync last got through
        self._losses, self._deadline, self._closing = 0, math.inf, threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def how_to_look(self, request: Request) -> str:
        """What to type and open to compare the runs; MLflow's own start page shows chat traces instead."""
        page = "#/experiments"
        if request.suite in self._runs:
            chosen = quote(f"tags.`persim.group` = '{views.group_of(request)}' and tags.`persim.kind` = 'sweep'")
            page += f"/{self._runs[request.suite].experiment_id}/runs?searchFilter={chosen}&compareRunsMode=CHART"
        if self._server:
            return f"open {self.uri}/{page}"
        return f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}\n  and open http://127.0.0.1:5000/{page}"

    def fail(self, request: Request, cell: Cell, error: str) -> None:
        """Show a cell that failed for good, until a success takes its place."""
        now = int(time.time() * 1e3)
        done = FinishedCell(cell, [], {}, code_version(), {}, now, now)
        self._asked.append(lambda: self._runs_of(request).send(request, done, error=error or "unknown error"))

    def end(
        self,
        request: Request,
        metrics: Mapping[str, Iterable[tuple[int, float]]] = {},
        tags: Mapping[str, str] = {},
        files: Iterable[Path] = (),
        status: str = "FINISHED",
    ) -> None:
        """Sum a request up on its parent runs and end them, when its cells are sent.

        The metrics are ``(step, value)`` points by name, the files artifacts, which are read when they are sent; the
        status is ``FINISHED`` or ``FAILED``.
        """
        self._asked.append(lambda: self._runs_of(request).end(request, metrics, tags, files, status))

    def close(self, deadline: float = 60.0) -> int:
        """Send what is left, and stop; parent runs that were begun and not ended become ``KILLED``.

        Returns:
            After ``deadline`` seconds at the latest, how many finished cells MLflow lacks (1 if it has all of them
            and lacks something else); 0 if it has everything.
        """
        self._deadline = time.monotonic() + deadline
        self._closing.set()
        self._thread.join(deadline)
        return len(self._lacking) or int(bool(self._asked) or self._synced is None or self._thread.is_alive())

    def _work(self) -> None:
        while not self._closing.wait(SYNC_SECONDS):
            self._try()
        for pause in _LAST_TRIES:
            time.sleep(pause)
            if self._try():
                return

    def _try(self) -> bool:
        """Sync; report a loss of MLflow once, and not at the first error: an idle connection may have been closed."""
        try:
            self.sync()
        except Exception as error:
            self._losses += 1
            if self._losses == 2:
                why = access.brief(error)
                _log.warning("MLflow at %s cannot be updated (%s); the results stay in the store", self.uri, why)
            return False
        self._losses = 0
        return True

    def sync(self) -> None:
        """Send what MLflow lacks: finished cells, the comparison of methods, failures, and how requests ended."""
        finished, closing = self._cells.finished_ids(), self._closing.is_set()
        state = (finished, len(self._asked), closing)
        if state == self._synced:
            return
        self._synced = None
        self._find_lacking(finished)
        for key, request in list(self._lacking.items()):
            if self._attempt(key, partial(self._send, request, *key)):
                del self._lacking[key]
        for suite, runs in self._runs.items():
            self._attempt(("comparison", suite), partial(runs.compare, correct=closing))  # else lines would zigzag
        for job in list(self._asked):
            if self._attempt(job, job):
                self._asked.remove(job)
        if closing:
            self._close_parents(finished)
        self._synced = state if time.monotonic() < self._deadline else None

    def _attempt(self, key: object, job: Callable[[], None]) -> bool:
        """Do a part of a sync before the deadline; what MLflow refuses for good is reported once, and left out."""
        if key in self._refused or time.monotonic() > self._deadline:
            return False
        try:
            job()
        except Exception as error:
            if not access.is_refusal(error):
                raise
            if (why := access.brief(error)) not in self._refused:
                _log.warning("MLflow at %s does not take a result (%s); it stays in the store", self.uri, why)
            self._refused |= {key, why}
            return False
        return True

    def _find_lacking(self, finished: set[str]) -> None:
        """Read the requests that are new or may have grown, and find their cells that MLflow is not known to have."""
        for path in (self._cells.root / "requests").glob("*.json"):
            if path not in self._requests or self._requests[path].settings:
                self._attempt(path, partial(self._read, path))
        self._lacking = {}
        for request in self._requests.values():
            group, runs = views.group_of(request), self._runs.get(request.suite)
            known = runs.finished if runs else {}
            keys = [(group, cell_id) for cell_id in request.cells if cell_id in finished]
            self._lacking |= {key: request for key in keys if key not in known}

    def _read(self, path: Path) -> None:
        self._requests[path] = read_request(path)

    def _runs_of(self, request: Request) -> Runs:
        if request.suite not in self._runs:
            self._runs[request.suite] = self._new_runs(request.suite)
        return self._runs[request.suite]

    def _send(self, request: Request, group: str, cell_id: str) -> None:
        """Send a finished cell with its dataset, and with its simulator if it has one."""
        runs = self._runs_of(request)
        if (group, cell_id) not in runs.finished:
            done = read_finished(self._cells.record_path(cell_id))
            model = self._cells.root / done.model
            shown = request.suite in _WITH_MODELS and done.cell.method == "persim" and done.model and model.exists()
            runs.send(request, done, self._dataset(done.cell), model if shown else None)

    def _dataset(self, cell: Cell) -> Any:
        """The MLflow input of a cell that learnt from data; each file is read once."""
        path = self._cells.dataset_path(cell.env, cell.regime, cell.agents, cell.seed)
        if path not in self._datasets and cell.regime != TRUE_ENV_REGIME and path.exists():
            self._datasets[path] = entries.dataset_input(cell, Trajectories.load(path), str(path.resolve()))
        return self._datasets.get(path)

    def _close_parents(self, finished: set[str]) -> None:
        """End the parents that nobody has ended; grids that another command has computed may be whole."""
        for suite, runs in self._runs.items():
            for key, group in list(runs.opened.items()):
                own = [request for request in self._requests.values() if views.group_of(request) == group]
                whole = all(not request.settings and finished.issuperset(request.cells) for request in own)
                self._attempt((suite, key), partial(runs.close, key, "FINISHED" if whole else "KILLED"))
