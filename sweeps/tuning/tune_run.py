"""Running the trials of a tuning study: Optuna's TPE suggests, ASHA stops, Ray Tune runs."""

from __future__ import annotations

import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune import Callback

from persim.data import Trajectories
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell, finite_or_none, row
from sweeps.tuning.rank_sweep import MAX_FAILURES, REPORT_SECONDS, last_line
from sweeps.tuning.search import Asha, asha, search
from sweeps.tuning.space import Values
from sweeps.tuning.study import Entry, Journal
from sweeps.tuning.trial import Progress, StudySettings, finish, run_trial


def _trainable(
    config: dict[str, Any],
    data: Trajectories | None = None,
    study: StudySettings | None = None,
    known: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    root: str = "",
) -> None:
    """One trial on a worker; reports at every rung, and about once a second."""
    assert data is not None
    assert study is not None
    values = study.space.decode(config)
    before = (known or {}).get(store.canonical_json(values), ())
    last = [time.monotonic()]

    def report(now: Progress) -> None:
        if now.rung_error is not None:
            tune.report(_rung(study, now.epoch, now.rung_error) | {"loss": now.loss})
        elif time.monotonic() - last[0] >= REPORT_SECONDS:
            last[0] = time.monotonic()
            tune.report({"epoch": now.epoch, "loss": now.loss})

    for epoch, error in before:  # ASHA is new and has not seen them
        tune.report(_rung(study, epoch, error))
    done = run_trial(study, values, data, Path(root), report, before)
    final: dict[str, float] = {"epoch": study.training(values).epochs}
    if (value := finite_or_none(study.value(done))) is not None:
        final |= {"value": value, "loss": done.value("train_mse")}
    tune.report(final)


def _rung(study: StudySettings, epoch: int, error: float) -> dict[str, float]:
    """What is reported at a rung. A stopped trial has a hold-out error, but it has no reward."""
    known = {"epoch": epoch, "rung_error": error, "holdout_loss": error}
    return known | ({"value": error} if study.objective == "holdout" else {})


class _Keeper(Callback):  # type: ignore[misc]  # Ray is untyped
    """Keeps the journal, and records the trials that ASHA has stopped."""

    def __init__(
        self,
        study: StudySettings,
        cells: CellStore,
        journal: Journal,
        asha: Asha,
        on_finished: Callable[[FinishedCell], None],
    ) -> None:
        self._study, self._cells, self._journal = study, cells, journal
        self._asha, self._on_finished = asha, on_finished
        self._waiting = [entry for entry in journal.entries if journal.done(entry) is None]
        self._entries: dict[str, Entry] = {}
        self._started: dict[str, float] = {}

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune saves its callbacks, but a new run makes them anew."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Enters new trials, in the order in which they were suggested: they need not start in it."""
        self._started.setdefault(trial.trial_id, time.time())
        for known in trials:
            if known.trial_id not in self._entries:
                self._enter(known)

    def _enter(self, trial: Any) -> None:
        """Finds the place of a trial that goes on, or gives one to a new trial."""
        values = self._study.space.decode(trial.config)
        entry = next((entry for entry in self._waiting if entry.values == values), None)
        if entry is None:
            entry = Entry(values)
            self._journal.entries.append(entry)
            self._journal.write()
        else:
            self._waiting.remove(entry)
        self._entries[trial.trial_id] = entry

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Enters a rung."""
        entry = self._entries[trial.trial_id]
        if "rung_error" in result and int(result["epoch"]) not in dict(entry.rungs):
            entry.rungs.append((int(result["epoch"]), float(result["rung_error"])))
            self._journal.write()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Passes on the cell that the worker wrote, or records that the trial was stopped."""
        entry = self._entries[trial.trial_id]
        if trial.trial_id in self._asha.stopped:
            self._record_stop(entry, self._started[trial.trial_id])
        done = self._journal.done(entry)
        if done is not None:
            self._on_finished(done)

    def _record_stop(self, entry: Entry, started: float) -> None:
        epoch, error = entry.rungs[-1]
        cell = self._study.cell(entry.values, stopped_at=epoch)
        curve = {"rung_error": [[float(e), value] for e, value in entry.rungs]}
        seconds = {"train": time.time() - started}
        finish(self._cells, cell, [row("holdout_error", error)], curve, seconds, started)
        self._cells.checkpoint_path(self._study.cell(entry.values)).unlink(missing_ok=True)
        entry.stopped_at = epoch
        self._journal.write()


def run_trials(
    study: StudySettings,
    journal: Journal,
    count: int,
    first: Values,
    data: Trajectories,
    root: Path,
    cpus: int,
    bar: Callback,
    on_finished: Callable[[FinishedCell], None],
) -> dict[str, str]:
    """Runs so many more trials with Ray Tune; returns the errors of those that failed for good.

    A trial that dies is retried and goes on from its checkpoint; one of an earlier run that was
    interrupted is begun first and goes on, too.

    Args:
        study: the study.
        journal: what is known of it.
        count: trials to run.
        first: values to begin with, if they lie in the space.
        data: shared by all trials through Ray's object store.
        root: the store.
        cpus: of the cluster, one per trial.
        bar: the progress bar.
        on_finished: called with each trial's cell as it finishes.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # not every report has a value
    root, folder = root.resolve(), root.resolve() / "tune"
    shutil.rmtree(folder / study.id, ignore_errors=True)  # of a run that was killed
    known = {store.canonical_json(entry.values): entry.rungs for entry in journal.entries}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = asha(study, journal)
        trainable = tune.with_parameters(_trainable, data=data, study=study, known=known, root=str(root))
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                num_samples=count,
                max_concurrent_trials=max(1, cpus),
                search_alg=search(study, journal, first),
                scheduler=scheduler,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=study.id,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[bar, _Keeper(study, CellStore(root), journal, scheduler, on_finished)],
                verbose=0,
            ),
        )
        results = tuner.fit()
    # Tune's own files repeat what the cells record; the next run starts from the cells.
    shutil.rmtree(folder / study.id, ignore_errors=True)
    return {str(result.config): last_line(result.error) for result in results if result.error is not None}
