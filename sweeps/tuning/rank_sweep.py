"""Running the trials of a rank cross-validation with Ray Tune and Optuna."""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune import Callback
from ray.tune.search.optuna import OptunaSearch

from persim.data import Trajectories
from persim.learning.training import EpochReport
from persim.storage.cells import Cell, CellStore, FinishedCell
from sweeps.tuning.rank_trial import SweepSettings, run_trial

REPORT_SECONDS = 1.0
MAX_FAILURES = 3


def _trainable(
    config: dict[str, Any], data: Trajectories | None = None, settings: SweepSettings | None = None, root: str = ""
) -> None:
    """One trial on a worker; reports about once a second."""
    assert data is not None
    assert settings is not None
    last = [time.monotonic()]

    def report(epoch: EpochReport) -> None:
        if time.monotonic() - last[0] >= REPORT_SECONDS:
            last[0] = time.monotonic()
            tune.report({"epoch": epoch.epoch, "loss": epoch.loss, "holdout_loss": epoch.holdout_loss, "error": -1.0})

    done = run_trial(settings.cell(config["rank"], config["repeat"]), data, Path(root), report)
    tune.report(
        {
            "epoch": settings.epochs,
            "loss": done.value("train_mse"),
            "holdout_loss": done.value("holdout_mse"),
            "error": done.value("holdout_error"),
        }
    )


class _Collector(Callback):  # type: ignore[misc]  # Ray is untyped
    """Passes on every cell as it finishes."""

    def __init__(self, settings: SweepSettings, cells: CellStore, on_finished: Callable[[FinishedCell], None]) -> None:
        self._settings, self._cells, self._on_finished = settings, cells, on_finished

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune saves its callbacks, but a new run makes them anew."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Reads the record that the worker wrote."""
        cell = self._settings.cell(trial.config["rank"], trial.config["repeat"])
        done = self._cells.finished(cell)
        if done is not None:
            self._on_finished(done)


def run_cells(
    settings: SweepSettings,
    todo: Sequence[Cell],
    data: Trajectories,
    root: Path,
    cpus: int,
    bar: Callback,
    on_finished: Callable[[FinishedCell], None],
) -> dict[str, str]:
    """Runs the given cells with Ray Tune; returns the errors of those that failed for good.

    Optuna is told every (rank, repeat) that is still to do, so each runs exactly once, on a fresh
    sweep as on a resumed one. (Its samplers would repeat some and skip others; its GridSampler
    covers whole grids only.) A trial that dies is retried and goes on from its checkpoint.

    Args:
        settings: of the sweep.
        todo: cells to compute.
        data: shared by all trials through Ray's object store.
        root: the store.
        cpus: of the cluster, one per trial.
        bar: the progress bar.
        on_finished: called with each cell as it finishes.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    points = [{"rank": cell.settings["rank"], "repeat": cell.trial} for cell in todo]
    space = {"rank": tune.choice(list(settings.ranks)), "repeat": tune.choice(list(range(settings.repeats)))}
    folder, name = root.resolve() / "tune", settings.id
    shutil.rmtree(folder / name, ignore_errors=True)  # of a run that was killed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = OptunaSearch(metric="error", mode="min", points_to_evaluate=points, seed=settings.seed)
        trainable = tune.with_parameters(_trainable, data=data, settings=settings, root=str(root.resolve()))
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="error",
                mode="min",
                num_samples=len(points),
                max_concurrent_trials=max(1, cpus),
                search_alg=search,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[bar, _Collector(settings, CellStore(root), on_finished)],
                verbose=0,
            ),
        )
        results = tuner.fit()
    # Tune's own files repeat what the cells record; the next run starts from the cells.
    shutil.rmtree(folder / name, ignore_errors=True)
    return {
        f"rank {result.config['rank']}, repeat {result.config['repeat'] + 1}": last_line(result.error)
        for result in results
        if result.error is not None
    }


def last_line(error: BaseException) -> str:
    """What a traceback ends with."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
