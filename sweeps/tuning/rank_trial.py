"""One trial of the rank cross-validation: train on 80 %, measure on the rest and on the test agents."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from persim import seeding
from persim.data import Trajectories
from persim.data.policies import load_test_policy
from persim.envs import get
from persim.evaluation.prediction import prediction_errors, true_rollouts
from persim.learning.model import LowRankDynamics
from persim.learning.presets import preset
from persim.learning.training import HOLDOUT_EVERY, EpochReport, TrainResult, TrainSettings, split, train
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, code_version, row

SUITE = "rank_cv"
TRAIN_SETTINGS = tuple(TrainSettings.__dataclass_fields__)


@dataclass(frozen=True)
class SweepSettings:
    """Everything the results of a sweep depend on; validated by ``rank_options``."""

    env: str
    regime: str
    agents: int
    ranks: tuple[int, ...]
    repeats: int
    epochs: int
    holdout: float
    seed: int

    @property
    def id(self) -> str:
        """Names the sweep: the hash of its settings."""
        return store.settings_hash({"suite": SUITE, **asdict(self)})

    def cell(self, rank: int, repeat: int) -> Cell:
        """The cell of one trial. The other ranks and the number of repeats do not enter its id."""
        settings = asdict(TrainSettings(epochs=self.epochs, batch_size=preset(self.env).batch_size))
        settings |= {"rank": rank, "holdout": self.holdout, "holdout_every": HOLDOUT_EVERY, "seed": self.seed}
        return Cell(SUITE, self.env, self.regime, self.agents, "PerSim", repeat, settings)

    def cells(self) -> list[Cell]:
        """All trials, repeat by repeat, so that an interrupted sweep has seen every rank."""
        return [self.cell(rank, repeat) for repeat in range(self.repeats) for rank in self.ranks]


def run_trial(
    cell: Cell, data: Trajectories, root: Path, progress: Callable[[EpochReport], None] | None = None
) -> FinishedCell:
    """Computes a cell and records it in the store; returns the record if there is one already.

    The hold-out split of a repeat is the same for every rank, so that ranks are compared on the
    same transitions; initial weights and batches are each trial's own.

    Args:
        cell: from ``SweepSettings.cell``.
        data: the sweep's dataset.
        root: the store.
        progress: called after every epoch.
    """
    cells = CellStore(root)
    if (done := cells.finished(cell)) is not None:
        return done
    started = time.time()
    seed, rank, repeat = cell.settings["seed"], cell.settings["rank"], cell.trial
    shape = preset(cell.env, discrete=data.discrete).shape(data, rank, 1)
    model = LowRankDynamics(shape, [seeding.sequence(seed, SUITE, "init", rank, repeat)])
    rng = seeding.generator(seed, SUITE, "holdout", repeat)
    rows, holdout = split(len(data), cell.settings["holdout"], rng)
    result = train(
        model,
        data,
        TrainSettings(**{name: cell.settings[name] for name in TRAIN_SETTINGS}),
        [seeding.sequence(seed, SUITE, "batches", rank, repeat)],
        rows=rows,
        holdout=holdout,
        holdout_every=cell.settings["holdout_every"],
        checkpoint=cells.checkpoint_path(cell),
        progress=progress,
    )
    model.save(cells.model_path(cell), env=cell.env, regime=cell.regime, cell=cell.id)
    trained = time.time()
    measured = _measure(cell, model, data, holdout, result)
    ended = time.time()
    done = FinishedCell(
        cell=cell,
        rows=measured,
        curves=curves(result),
        seed=seed,
        commit=code_version(),
        seconds={"train": result.seconds, "measure": ended - trained},
        started=int(started * 1000),
        ended=int(ended * 1000),
    )
    cells.finish(done)
    return done


def _measure(
    cell: Cell, model: LowRankDynamics, data: Trajectories, holdout: np.ndarray, result: TrainResult
) -> list[dict[str, object]]:
    """The rows of a trial: hold-out error, and prediction error on the test agents."""
    assert result.holdout_mse is not None  # train was given a hold-out
    mse = result.holdout_mse[0]
    targets = model.scaled_deltas(torch.from_numpy(data.delta[holdout].astype(np.float64)).mT)
    variance = targets.var(dim=1, correction=0).numpy()
    rows = [
        row("train_mse", result.losses[-1]),
        row("holdout_mse", float(mse.mean())),
        row("holdout_error", float(mse.sum() / variance.sum())),
    ]
    spec = get(cell.env)
    rng = seeding.generator(cell.settings["seed"], SUITE, "prediction")
    rollouts = true_rollouts(spec, load_test_policy(spec.name, spec.action_space), rng)
    for error in prediction_errors(model, rollouts):
        number = error.agent + 1
        rows += [row("prediction_rmse", error.rmse, number), row("prediction_r2", error.r2, number)]
    return rows


def curves(result: TrainResult) -> dict[str, list[list[float]]]:
    """Training and hold-out loss against epochs."""
    holdout = zip(result.holdout_epochs, result.holdout_losses, strict=True)
    return {
        "train_mse": [[epoch + 1, loss] for epoch, loss in enumerate(result.losses)],
        "holdout_mse": [[epoch, loss] for epoch, loss in holdout],
    }
