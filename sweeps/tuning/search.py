"""What a tuning study tries next, and what it gives up: Optuna's TPE and ASHA, made to go on after a break."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState, create_trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from persim import seeding
from persim.methods.holdout import stopped
from persim.methods.measure import checkpoint_path
from persim.storage.cells import CellStore, FinishedCell, code_version, finite_or_none, row
from persim.storage.machine import joined, machine
from sweeps.tuning.space import Values
from sweeps.tuning.study import REDUCTION, Entry, Journal, StudySettings
from sweeps.tuning.tuner import Listener, Plan, Search


class SeededTPE(BaseSampler):  # type: ignore[misc]  # Optuna is skipped by mypy
    """TPE whose suggestion depends on the seed, the number of the trial and the trials before it alone.

    A sampler with one stream would begin it again in the next run, and suggest what it has suggested.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        """Suggest every setting on its own."""
        self._current = TPESampler(seed=seeding.integer(self._seed, StudySettings.suite, "tpe", trial.number))
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        """Suggest no settings together."""
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Suggest one setting."""
        return self._current.sample_independent(study, trial, param_name, param_distribution)


class Asha(AsyncHyperBandScheduler):  # type: ignore[misc]  # Ray is untyped
    """ASHA that remembers which trials it has stopped."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.stopped: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide as ASHA does."""
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if decision == TrialScheduler.STOP:
            self.stopped.add(trial.trial_id)
        return decision

    def replay(self, name: str, rungs: Sequence[tuple[int, float]]) -> None:
        """Make known what a trial of an earlier run had at the rungs."""
        trial = SimpleNamespace(trial_id=name)  # all that ASHA wants to know of it
        self.on_trial_add(None, trial)
        for epoch, error in rungs:
            super().on_trial_result(None, trial, {"epoch": epoch, "rung_error": error})


def search(study: StudySettings, journal: Journal, first: Values) -> Search:
    """TPE that knows the trials so far, in their order, and begins with those that were interrupted."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, storage = study.space.tuned, optuna.storages.InMemoryStorage()
    direction, mode = ("maximize", "max") if study.plays else ("minimize", "min")
    known = optuna.create_study(storage=storage, study_name=study.id, direction=direction)
    for entry in journal.entries:
        point, done = study.space.encode(entry.values), journal.done(entry)
        if done is None:
            known.enqueue_trial(point)
            continue
        has_value = entry.stopped_at is None or not study.plays
        value = finite_or_none(study.value(done)) if has_value else None
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        known.add_trial(create_trial(state=state, value=value, params=point, distributions=space))
    if not journal.entries and (point := study.space.encode(first)) is not None:
        known.enqueue_trial(point)
    return Search(space, metric="value", mode=mode, sampler=SeededTPE(study.seed), storage=storage, study_name=study.id)


def asha(study: StudySettings, journal: Journal) -> Asha:
    """ASHA that knows what the trials so far had at the rungs."""
    longest = study.largest_epochs + 1  # a trial ends by itself
    steps = {"time_attr": "epoch", "grace_period": study.grace, "max_t": longest, "reduction_factor": REDUCTION}
    scheduler = Asha(metric="rung_error", mode="min", **steps)
    for number, (entry, _) in enumerate(journal.finished()):
        scheduler.replay(f"known-{number}", entry.rungs)
    return scheduler


class Keeper(Listener):
    """Keeps the journal, and records the trials that ASHA has stopped."""

    def __init__(self, study: StudySettings, cells: CellStore, journal: Journal, scheduler: Asha) -> None:
        self._study, self._cells, self._journal, self._asha = study, cells, journal, scheduler
        self._waiting = [entry for entry in journal.entries if journal.done(entry) is None]
        self._entries: dict[str, Entry] = {}
        self._started: dict[str, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Enter new trials, in the order in which they were suggested: they need not start in it."""
        self._started.setdefault(trial.trial_id, time.time())
        for new in (known for known in trials if known.trial_id not in self._entries):
            values = self._study.space.decode(new.config)
            entry = next((entry for entry in self._waiting if entry.values == values), None)
            if entry is not None:  # the trial of an earlier run goes on
                self._waiting.remove(entry)
            else:
                entry = Entry(values)
                self._journal.entries.append(entry)
                self._journal.write()
            self._entries[new.trial_id] = entry

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Enter a rung."""
        entry = self._entries[trial.trial_id]
        if "rung_error" in result and int(result["epoch"]) not in dict(entry.rungs):
            entry.rungs.append((int(result["epoch"]), float(result["rung_error"])))
            self._journal.write()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record that a trial was stopped; the cell of one that ran to the end was written by its worker."""
        if trial.trial_id not in self._asha.stopped:
            return
        entry, started = self._entries[trial.trial_id], self._started[trial.trial_id]
        job = self._study.job(entry.values)
        epoch, error = entry.rungs[-1]
        cell, ended = stopped(job, epoch).cell, time.time()
        if self._cells.finished(cell) is None:  # or another study has stopped it there
            curves = {"rung_error": [[float(at), value] for at, value in entry.rungs]}
            times = {"train": ended - started}, int(started * 1e3), int(ended * 1e3)
            rows, here = [row("holdout_share", error)], joined([machine(), {}])  # the worker's is not known
            self._cells.finish(FinishedCell(cell, rows, curves, code_version(), *times, machine=here))
        checkpoint_path(self._cells.root, job.cell).unlink(missing_ok=True)
        entry.stopped_at = epoch
        self._journal.write()


def plan(study: StudySettings, cells: CellStore, journal: Journal, first: Values) -> Plan:
    """Let TPE suggest, beginning with interrupted trials, then ``first`` if it lies in the space; let ASHA stop."""
    scheduler = asha(study, journal)
    known = {study.job(entry.values).cell.id: entry.rungs for entry in journal.entries}
    keeper = Keeper(study, cells, journal, scheduler)
    return Plan(search(study, journal, first), scheduler, [keeper], known)
