"""PerSim on a hold-out: trained on a part of the transitions and measured on the rest (Appendix D.1).

Rank cross-validation and tuning consist of these trials. A trial that both ask for is computed once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from persim import seeding
from persim.data import Trajectories
from persim.envs import get
from persim.errors import InputError, check_at_least, check_between, check_choice
from persim.learning.blocks import open_loop_errors, split_blocks, windows
from persim.learning.ensemble import best_members
from persim.learning.gradients import TrainingRows
from persim.learning.model import LowRankDynamics
from persim.learning.training import DivergenceError, EpochReport, TrainResult, holdout_errors, split, train
from persim.methods.job import HOLDOUT, PREDICTION, REWARD, Job
from persim.methods.measure import Rows, checkpoint_path, prediction_rows, reward_rows
from persim.methods.persim import PerSim, make_simulator
from persim.storage.cells import CellStore, FinishedCell, code_version, row
from persim.storage.machine import machine

STREAM = "rank_cv"  # names the seeds of all hold-out trials
HELD_OUT = TRANSITIONS, BLOCKS = "transitions", "blocks"


@dataclass(frozen=True)
class Progress:
    """Holds what a trial reports after an epoch.

    Attributes:
        epoch: number of the last epoch, from 1.
        loss: its training loss.
        holdout_loss: the latest squared error on the hold-out; None before the first one.
        rung_error: mean of ``holdout_shares`` at the epochs that were asked for; None at the others.
    """

    epoch: int
    loss: float
    holdout_loss: float | None
    rung_error: float | None


@dataclass(frozen=True)
class HoldOut:
    """Says what is held out, and how the error on it is measured.

    Attributes:
        share: of the transitions that are held out.
        number: of the split, from 0; the same for every method and rank, so that they are compared on the same
            transitions.
        by: ``transitions``, chosen at random, or ``blocks`` of time (``persim.learning.blocks``).
        steps: H of the error. 1: every transition is predicted from its true state. More: H steps open loop inside
            the blocks.

    Raises:
        InputError: a value is out of range, or several steps are asked for without blocks.
    """

    share: float
    number: int
    by: str = TRANSITIONS
    steps: int = 1

    def __post_init__(self) -> None:
        check_between("hold-out share", self.share, 0, 1)
        check_at_least("split", self.number, 0)
        check_choice("holdout-by", self.by, HELD_OUT)
        check_at_least("steps", self.steps, 1)
        if self.steps > 1 and self.by != BLOCKS:
            raise InputError(
                f"a multi-step error is measured inside blocks of time, but {self.by} are held out; "
                "give --holdout-by blocks, or the one-step error"
            )

    @classmethod
    def of(cls, measure: Mapping[str, Any]) -> HoldOut:
        """Read what ``holdouts`` wrote."""
        more = {name: measure[name] for name in ("by", "steps") if name in measure}
        return cls(float(measure["share"]), int(measure["split"]), **more)

    def rows(self, data: Trajectories, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split the transitions into rows for training ``[M]`` and rows held out ``[B]``, by seed and number alone.

        Raises:
            InputError: the data are too few or too short.
        """
        rng = seeding.generator(seed, STREAM, "holdout", self.number)
        if self.by == BLOCKS:
            return split_blocks(data, self.share, rng, shortest=self.steps)
        return split(len(data), self.share, rng)


def holdouts(
    share: float, number: int, then: dict[str, Any] | None = None, by: str = TRANSITIONS, steps: int = 1
) -> dict[str, Any]:
    """The hold-out test as a cell states it; what is the default is left out, so that older cells keep their ids.

    Args:
        share: see ``HoldOut``.
        number: see ``HoldOut``.
        then: what else is measured with the members of lowest hold-out error: ``predictions`` or ``rewards``.
        by: see ``HoldOut``.
        steps: see ``HoldOut``.

    Raises:
        InputError: as of ``HoldOut``.
    """
    test = HoldOut(share, number, by, steps)
    more = ({} if test.by == TRANSITIONS else {"by": by}) | ({} if test.steps == 1 else {"steps": steps})
    return {"what": HOLDOUT, "share": share, "split": number, **more, **({} if then is None else {"then": then})}


def holdout_shares(
    model: LowRankDynamics, data: Trajectories, holdout: NDArray[np.int64], steps: int = 1
) -> NDArray[np.float64]:
    """Hold-out error of each member ``[K]``: the share of variance left, mean over state dimensions.

    Squared error over variance of the same state difference is free of units, so it is the same number
    whether the model works on raw or on normalised data.

    Args:
        model: K members.
        data: the trajectories.
        holdout: row numbers ``[H]``.
        steps: of the error; see ``HoldOut``.
    """
    return _shares(*_errors(model, data, holdout, steps))


def _shares(mse: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares ``[K]`` from what ``_errors`` returns; a dimension that never varies does not count."""
    varies = variance > 0
    return np.asarray((mse[:, varies] / variance[varies]).mean(axis=1))


def _errors(
    model: LowRankDynamics, data: Trajectories, holdout: NDArray[np.int64], steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean squared errors ``[K, S]`` and variances ``[S]`` of the (scaled) state differences of rows ``[H]``."""
    if steps > 1:
        return open_loop_errors(model, data, windows(data, holdout, steps))
    targets = model.scaled_deltas(torch.from_numpy(data.delta[holdout].astype(np.float64)).to(model.device).mT)
    variance = targets.var(dim=1, correction=0).cpu().numpy()
    return holdout_errors(model, TrainingRows(model, data, holdout)), variance


def stopped(job: Job, epoch: int) -> Job:
    """The job of a trial that was given up after this epoch: an own cell, never taken for a finished trial.

    It measures the hold-out alone, so how the trial would have planned does not matter.
    """
    measure = {name: value for name, value in job.cell.measure.items() if name != "then"}
    return Job.of(job.method, *job.data_key, {**measure, "stopped_at": epoch})


def run_trial(
    job: Job,
    data: Trajectories,
    cells: CellStore,
    report: Callable[[Progress], None],
    rungs: Collection[int] = (),
    device: str = "cpu",
) -> FinishedCell:
    """Compute a cell and record it in the store; returns the record if there is one already.

    Initial weights and batches are each trial's own: they follow from the rank, the split and the number of the
    member. A trial whose loss becomes non-finite is finished, too, with an infinite error.

    Args:
        job: a PerSim with a measure of ``holdouts``.
        data: the dataset of the job.
        cells: the store.
        report: called after every epoch.
        rungs: epochs at which ``holdout_share`` is reported.
        device: to train and measure on.
    """
    if (done := cells.finished(job.cell)) is not None:
        return done
    started, name, curves = time.time(), "", {}
    try:
        model, holdout, result = _train(job, data, cells, report, set(rungs), device)
        trained = time.time()
        rows, name = _measure(job, data, model, holdout, result, cells)
        curves, seconds = _curves(result), {"train": result.seconds, "measure": time.time() - trained}
    except DivergenceError:
        rows, seconds = _diverged(job), {"train": time.time() - started}
    times = int(started * 1e3), int(time.time() * 1e3)
    done = FinishedCell(job.cell, rows, curves, code_version(), seconds, *times, model=name, machine=machine(device))
    cells.finish(done)
    checkpoint_path(cells.root, job.cell).unlink(missing_ok=True)
    return done


def _diverged(job: Job) -> Rows:
    """The rows of a trial that diverged: none of its metrics is finite."""
    metric = {PREDICTION: "prediction_rmse", REWARD: "reward"}.get(job.cell.measure.get("then", {}).get("what"))
    agents = range(1, len(job.spec.test_agents) + 1) if metric else ()
    return [row(name, np.inf) for name in ("holdout_mse", "holdout_error", "holdout_share")] + [
        row(str(metric), np.inf, agent) for agent in agents
    ]


def _train(
    job: Job, data: Trajectories, cells: CellStore, report: Callable[[Progress], None], rungs: set[int], device: str
) -> tuple[LowRankDynamics, NDArray[np.int64], TrainResult]:
    """A trained model, the held-out rows, and the curves."""
    method, test, seed = job.method, HoldOut.of(job.cell.measure), job.cell.seed
    assert isinstance(method, PerSim)
    settings, number = method.settings, test.number
    members = [(settings.rank, number, *([k] if k else [])) for k in range(settings.size.candidates)]
    init, orders = ([seeding.sequence(seed, STREAM, name, *k) for k in members] for name in ("init", "batches"))
    model = LowRankDynamics(settings.nets.shape(data, settings.rank, len(members)), init).to(device)
    rows, holdout = test.rows(data, seed)

    def show(epoch: EpochReport) -> None:
        error = None
        if epoch.epoch in rungs:
            error = float(holdout_shares(model, data, holdout, test.steps).mean())
            if not np.isfinite(error):
                raise DivergenceError(f"the hold-out error became non-finite at epoch {epoch.epoch}")
        report(Progress(epoch.epoch, epoch.loss, epoch.holdout_loss, error))

    path = checkpoint_path(cells.root, job.cell)
    result = train(model, data, settings.train, orders, rows=rows, holdout=holdout, checkpoint=path, progress=show)
    return model, holdout, result


def _measure(
    job: Job,
    data: Trajectories,
    model: LowRankDynamics,
    holdout: NDArray[np.int64],
    result: TrainResult,
    cells: CellStore,
) -> tuple[Rows, str]:
    """The rows of a trial, of the members of lowest hold-out error; and the file of the model, if it was kept."""
    assert isinstance(job.method, PerSim)
    settings, then = job.method.settings, job.cell.measure.get("then")
    mse, variance = _errors(model, data, holdout, HoldOut.of(job.cell.measure).steps)
    shares = _shares(mse, variance)
    kept = best_members(shares.tolist(), settings.size.members)
    rows = [
        row("train_mse", result.losses[-1]),
        row("holdout_mse", float(mse[kept].mean())),
        row("holdout_error", float(mse[kept].mean(axis=0).sum() / variance.sum())),
        row("holdout_share", float(shares[kept].mean())),
    ]
    if then is None:
        return rows, ""
    model, file = model.select(kept), f"models/{job.cell.id}.safetensors"
    env, regime, agents, seed = job.data_key
    model.save(cells.root / file, env=get(env).name, regime=regime, agents=agents, seed=seed)
    fitted = make_simulator(model, job.spec, settings.planning)
    if then["what"] == PREDICTION:
        return rows + prediction_rows(fitted, job.spec, seed), file
    inner = Job.of(job.method, env, regime, agents, seed, then)
    for agent in inner.pieces:
        assert agent is not None
        rows += reward_rows(fitted, inner, inner.covariates, [agent])[0][0]
    return rows, file


def _curves(result: TrainResult) -> dict[str, list[list[float]]]:
    """Training and hold-out loss against epochs."""
    holdout = zip(result.holdout_epochs, result.holdout_losses, strict=True)
    return {
        "train_mse": [[epoch + 1, loss] for epoch, loss in enumerate(result.losses)],
        "holdout_mse": [[epoch, loss] for epoch, loss in holdout],
    }
