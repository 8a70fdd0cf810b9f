"""Running the trials of a sweep with Ray Tune, whoever suggests them and whatever stops them."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from tqdm import tqdm

from persim.data import Trajectories
from persim.methods import PerSim
from persim.methods.holdout import Progress, run_trial
from persim.storage.cells import CellStore
from sweeps.engine.gpus import Workers, usable
from sweeps.tuning.sweep import Failure, Sweep

_BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs, {elapsed}, {remaining} left{postfix}"
REPORT_SECONDS = 1.0
MAX_FAILURES = 3
Rungs = Sequence[tuple[int, float]]  # epochs with the hold-out error after each


class Search(OptunaSearch):  # type: ignore[misc]  # Ray is untyped
    """Tells Optuna results at the end only: stopping early is the scheduler's."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Plan:
    """Decides which trials run.

    Attributes:
        search: suggests configurations.
        scheduler: stops trials early; None stops none.
        callbacks: told about every trial.
        known: by cell id the rungs that a trial reached before an interruption.
    """

    search: Search
    scheduler: TrialScheduler | None = None
    callbacks: Sequence[Callback] = ()
    known: Mapping[str, Rungs] = field(default_factory=dict)


class Listener(Callback):  # type: ignore[misc]  # Ray is untyped
    """A callback of Tune that is not saved with its state: a new run makes its own."""

    def __getstate__(self) -> dict[str, object]:
        """Keep nothing."""
        return {}


class SweepBar(Listener):
    """One bar for a whole sweep: epochs done, latest losses, trials finished and failed, time left.

    Args:
        title: shown in front.
        trials: how many there are to run.
        epochs: per trial, at most.
    """

    def __init__(self, title: str, trials: int, epochs: int) -> None:
        self._epochs, self._trials = epochs, trials
        self._done: dict[str, int] = {}
        self._finished, self._failed, self._latest = 0, 0, ""
        pause, form = 0.5 if sys.stderr.isatty() else 10.0, _BAR_FORMAT
        self._bar = tqdm(total=trials * epochs, desc=title, dynamic_ncols=True, mininterval=pause, bar_format=form)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Advance the bar to the epoch that the trial reports."""
        holdout = result.get("holdout_loss")
        held = "" if holdout is None else f" hold-out {holdout:.2e}"
        self._latest = f"rank {result.get('rank')}: loss {result.get('loss', float('nan')):.2e}{held}"
        self._advance(trial.trial_id, int(result.get("epoch", 0)))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Count a finished trial in full, also one that was stopped or found in the store."""
        self._finished += 1
        self._advance(trial.trial_id, self._epochs)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Count a trial that failed for good."""
        self._failed += 1
        self._advance(trial.trial_id, 0)

    def _advance(self, trial_id: str, epoch: int) -> None:
        before = self._done.get(trial_id, 0)
        self._done[trial_id] = max(before, epoch)
        self._bar.update(self._done[trial_id] - before)
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.set_postfix_str(f"{self._finished}/{self._trials} trials{failed}; {self._latest}")

    def close(self) -> None:
        """Leave the bar on the screen and end its line."""
        self._bar.close()


def each_of(points: Sequence[Mapping[str, Any]]) -> Plan:
    """Run each of these configurations once, in their order.

    Optuna's samplers would repeat some and skip others, and its GridSampler covers whole grids only.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: CategoricalDistribution(sorted({point[name] for point in points})) for name in points[0]}
    return Plan(Search(space, metric="value", mode="min", points_to_evaluate=[dict(point) for point in points], seed=0))


def _trainable(
    config: dict[str, Any], data: Trajectories, sweep: Sweep, known: Mapping[str, Rungs], root: str, device: str
) -> None:
    """One trial on a worker; reports at every rung, and about once a second."""
    job, last = sweep.trial(config), time.monotonic()
    assert isinstance(job.method, PerSim)
    rank, epochs = job.method.settings.rank, job.method.settings.train.epochs
    before = known.get(job.cell.id, ())

    def tell(epoch: int, rung_error: float | None = None, **more: float | None) -> None:
        rung = {} if rung_error is None else {"rung_error": rung_error, **sweep.at_rung(rung_error)}
        tune.report({"rank": rank, "epoch": epoch, **rung, **more})

    def report(now: Progress) -> None:
        nonlocal last
        if now.rung_error is not None or time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            tell(now.epoch, now.rung_error, loss=now.loss, holdout_loss=now.holdout_loss)

    for epoch, error in before:  # the scheduler is new and has not seen them
        tell(epoch, error)
    ahead = set(sweep.rungs(epochs)) - {epoch for epoch, _ in before}
    done = run_trial(job, data, CellStore(Path(root)), report, ahead, usable(device))
    if math.isfinite(value := sweep.value(done)):
        tell(epochs, value=value, loss=done.value("train_mse"), holdout_loss=done.value("holdout_mse"))
    else:
        tell(epochs)


def run_trials(sweep: Sweep, plan: Plan, count: int, data: Trajectories, root: Path, workers: Workers) -> list[Failure]:
    """Run as many trials of a sweep as ``count`` says, and return those that failed for good.

    The plan decides which. Each has one CPU, and a share of a GPU if the workers' device is one. They share the data
    through Ray's object store. A trial that dies is tried again and goes on from its checkpoint. On a cluster that
    grows, trials that learn nothing from each other are asked for all at once.
    """
    gpu = workers.on_gpu(True)
    at_once = count if workers.grows(gpu) and plan.scheduler is None else max(1, workers.room(gpu))
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # not every report has a value
    root, folder = root.resolve(), root.resolve() / "tune"
    shutil.rmtree(folder / sweep.id, ignore_errors=True)  # of a run that was killed
    bar = SweepBar(f"{sweep.env} {sweep.doing}", count, sweep.largest_epochs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = {"data": data, "sweep": sweep, "known": plan.known, "root": str(root), "device": workers.device}
            trainable = tune.with_parameters(_trainable, **given)
            needs = {"cpu": 1, "gpu": workers.gpu_share if gpu else 0}
            order = {"max_concurrent_trials": at_once, "reuse_actors": True}
            how = tune.TuneConfig(search_alg=plan.search, scheduler=plan.scheduler, num_samples=count, **order)
            place = {"name": sweep.id, "storage_path": str(folder), "verbose": 0}
            retry = tune.FailureConfig(max_failures=MAX_FAILURES)
            run = tune.RunConfig(failure_config=retry, callbacks=[bar, *plan.callbacks], **place)
            tuner = tune.Tuner(tune.with_resources(trainable, needs), tune_config=how, run_config=run)
            results = tuner.fit()
    finally:
        bar.close()
    # Tune's own files repeat what the cells record; the next run starts from the cells.
    shutil.rmtree(folder / sweep.id, ignore_errors=True)
    return [_failure(sweep, result) for result in results if result.error is not None]


def _failure(sweep: Sweep, result: Any) -> Failure:
    """Name a failed trial by its configuration; the last line of a traceback says what went wrong."""
    name = ", ".join(f"{key} {value}" for key, value in result.config.items())
    lines = [line.strip() for line in str(result.error).splitlines() if line.strip()]
    return Failure(name, sweep.trial(result.config).cell, lines[-1] if lines else type(result.error).__name__)
