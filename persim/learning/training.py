"""Algorithm 1: training all members of an ensemble at once, with hold-out, checkpoint and resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.data.trajectories import Trajectories
from persim.errors import InputError, check_at_least, check_between
from persim.learning.gradients import FlatParameters, LossGradient, Minibatch, TrainingRows
from persim.learning.model import LowRankDynamics
from persim.learning.presets import EPOCHS
from persim.storage import store

KIND = "checkpoint"
HOLDOUT_BLOCK = 4096


class DivergenceError(RuntimeError):
    """The loss became non-finite; the message has the step."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train (Appendix D.1; the halving is in the authors' code, not in the text).

    Attributes:
        epochs: passes over the training rows.
        batch_size: transitions per step and member.
        learning_rate: of Adam, at first.
        halve_every: epochs after which the learning rate is halved, again and again.
        average_last: the final weights are the mean of those after every step of this many last epochs
            (Polyak averaging; not in the paper). At the paper's final rate of 5e-4 Adam's noise is nearly
            all that is left of the loss: CartPole's falls from 1.5e-6 to 2e-8. 0 switches it off.
        holdout_every: epochs between evaluations on the held-out rows; the last epoch always has one.
        checkpoint_every: epochs between checkpoints, if a path is given.

    Raises:
        InputError: a number out of range.
    """

    epochs: int = EPOCHS
    batch_size: int = 64
    learning_rate: float = 1e-3
    halve_every: int = 150
    average_last: int = 50
    holdout_every: int = 5
    checkpoint_every: int = 25

    def __post_init__(self) -> None:
        for field in (
            "epochs",
            "batch_size",
            "halve_every",
            "holdout_every",
            "checkpoint_every",
        ):
            check_at_least(field, getattr(self, field), 1)
        check_at_least("average_last", self.average_last, 0)
        check_between("learning_rate", self.learning_rate, 0, 1)


@dataclass(frozen=True)
class EpochReport:
    """What a progress bar shows; losses are means over members."""

    epoch: int
    epochs: int
    loss: float
    holdout_loss: float | None
    seconds_left: float


@dataclass(frozen=True)
class TrainResult:
    """Curves and final errors of a training run.

    Attributes:
        losses: training loss per epoch ``[epochs]``, mean over members.
        holdout_epochs: epochs (from 1) at which the held-out rows were evaluated.
        holdout_losses: their mean squared error at those epochs, mean over members.
        holdout_mse: final squared error per member and state dimension ``[K, S]``; None without hold-out.
        seconds: time spent training, over all resumed parts.
        steps: optimiser steps taken.
    """

    losses: list[float]
    holdout_epochs: list[int]
    holdout_losses: list[float]
    holdout_mse: NDArray[np.float64] | None
    seconds: float
    steps: int


def split(n_rows: int, holdout: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random rows for training and for hold-out, each sorted.

    Args:
        n_rows: M.
        holdout: share held out, strictly between 0 and 1 (the paper: 0.2).
        rng: the source of the split.

    Raises:
        InputError: the share is out of range, or leaves one side empty.
    """
    check_between("hold-out share", holdout, 0, 1)
    count = round(n_rows * holdout)
    if count in (0, n_rows):
        raise InputError(f"hold-out share {holdout} of {n_rows} transitions leaves one side empty; change it")
    order = rng.permutation(n_rows)
    return np.sort(order[count:]), np.sort(order[:count])


def holdout_errors(model: LowRankDynamics, rows: TrainingRows) -> NDArray[np.float64]:
    """Mean squared error of (scaled) state differences ``[K, S]`` on ``rows``."""
    settings = model.settings
    total = torch.zeros(settings.members, settings.state_dim, dtype=torch.float64, device=model.device)
    with torch.no_grad():
        for batch in rows.whole(HOLDOUT_BLOCK):
            shared = Minibatch(*(part.expand(settings.members, -1, -1) for part in batch))
            delta = model.delta(shared.agents[:, 0], shared.states[:, :-1], shared.actions[:, :-1])
            total += (delta - shared.targets).square().sum(-1)
    return (total / len(rows)).cpu().numpy()


class _Run:
    """The mutable state of a training run: parameters, Adam's moments, curves."""

    def __init__(self, model: LowRankDynamics, settings: TrainSettings) -> None:
        self.model, self.settings = model, settings
        self.flat = FlatParameters(model)
        self.moments = [torch.zeros_like(self.flat.values) for _ in range(2)]
        self.adam_step = torch.zeros((), device=model.device)
        self.average = torch.zeros_like(self.flat.values)
        self.averaged_steps = 0
        self.epoch, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.holdout_epochs: list[int] = []
        self.holdout_losses: list[float] = []
        self._gradients: dict[int, LossGradient] = {}

    def step(self, batch: Minibatch, learning_rate: float) -> Tensor:
        """One step of Adam on every member; returns the summed squared errors ``[K, 1, 1]``."""
        size = batch.targets.shape[-1]
        if size not in self._gradients:
            self._gradients[size] = LossGradient(self.model, self.flat, size)
        squared = self._gradients[size](batch)
        self.adam_step += 1
        # The kernel under torch.optim.Adam(fused=True), whose wrapper costs four times as much as it
        # on so few parameters; a test holds it against torch.optim.Adam.
        torch._fused_adam_(
            [self.flat.values],
            [self.flat.gradient],
            [self.moments[0]],
            [self.moments[1]],
            [],
            [self.adam_step],
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        if self.epoch >= self.settings.epochs - self.settings.average_last:
            self.averaged_steps += 1
            self.average.lerp_(self.flat.values, 1 / self.averaged_steps)
        return squared

    def one_epoch(self, rows: TrainingRows, orders: Sequence[NDArray[np.int64]]) -> None:
        """Sample, loss, step, log."""
        rate = self.settings.learning_rate * 0.5 ** (self.epoch // self.settings.halve_every)
        squared = torch.stack([self.step(batch, rate) for batch in rows.batches(self.settings.batch_size, orders)])
        squared = squared.flatten(1)
        if not torch.isfinite(squared).all():
            first = int((~torch.isfinite(squared)).any(1).nonzero()[0])
            steps = self.epoch * len(squared) + first + 1
            raise DivergenceError(f"the loss became non-finite at step {steps} (epoch {self.epoch + 1})")
        self.losses.append(float(squared.sum(0).mean()) / (len(rows) * self.model.settings.state_dim))
        self.epoch += 1
        if self.epoch == self.settings.epochs and self.averaged_steps:
            self.flat.values.copy_(self.average)

    def _tensors(self) -> dict[str, Tensor]:
        first, second = self.moments
        return {"values": self.flat.values, "moment1": first, "moment2": second, "average": self.average}

    def save(self, path: Path, identity: dict[str, object]) -> None:
        """Writes a checkpoint that ``restore`` reads."""
        tensors = self._tensors()
        state: dict[str, object] = {
            "identity": identity,
            "epoch": self.epoch,
            "adam_step": int(self.adam_step),
            "averaged_steps": self.averaged_steps,
            "seconds": self.seconds,
            "losses": self.losses,
            "holdout_epochs": self.holdout_epochs,
            "holdout_losses": self.holdout_losses,
        }
        store.write_arrays(path, {name: t.cpu().numpy() for name, t in tensors.items()}, KIND, state)

    def restore(self, path: Path, identity: dict[str, object]) -> None:
        """Continues from a checkpoint of the same run.

        Raises:
            InputError: the file is damaged, or belongs to a run with other settings or data.
        """
        arrays, state = store.read_arrays(path, KIND)
        if store.canonical_json(state["identity"]) != store.canonical_json(identity):
            raise InputError(f"checkpoint {str(path)!r} belongs to another run; delete it or give another path")
        for name, tensor in self._tensors().items():
            tensor.copy_(torch.from_numpy(arrays[name]))
        self.adam_step.fill_(state["adam_step"])
        self.averaged_steps = state["averaged_steps"]
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.losses = state["losses"]
        self.holdout_epochs, self.holdout_losses = state["holdout_epochs"], state["holdout_losses"]


def _epoch_order(seed: np.random.SeedSequence, epoch: int, n_rows: int) -> NDArray[np.int64]:
    """The order of the rows of one member in one epoch; no generator state to save."""
    child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, epoch))
    return np.random.default_rng(child).permutation(n_rows)


def train(
    model: LowRankDynamics,
    data: Trajectories,
    settings: TrainSettings,
    batch_seeds: Sequence[np.random.SeedSequence],
    *,
    rows: NDArray[np.int64] | None = None,
    holdout: NDArray[np.int64] | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[EpochReport], None] | None = None,
) -> TrainResult:
    """Trains ``model`` in place (Algorithm 1).

    Args:
        model: K members, on any device.
        data: trajectories of the model's agents.
        settings: how.
        batch_seeds: one SeedSequence per member, for the order of its transitions.
        rows: transitions to train on; all by default.
        holdout: transitions to evaluate on.
        checkpoint: a file to resume from if it exists, and to save to; a resumed run ends exactly
            as an uninterrupted one. It is left in place at the end.
        progress: called after every epoch.

    Raises:
        InputError: a damaged or foreign checkpoint.
        DivergenceError: the loss became non-finite.
    """
    chosen = np.arange(len(data)) if rows is None else rows
    if model.settings.normalised:
        model.fit_scales(torch.from_numpy(data.observation[chosen]), torch.from_numpy(data.delta[chosen]))
    training = TrainingRows(model, data, chosen)
    held_out = None if holdout is None else TrainingRows(model, data, holdout)
    identity: dict[str, object] = {
        "model": asdict(model.settings),
        "settings": asdict(settings),
        "data": data.content_hash,
        "rows": store.content_hash({"rows": chosen}, {}),
        "seeds": [[str(seed.entropy), list(seed.spawn_key)] for seed in batch_seeds],
    }
    with torch.no_grad():
        run = _Run(model, settings)
        if checkpoint is not None and checkpoint.exists():
            run.restore(checkpoint, identity)
        errors = _loop(run, training, held_out, batch_seeds, checkpoint, identity, progress)
    return TrainResult(run.losses, run.holdout_epochs, run.holdout_losses, errors, run.seconds, int(run.adam_step))


def _loop(
    run: _Run,
    training: TrainingRows,
    held_out: TrainingRows | None,
    batch_seeds: Sequence[np.random.SeedSequence],
    checkpoint: Path | None,
    identity: dict[str, object],
    progress: Callable[[EpochReport], None] | None,
) -> NDArray[np.float64] | None:
    """The epochs that are left; returns the final hold-out errors ``[K, S]``."""
    settings, errors = run.settings, None
    first = run.epoch
    started, before = time.perf_counter(), run.seconds
    while run.epoch < settings.epochs:
        orders = [_epoch_order(seed, run.epoch, len(training)) for seed in batch_seeds]
        run.one_epoch(training, orders)
        last = run.epoch == settings.epochs
        if held_out is not None and (last or run.epoch % settings.holdout_every == 0):
            errors = holdout_errors(run.model, held_out)
            if not np.isfinite(errors).all():
                raise DivergenceError(f"the hold-out loss became non-finite at step {int(run.adam_step)}")
            run.holdout_epochs.append(run.epoch)
            run.holdout_losses.append(float(errors.mean()))
        spent = time.perf_counter() - started
        run.seconds = before + spent
        if checkpoint is not None and (last or run.epoch % settings.checkpoint_every == 0):
            run.save(checkpoint, identity)
        if progress is not None:
            left = spent / (run.epoch - first) * (settings.epochs - run.epoch)
            latest = run.holdout_losses[-1] if run.holdout_losses else None
            progress(EpochReport(run.epoch, settings.epochs, run.losses[-1], latest, left))
    if held_out is not None and errors is None:  # resumed after the last epoch
        errors = holdout_errors(run.model, held_out)
    return errors
