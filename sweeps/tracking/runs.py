"""The runs of one MLflow experiment: a parent for each sweep or method, a child for each cell, each made once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from persim.errors import InputError
from persim.storage.cells import FinishedCell, Request
from persim.storage.store import local_copy
from sweeps.engine.lock import file_lock
from sweeps.tracking import entries, views

_CELL_TAG, _KIND_TAG, _PARENT_TAG = "persim.cell_id", "persim.kind", "mlflow.parentRunId"
_KEY_TAG, _GROUP_TAG = "persim.sweep_id", "persim.group"  # of a parent, and of its children
_PAGE = 1000


class Runs:
    """Reads what an experiment holds, and adds to it. Every method may be called again after it failed.

    Args:
        client: of MLflow.
        artifacts: where a new experiment keeps its files; None for where the server keeps them.
        lock: of those who write to this MLflow.
        source: script that the runs name as their source.
        experiment: its name; it is made if missing.

    Raises:
        InputError: the experiment was deleted.
    """

    def __init__(self, client: Any, artifacts: str | None, lock: Path, source: str, experiment: str) -> None:
        self._client, self._lock, self._source = client, lock, source
        self.finished: dict[tuple[str, str], dict[str, Any]] = {}  # by group and cell id, what their runs show
        self.opened: dict[str, str] = {}  # by key, the groups of the parents that this process has added to
        self._parents: dict[str, tuple[str, str]] = {}  # by key, run id and status
        self._shown: dict[tuple[str, str], dict[int, float]] = {}  # by key and metric, what parents show
        with file_lock(lock, wait=True):
            found = client.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage != "active":
                command = f"mlflow experiments restore -x {found.experiment_id}"
                raise InputError(f"experiment {experiment!r} was deleted; bring it back with {command}")
            made = client.create_experiment(experiment, artifact_location=artifacts) if found is None else None
        self.experiment_id = str(made or found.experiment_id)
        for run in self._search(f"tags.`{_KIND_TAG}` LIKE '%'"):
            self._learn(run)

    def _search(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self.experiment_id], condition, max_results=_PAGE, page_token=token)
            yield from page
            if not (token := page.token):
                return

    def _learn(self, run: Any) -> None:
        tags, data, status = run.data.tags, run.data, str(run.info.status)
        if _CELL_TAG not in tags:
            self._parents[tags.get(_KEY_TAG)] = (str(run.info.run_id), status)
        elif status == "FINISHED" and _GROUP_TAG in tags:  # earlier versions had no groups, and other cells
            known = {**data.params, **data.metrics, "parent": tags[_KEY_TAG]}
            self.finished[tags[_GROUP_TAG], tags[_CELL_TAG]] = known

    def _parent(self, key: str) -> tuple[str, str] | None:
        if key not in self._parents:  # another process may have made it
            for run in self._search(f"tags.`{_KEY_TAG}` = '{key}' and tags.`{_KIND_TAG}` = 'sweep'"):
                self._learn(run)
        return self._parents.get(key)

    def send(
        self, request: Request, done: FinishedCell, dataset: Any = None, model: Path | None = None, error: str = ""
    ) -> None:
        """Make the run of a cell, unless MLflow has it; what an earlier attempt left half-sent is deleted first.

        The dataset is an MLflow input, the model the file of a trained simulator, which becomes an MLflow model, and
        the error says why the cell failed.

        Raises:
            InputError: the simulator is damaged.
        """
        cell, group, status = done.cell, views.group_of(request), "FAILED" if error else "FINISHED"
        with file_lock(self._lock, wait=True), local_copy(model) if model else nullcontext() as file:
            earlier = [*self._search(f"tags.`{_CELL_TAG}` = '{cell.id}' and tags.`{_GROUP_TAG}` = '{group}'")]
            for run in earlier:
                if run.info.status in ("FINISHED", status):  # another process was quicker
                    return self._learn(run)
            if file is not None:
                from sweeps.tracking.model import logger_of  # loads all of MLflow

                log_model = logger_of(file)  # finds a damaged file before a run is made for it
            for run in earlier:
                of_run = f"source_run_id = '{run.info.run_id}'"
                for half in self._client.search_logged_models([self.experiment_id], of_run):
                    self._client.delete_logged_model(half.model_id)
                self._client.delete_run(run.info.run_id)
            parent = views.parent_of(request, cell)
            tags = {_CELL_TAG: cell.id, _GROUP_TAG: group, _KEY_TAG: parent.key, _KIND_TAG: "trial"}
            tags |= {_PARENT_TAG: self._open(parent, group), "mlflow.source.git.commit": done.commit}
            tags |= {"mlflow.note.content": error} if error else {}
            run_id = self._create(views.run_name(request.suite, cell), tags, done.started)
            labels = {"method_title": views.method_title(cell), "preset": request.preset}
            self._log(run_id, entries.cell_params(done, labels), entries.cell_metrics(done))
            if dataset is not None:
                self._client.log_inputs(run_id, [dataset])
            if file is not None:
                log_model(self._client, self.experiment_id, run_id)
            self._client.set_terminated(run_id, status, end_time=done.ended)
            return self._learn(self._client.get_run(run_id))

    def _create(self, name: str, tags: dict[str, str], started: int | None = None) -> str:
        tags = {**tags, "mlflow.source.name": self._source}
        run = self._client.create_run(self.experiment_id, start_time=started, tags=tags, run_name=name)
        return str(run.info.run_id)

    def _log(self, run_id: str, params: Mapping[str, str], metrics: list[Any]) -> None:
        """Log parameters and metrics, in one request unless there are many."""
        from mlflow.entities import Param

        left, most = [Param(*pair) for pair in params.items()], entries.PARAMS_PER_BATCH
        while left or metrics:
            room = entries.ENTRIES_PER_BATCH - most
            self._client.log_batch(run_id, metrics=metrics[:room], params=left[:most])
            left, metrics = left[most:], metrics[room:]

    def _open(self, parent: views.Parent, group: str) -> str:
        """The run id of a parent, which is found or made, and set to running."""
        run_id, status = self._parent(parent.key) or ("", "RUNNING")
        if not run_id:
            run_id = self._create(parent.title, {_KEY_TAG: parent.key, _GROUP_TAG: group, _KIND_TAG: "sweep"})
        self._parents[parent.key] = (run_id, status)
        if parent.key not in self.opened:
            self._log(run_id, entries.params(parent.params), [])  # does no harm if they are there
            if status != "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
            self._parents[parent.key], self.opened[parent.key] = (run_id, "RUNNING"), group
        return run_id

    def compare(self, *, correct: bool) -> None:
        """Show the comparison of methods on their parents; means that have changed are sent only to ``correct`` it."""
        for group in {group for group, _ in self.finished}:
            shown = (run for (own, _), run in self.finished.items() if own == group)
            for key, points in views.comparison(shown).items():
                self._show(key, points, correct=correct)

    def end(
        self, request: Request, points: views.Points, tags: Mapping[str, str], files: Iterable[Path], status: str
    ) -> None:
        """End the parents of a request, and add a summary to them; a sweep without a parent gets one."""
        from mlflow.entities import RunTag

        group = views.group_of(request)
        keys = {key for key, own in self.opened.items() if own == group}
        found = (self.finished[group, id]["parent"] for id in request.cells if (group, id) in self.finished)
        keys |= {key for key in found if self._parent(key)}
        if request.settings and not self._parent(request.id):
            with file_lock(self._lock, wait=True):
                self._open(views.parent_of(request), group)
        for key in {request.id} if request.settings else keys:
            self.close(key, status)
            self._show(key, points)
            run_id, _ = self._parents[key]
            self._client.log_batch(run_id, tags=[RunTag(*pair) for pair in tags.items()])
            for file in files:
                if not file.exists():
                    raise InputError(f"file {str(file)!r} is missing; make it anew, then run again")
                with local_copy(file) as copy:
                    self._client.log_artifact(run_id, str(copy))

    def close(self, key: str, status: str) -> None:
        """End a parent."""
        run_id, now = self._parent(key) or ("", status)
        if now != status:  # ending it once more would move the time of its end
            self._client.set_terminated(run_id, status)
            self._parents[key] = (run_id, status)
        self.opened.pop(key, None)

    def _show(self, key: str, points: views.Points, *, correct: bool = True) -> None:
        """Add the points that a parent does not show yet; without ``correct``, none at a step that it shows."""
        from mlflow.entities import Metric

        run_id, now = (self._parent(key) or [""])[0], int(time.time() * 1e3)
        for name, pairs in points.items() if run_id else ():
            wanted = {step: value for step, value in pairs if math.isfinite(value)}
            if _news(wanted, self._shown.get((key, name), {}), correct):
                history = sorted(self._client.get_metric_history(run_id, name), key=lambda old: int(old.timestamp))
                shown = {old.step: old.value for old in history}
                news = _news(wanted, shown, correct)
                self._log(run_id, {}, [Metric(name, value, now, step) for step, value in news.items()])
                self._shown[key, name] = shown | news


def _news(wanted: dict[int, float], shown: dict[int, float], correct: bool) -> dict[int, float]:
    return {x: y for x, y in wanted.items() if x not in shown or (correct and shown[x] != y)}
