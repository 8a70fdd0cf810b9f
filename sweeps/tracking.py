"""MLflow: one writer that sends finished cells, once each, and never holds up or fails the sweep."""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from persim.cells import FinishedCell
from persim.errors import InputError

_log = logging.getLogger(__name__)
_CELL_TAG, _SWEEP_TAG, _PARENT_TAG = "persim.cell_id", "persim.sweep_id", "mlflow.parentRunId"
_BATCH = 1000  # MLflow's limit of metrics per request


def default_uri(store: Path) -> str:
    """The embedded database: one SQLite file in the store."""
    return f"sqlite:///{(store / 'mlflow.db').resolve()}"


class Tracker:
    """Sends the runs of one sweep to MLflow from a thread of its own.

    What cannot be sent stays in the store: the next tracker on the same sweep sends all finished
    cells that MLflow does not have.

    Args:
        uri: tracking URI; ``sqlite:///...`` or ``http(s)://...``.
        experiment: name; made if missing, here and only here (two makers at once would misfile runs).
        sweep_id: identifies the parent run.
        title: name of the parent run.
        params: settings of the sweep.
        store: where artifacts go when the URI is an embedded database.

    Raises:
        InputError: MLflow cannot be reached.
    """

    def __init__(
        self, uri: str, experiment: str, sweep_id: str, title: str, params: Mapping[str, object], store: Path
    ) -> None:
        self.uri = uri
        self._client = _client(uri)
        try:
            self._experiment_id = self._experiment(experiment, store)
            self._parent_id = self._parent(sweep_id, title, params)
            self._runs = self._known_runs()
        except Exception as error:  # whatever the backend raises, the user needs one line
            raise _unreachable(uri, error) from error
        self._unsent: list[FinishedCell] = []
        self._lost = False
        self._queue: queue.Queue[FinishedCell | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def how_to_look(self) -> str:
        """What to type and open to compare the runs; MLflow's own start page shows chat traces instead."""
        page = f"#/experiments/{self._experiment_id}/runs?compareRunsMode=CHART"
        if self.uri.startswith("http"):
            return f"open {self.uri}/{page}"
        return f"mlflow ui --backend-store-uri {self.uri}\n  and open http://127.0.0.1:5000/{page}"

    def send(self, done: FinishedCell) -> None:
        """Queues a finished cell; returns at once. A cell that MLflow has already is skipped."""
        self._queue.put(done)

    def close(
        self,
        metrics: Mapping[str, list[tuple[int, float]]],
        tags: Mapping[str, str],
        files: list[Path],
        status: str = "FINISHED",
    ) -> bool:
        """Sends what is left and the summary of the sweep, and ends the parent run.

        Args:
            metrics: named ``(step, value)`` points for the parent run.
            tags: for the parent run.
            files: artifacts for the parent run.
            status: how the sweep ended, ``FINISHED`` or ``FAILED``.

        Returns:
            Whether MLflow has everything now.
        """
        self._queue.put(None)
        self._thread.join()
        self._retry()
        if not self._lost:
            try:
                self._finish_parent(metrics, tags, files, status)
            except Exception as error:
                self._report_loss(error)
        return not self._lost

    def _work(self) -> None:
        while (done := self._queue.get()) is not None:
            self._unsent.append(done)
            self._retry()

    def _retry(self) -> None:
        """Sends what is unsent, oldest first, until something fails."""
        while self._unsent:
            try:
                self._send_now(self._unsent[0])
            except Exception as error:
                self._report_loss(error)
                return
            self._unsent.pop(0)
            self._lost = False

    def _report_loss(self, error: Exception) -> None:
        if not self._lost:
            _log.warning("MLflow at %s does not answer (%s); results stay in the store", self.uri, _brief(error))
        self._lost = True

    def _experiment(self, name: str, store: Path) -> str:
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        embedded = not self.uri.startswith("http")
        location = (store / "mlartifacts").resolve().as_uri() if embedded else None
        return str(self._client.create_experiment(name, artifact_location=location))

    def _parent(self, sweep_id: str, title: str, params: Mapping[str, object]) -> str:
        """The run of the sweep itself, found again when a sweep goes on."""
        found = self._client.search_runs(
            [self._experiment_id],
            f"tags.`{_SWEEP_TAG}` = '{sweep_id}' and tags.`persim.kind` = 'sweep'",
            max_results=1,
        )
        if found:
            run_id = str(found[0].info.run_id)
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        tags = {_SWEEP_TAG: sweep_id, "persim.kind": "sweep"}
        run_id = str(self._client.create_run(self._experiment_id, tags=tags, run_name=title).info.run_id)
        self._client.log_batch(run_id, params=_params(params))
        return run_id

    def _known_runs(self) -> dict[str, tuple[str, bool]]:
        """Run id and whether it is finished, by cell id, of this sweep's children."""
        known: dict[str, tuple[str, bool]] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                f"tags.`{_PARENT_TAG}` = '{self._parent_id}'",
                max_results=1000,
                page_token=token,
            )
            for run in page:
                known[run.data.tags[_CELL_TAG]] = (str(run.info.run_id), run.info.status == "FINISHED")
            token = page.token
            if not token:
                return known

    def _send_now(self, done: FinishedCell) -> None:
        """One run: made, filled, ended. Sending it again after a break changes nothing."""
        run_id, finished = self._runs.get(done.cell.id, ("", False))
        if finished:
            return
        if not run_id:
            tags = {_CELL_TAG: done.cell.id, _PARENT_TAG: self._parent_id, "persim.kind": "trial"}
            tags |= {"mlflow.source.git.commit": done.commit, "mlflow.source.name": "sweeps/rank_cv.py"}
            name = f"rank {done.cell.settings['rank']:>2}, repeat {done.cell.trial + 1}"
            run = self._client.create_run(self._experiment_id, start_time=done.started, tags=tags, run_name=name)
            run_id = str(run.info.run_id)
            self._runs[done.cell.id] = (run_id, False)
        metrics = _metrics(done)
        self._client.log_batch(run_id, params=_params(_cell_params(done)))
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[first : first + _BATCH])
        self._client.set_terminated(run_id, "FINISHED", end_time=done.ended)
        self._runs[done.cell.id] = (run_id, True)

    def _finish_parent(
        self,
        metrics: Mapping[str, list[tuple[int, float]]],
        tags: Mapping[str, str],
        files: list[Path],
        status: str,
    ) -> None:
        from mlflow.entities import Metric, RunTag

        points = [
            Metric(name, value, 0, step)
            for name, pairs in metrics.items()
            for step, value in pairs
            if math.isfinite(value)
        ]
        self._client.log_batch(self._parent_id, metrics=points, tags=[RunTag(*pair) for pair in tags.items()])
        for file in files:
            self._client.log_artifact(self._parent_id, str(file))
        self._client.set_terminated(self._parent_id, status)


def _client(uri: str) -> Any:
    """An MLflow client that gives up on a dead server within seconds instead of minutes."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in (
        "alembic",
        "mlflow",
        "mlflow.store.db.utils",
        "urllib3.connectionpool",
    ):  # after the import, which sets them to INFO
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:
        raise _unreachable(uri, error) from error


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 140 else text[:137] + "..."


def _unreachable(uri: str, error: Exception) -> InputError:
    return InputError(
        f"MLflow tracking URI {uri!r} does not answer ({_brief(error)}); start the server, "
        "or leave --tracking-uri out to use a database file in the store"
    )


def _params(values: Mapping[str, object]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, str(value)[:500]) for name, value in values.items()]


def _cell_params(done: FinishedCell) -> dict[str, object]:
    cell = done.cell
    fixed = {"env": cell.env, "regime": cell.regime, "agents": cell.agents, "method": cell.method}
    return fixed | {"repeat": cell.trial + 1, "commit": done.commit} | cell.settings


def _metrics(done: FinishedCell) -> list[Any]:
    """Final values of all rows, timings, and the points of all curves."""
    from mlflow.entities import Metric

    metrics = []
    for entry in done.rows:
        if entry["value"] is None:  # MLflow has no infinity either
            continue
        name = entry["metric"] if entry["agent"] is None else f"{entry['metric']}/agent_{entry['agent']}"
        metrics.append(Metric(name, entry["value"], done.ended, 0))
    metrics += [Metric(f"seconds/{name}", value, done.ended, 0) for name, value in done.seconds.items()]
    for name, points in done.curves.items():
        metrics += [Metric(f"curve/{name}", y, done.started, int(x)) for x, y in points]
    return metrics
