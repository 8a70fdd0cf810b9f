"""The runs of one MLflow experiment: a parent per group, a child per finished cell, each made once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persim.errors import InputError
from persim.storage.cells import FinishedCell
from persim.storage.store import local_copy
from sweeps.tracking.access import alone, be_quiet_and_quick, connect, is_server, unreachable
from sweeps.tracking.entries import (
    ENTRIES_PER_BATCH,
    PARAMS_PER_BATCH,
    DatasetNote,
    cell_metrics,
    cell_params,
    dataset_input,
    params,
)

_CELL_TAG, _KIND_TAG, _PARENT_TAG = "persim.cell_id", "persim.kind", "mlflow.parentRunId"
_GROUP_TAG = "persim.sweep_id"  # the name that the databases of earlier versions have
_PAGE = 1000


@dataclass(frozen=True)
class Group:
    """A parent run: one per (environment, regime) of a suite, or one per rank sweep.

    Attributes:
        key: stable; the parent is found again by it when a sweep goes on.
        title: name of the run.
        params: settings that its cells share; nested ones become dotted names.
    """

    key: str
    title: str
    params: Mapping[str, object]


@dataclass(frozen=True)
class Extras:
    """What else the run of a cell shows.

    Attributes:
        dataset: what it was trained on.
        model: file of the trained simulator, to become an MLflow model.
        files: artifacts, such as a plot.
        params: parameters beside those of the cell.
        note: description on the run's page, such as why it failed.
    """

    dataset: DatasetNote | None = None
    model: Path | None = None
    files: tuple[Path, ...] = ()
    params: Mapping[str, object] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class _Known:
    """A run that MLflow has."""

    run_id: str
    status: str
    params: frozenset[str] = frozenset()


class Runs:
    """Reads what an experiment holds, and adds to it. Every method may be called again after it failed.

    Args:
        uri: tracking URI.
        experiment: name; made if missing.
        store: where artifacts go when the URI is a database.
        source: script that the runs name as their source.

    Raises:
        InputError: MLflow cannot be reached, or the experiment was deleted.
    """

    def __init__(self, uri: str, experiment: str, store: Path, source: str) -> None:
        self._uri, self._store, self._source = uri, store, source
        self._parents: dict[str, _Known] = {}
        self._children: dict[tuple[str, str], _Known] = {}  # by run id of the parent, and cell id
        self._opened: set[str] = set()
        self._doubtful: set[str] = set()  # cells whose sending broke off: nobody knows how much arrived
        be_quiet_and_quick()
        try:
            with alone(uri, store):  # two that make a database or experiment at once break it
                self.client = connect(uri)
                self.experiment_id = self._experiment(experiment)
            self._load()
        except InputError:
            raise
        except Exception as error:  # whatever the backend raises, the user needs one line
            raise unreachable(uri, error) from error

    def finished(self) -> set[str]:
        """Ids of the cells that are known to have a finished run."""
        return {cell_id for (_, cell_id), run in self._children.items() if run.status == "FINISHED"}

    def send(self, done: FinishedCell, group: Group, name: str, extras: Extras, status: str) -> None:
        """One run: made, filled, ended. A cell that is there already is left alone.

        What an earlier attempt left half-sent, or a failure that a retry has outdone, is deleted first.
        """
        cell_id = done.cell.id
        found = self._find(group.key, cell_id)
        if found and found.status in ("FINISHED", status):
            return
        _check_files(extras)
        self._doubtful.add(cell_id)
        parent_id = self._open(group)
        if found:
            self._discard(found.run_id)
        run_id = self._create(done, parent_id, name, extras.note)
        self._fill(run_id, done, extras)
        self.client.set_terminated(run_id, status, end_time=done.ended)
        self._children[parent_id, cell_id] = _Known(run_id, status)
        self._doubtful.remove(cell_id)

    def end(
        self,
        group: Group,
        metrics: Mapping[str, list[tuple[int, float]]],
        tags: Mapping[str, str],
        files: Sequence[Path],
        status: str,
    ) -> None:
        """Adds a summary to the parent run, and ends it."""
        from mlflow.entities import RunTag

        parent_id = self._parents[group.key].run_id if group.key in self._parents else self._open(group)
        points = self._news(parent_id, metrics)
        for first in range(0, len(points), ENTRIES_PER_BATCH):
            self.client.log_batch(parent_id, metrics=points[first : first + ENTRIES_PER_BATCH])
        self.client.log_batch(parent_id, tags=[RunTag(*pair) for pair in tags.items()])
        for file in files:
            self._attach(parent_id, file)
        self._end_parent(group.key, status)

    def abandon(self) -> None:
        """Ends the parents that were opened here and not ended: their sweep was stopped."""
        for key in sorted(self._opened):
            self._end_parent(key, "KILLED")

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        known = self.client.get_experiment_by_name(name)
        if known is None:
            location = None if is_server(self._uri) else (self._store / "mlartifacts").resolve().as_uri()
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException as error:  # on a server, others may have been quicker
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                known = self.client.get_experiment_by_name(name)
        if known.lifecycle_stage != "active":
            raise InputError(
                f"MLflow experiment {name!r} was deleted; bring it back with "
                f"mlflow experiments restore -x {known.experiment_id}"
            )
        return str(known.experiment_id)

    def _load(self) -> None:
        """Learns all runs of the experiment, page by page."""
        for run in self._pages(f"tags.`{_KIND_TAG}` LIKE '%'"):
            tags = run.data.tags
            if _CELL_TAG in tags:
                self._remember_child(run)
            elif _GROUP_TAG in tags:
                self._parents[tags[_GROUP_TAG]] = _known(run)

    def _remember_child(self, run: Any) -> None:
        key = (run.data.tags.get(_PARENT_TAG, ""), run.data.tags[_CELL_TAG])
        if key not in self._children or run.info.status == "FINISHED":
            self._children[key] = _known(run)

    def _find(self, group_key: str, cell_id: str) -> _Known | None:
        """The run of a cell in a group; asks MLflow only if an earlier attempt broke off."""
        parent = self._parents.get(group_key)
        if parent is None:
            return None
        if cell_id in self._doubtful:
            self._children.pop((parent.run_id, cell_id), None)
            for run in self._pages(f"tags.`{_CELL_TAG}` = '{cell_id}' and tags.`{_PARENT_TAG}` = '{parent.run_id}'"):
                self._remember_child(run)
        return self._children.get((parent.run_id, cell_id))

    def _pages(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], condition, max_results=_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _open(self, group: Group) -> str:
        """The running parent of a group, found or made."""
        known = self._parents.get(group.key)
        if known is None:
            with alone(self._uri, self._store):  # another process may be at the same group
                found = [*self._pages(f"tags.`{_GROUP_TAG}` = '{group.key}' and tags.`{_KIND_TAG}` = 'sweep'")]
                known = _known(found[0]) if found else self._create_parent(group)
        missing = [param for param in params(group.params) if param.key not in known.params]
        for first in range(0, len(missing), PARAMS_PER_BATCH):
            self.client.log_batch(known.run_id, params=missing[first : first + PARAMS_PER_BATCH])
        if known.status != "RUNNING":
            self.client.update_run(known.run_id, status="RUNNING")
        names = known.params | {param.key for param in missing}
        self._parents[group.key] = _Known(known.run_id, "RUNNING", names)
        self._opened.add(group.key)
        return known.run_id

    def _create_parent(self, group: Group) -> _Known:
        tags = {_GROUP_TAG: group.key, _KIND_TAG: "sweep", "mlflow.source.name": self._source}
        run = self.client.create_run(self.experiment_id, tags=tags, run_name=group.title)
        return _Known(str(run.info.run_id), "RUNNING")

    def _end_parent(self, key: str, status: str) -> None:
        known = self._parents[key]
        if known.status != status:  # ending it once more would move the time of its end
            self.client.set_terminated(known.run_id, status)
            self._parents[key] = _Known(known.run_id, status, known.params)
        self._opened.discard(key)

    def _create(self, done: FinishedCell, parent_id: str, name: str, note: str) -> str:
        tags = {_CELL_TAG: done.cell.id, _PARENT_TAG: parent_id, _KIND_TAG: "trial"}
        tags |= {"mlflow.source.git.commit": done.commit, "mlflow.source.name": self._source}
        if note:
            tags["mlflow.note.content"] = note
        run = self.client.create_run(self.experiment_id, start_time=done.started, tags=tags, run_name=name)
        return str(run.info.run_id)

    def _fill(self, run_id: str, done: FinishedCell, extras: Extras) -> None:
        settings, metrics = cell_params(done, extras.params), cell_metrics(done)
        while settings or metrics:  # one request, unless there is a lot of it
            room = ENTRIES_PER_BATCH - PARAMS_PER_BATCH
            self.client.log_batch(run_id, metrics=metrics[:room], params=settings[:PARAMS_PER_BATCH])
            settings, metrics = settings[PARAMS_PER_BATCH:], metrics[room:]
        if extras.dataset is not None:
            self.client.log_inputs(run_id, [dataset_input(extras.dataset)])
        for file in extras.files:
            self._attach(run_id, file)
        if extras.model is not None:
            from sweeps.tracking.model import log_simulator

            with local_copy(extras.model) as model:
                log_simulator(self.client, self.experiment_id, run_id, model)

    def _attach(self, run_id: str, file: Path) -> None:
        with local_copy(file) as copy:
            self.client.log_artifact(run_id, str(copy))

    def _discard(self, run_id: str) -> None:
        for model in self.client.search_logged_models([self.experiment_id], f"source_run_id = '{run_id}'"):
            self.client.delete_logged_model(model.model_id)
        self.client.delete_run(run_id)

    def _news(self, run_id: str, metrics: Mapping[str, list[tuple[int, float]]]) -> list[Any]:
        """Points that the run does not show already: a sweep that goes on sends its summary again."""
        from mlflow.entities import Metric

        shown = self.client.get_run(run_id).data.metrics
        now = int(time.time() * 1000)
        points = []
        for name, pairs in metrics.items():
            history = self.client.get_metric_history(run_id, name) if name in shown else []
            latest = {point.step: point.value for point in sorted(history, key=lambda point: int(point.timestamp))}
            points += [
                Metric(name, value, now, step)
                for step, value in pairs
                if math.isfinite(value) and latest.get(step) != value
            ]
        return points


def _known(run: Any) -> _Known:
    return _Known(str(run.info.run_id), str(run.info.status), frozenset(run.data.params))


def _check_files(extras: Extras) -> None:
    """Finds a file that cannot be sent before a run is made for it.

    Raises:
        InputError: one is missing, or the simulator is damaged.
    """
    for file in extras.files:
        if not file.exists():
            raise InputError(f"file {str(file)!r} is missing; make it anew, then run again")
    if extras.model is not None:
        from persim.learning.model import LowRankDynamics  # loads torch, which most sweeps' drivers do without

        LowRankDynamics.load(extras.model)
