"""Algorithm 1: training all members of an ensemble at once, with hold-out, checkpoint and resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.errors import InputError, check_at_least, check_between, check_choice
from persim.learning.captured import CapturedEpochs
from persim.learning.gradients import FlatParameters, LossGradient, Minibatch, TrainingRows, Transitions
from persim.learning.model import LowRankDynamics
from persim.learning.presets import EPOCHS
from persim.storage import store

KIND = "checkpoint"
PRECISIONS = ("float32", "bfloat16")
HOLDOUT_BLOCK = 4096
HOLDOUT_EVERY = 5
CHECKPOINT_EVERY = 25
CAPTURED = ("cuda",)  # devices whose steps are replayed as CUDA graphs


class DivergenceError(RuntimeError):
    """The loss became non-finite; the message names the step."""


@dataclass(frozen=True)
class TrainSettings:
    """All that trained weights depend on (Appendix D.1; the halving is in the authors' code, not in the text).

    Attributes:
        epochs: passes over the training rows.
        batch_size: B, transitions per step and member.
        learning_rate: of Adam in the first epoch.
        halve_every: epochs after which the learning rate is halved each time.
        average_last: epochs at the end over whose steps the weights are averaged (Polyak averaging; not in
            the paper). At the paper's final rate of 5e-4 nearly all that is left of the loss is Adam's noise:
            averaging lowers CartPole's from 1.5e-6 to 2e-8. 0 keeps the last weights.
        precision: of the products of the encoders, ``float32``, or ``bfloat16``, which halves the time of wide nets
            on a CPU with instructions for it. Weights, their averages and Adam's moments stay in float32.

    Raises:
        InputError: a number is out of range, or the precision is unknown.
    """

    epochs: int = EPOCHS
    batch_size: int = 64
    learning_rate: float = 1e-3
    halve_every: int = 150
    average_last: int = 50
    precision: str = PRECISIONS[0]

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "halve_every"):
            check_at_least(field, getattr(self, field), 1, most=10**6)
        check_at_least("average_last", self.average_last, 0)
        check_between("learning_rate", self.learning_rate, 0, 1)
        check_choice("precision", self.precision, PRECISIONS)

    def about(self) -> dict[str, Any]:
        """All settings; the precision only where it is not float32, so that older ids stay valid."""
        return {name: x for name, x in asdict(self).items() if name != "precision" or x != PRECISIONS[0]}


@dataclass(frozen=True)
class EpochReport:
    """Progress after an epoch; the losses are means over members, ``holdout_loss`` is the latest one."""

    epoch: int
    epochs: int
    loss: float
    holdout_loss: float | None


@dataclass(frozen=True)
class TrainResult:
    """Curves and final errors of a training run.

    Attributes:
        losses: training loss per epoch ``[epochs]``, mean over members.
        holdout_epochs: epochs (from 1) at which the held-out rows were evaluated.
        holdout_losses: mean squared error on the held-out rows at these epochs, mean over members.
        holdout_mse: final mean squared error per member and state dimension ``[K, S]``; None without hold-out.
        seconds: time spent training, summed over all resumed parts.
        steps: optimiser steps taken.
    """

    losses: list[float]
    holdout_epochs: list[int]
    holdout_losses: list[float]
    holdout_mse: NDArray[np.float64] | None
    seconds: float
    steps: int


def split(n_rows: int, holdout: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits M rows at random; returns the sorted indices for training ``[M - H]`` and for hold-out ``[H]``.

    The share ``holdout``, H / M, lies strictly between 0 and 1 (the paper: 0.2).

    Raises:
        InputError: the share is out of range, or leaves one side empty.
    """
    check_between("hold-out share", holdout, 0, 1)
    count = round(n_rows * holdout)
    if count in (0, n_rows):
        raise InputError(f"hold-out share {holdout} of {n_rows} transitions leaves one side empty; give another share")
    order = rng.permutation(n_rows)
    return np.sort(order[count:]), np.sort(order[:count])


def holdout_errors(model: LowRankDynamics, rows: TrainingRows) -> NDArray[np.float64]:
    """Returns the mean squared error ``[K, S]`` of the (scaled) state differences on ``rows``."""
    settings = model.settings
    total = torch.zeros(settings.members, settings.outputs, dtype=torch.float64, device=model.device)
    with torch.no_grad():
        for batch in rows.batches(HOLDOUT_BLOCK, [np.arange(len(rows))]):
            shared = Minibatch(*(part.expand(settings.members, -1, -1) for part in batch))
            delta = model.delta(shared.agents[:, 0], shared.states[:, :-1], shared.actions[:, :-1])
            total += (delta - shared.targets).square().sum(-1)
    return (total / len(rows)).cpu().numpy()


class _Run:
    """The mutable state of a training run: parameters, Adam's moments, counters and curves."""

    COUNTERS = ("epoch", "averaged_steps", "seconds", "losses", "holdout_epochs", "holdout_losses")

    def __init__(
        self, model: LowRankDynamics, settings: TrainSettings, checkpoint: Path | None = None, identity: object = None
    ) -> None:
        self.model, self.settings, self._identity = model, settings, identity
        self.flat = FlatParameters(model)
        self.adam_step = torch.zeros((), device=model.device)
        names = ("moment1", "moment2", "average")
        self.tensors = {"values": self.flat.values} | {name: torch.zeros_like(self.flat.values) for name in names}
        self.epoch, self.averaged_steps, self.seconds = 0, 0, 0.0
        self.losses: list[float] = []
        self.holdout_epochs: list[int] = []
        self.holdout_losses: list[float] = []
        self._gradients: dict[int, LossGradient] = {}
        self._captured: CapturedEpochs | None = None
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)

    def step(self, batch: Minibatch, learning_rate: float | Tensor) -> Tensor:
        """Takes one step of Adam on every member; returns the summed squared errors ``[K, 1, 1]``."""
        size = batch.targets.shape[-1]
        if size not in self._gradients:
            self._gradients[size] = LossGradient(self.model, self.flat, size, getattr(torch, self.settings.precision))
        squared = self._gradients[size](batch)
        self.adam_step += 1
        # The kernel of torch.optim.Adam(fused=True): its wrapper takes four times as long, and a test compares them.
        first, second = self.tensors["moment1"], self.tensors["moment2"]
        torch._fused_adam_(
            [self.flat.values], [self.flat.gradient], [first], [second], [], [self.adam_step], lr=learning_rate,
            beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip
        return squared

    def start_epoch(self, rows: TrainingRows, orders: Sequence[NDArray[np.int64]]) -> Tensor:
        """Trains on all M rows once, in each member's own order ``[M]``; returns the squared errors ``[steps, K]``.

        On a GPU it returns before the steps are done.
        """
        settings = self.settings
        rate = settings.learning_rate * 0.5 ** (self.epoch // settings.halve_every)
        averages = self.epoch >= settings.epochs - settings.average_last
        if self.model.device.type not in CAPTURED:
            steps = (self.step(batch, rate) for batch in rows.batches(settings.batch_size, orders))
            return torch.stack([self._averaged(squared) if averages else squared for squared in steps]).flatten(1)
        if self._captured is None:
            parameters = self.flat.values, self.tensors["average"]
            self._captured = CapturedEpochs(rows, settings.batch_size, self.step, *parameters)
        squared = self._captured(orders, rate, self.averaged_steps if averages else None)
        self.averaged_steps += len(squared) if averages else 0
        return squared

    def _averaged(self, squared: Tensor) -> Tensor:
        """Adds the parameters after a step to their mean; passes the errors of the step on."""
        self.averaged_steps += 1
        self.tensors["average"].lerp_(self.flat.values, 1 / self.averaged_steps)
        return squared

    def end_epoch(self, rows: TrainingRows, squared: Tensor) -> None:
        """Looks at the squared errors ``[steps, K]`` of an epoch, or raises ``DivergenceError``."""
        lost = (~torch.isfinite(squared)).any(1).nonzero()
        if len(lost):
            steps = self.epoch * len(squared) + int(lost[0]) + 1
            raise DivergenceError(f"the loss became non-finite at step {steps} (epoch {self.epoch + 1})")
        self.losses.append(float(squared.sum(0).mean()) / (len(rows) * self.model.settings.outputs))
        self.epoch += 1
        if self.epoch == self.settings.epochs and self.averaged_steps:
            self.flat.values.copy_(self.tensors["average"])

    def save(self, path: Path) -> None:
        """Writes a checkpoint."""
        state = {"identity": self._identity, "adam_step": int(self.adam_step)}
        state |= {name: getattr(self, name) for name in self.COUNTERS}
        store.write_arrays(path, {name: tensor.cpu().numpy() for name, tensor in self.tensors.items()}, KIND, state)

    def _restore(self, path: Path) -> None:
        """Reads what ``save`` wrote, or raises ``InputError`` if it is damaged or belongs to another run."""
        arrays, state = store.read_arrays(path, KIND)
        if store.canonical_json(state.get("identity")) != store.canonical_json(self._identity):
            raise InputError(f"checkpoint {str(path)!r} belongs to another run; delete it or give another path")
        with store.contents_of(path):
            for name, tensor in self.tensors.items():
                tensor.copy_(torch.from_numpy(arrays[name].reshape(tensor.shape)))
            self.adam_step.fill_(state["adam_step"])
            for name in self.COUNTERS:
                setattr(self, name, type(getattr(self, name))(state[name]))


def _epoch_order(seed: np.random.SeedSequence, epoch: int, n_rows: int) -> NDArray[np.int64]:
    """Returns one member's order of the rows ``[M]``, from seed and epoch alone: a resumed run draws the same."""
    child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, epoch))
    return np.random.default_rng(child).permutation(n_rows)


@torch.no_grad()
def train(
    model: LowRankDynamics,
    data: Transitions,
    settings: TrainSettings,
    batch_seeds: Sequence[np.random.SeedSequence],
    *,
    rows: NDArray[np.int64] | None = None,
    holdout: NDArray[np.int64] | None = None,
    holdout_every: int = HOLDOUT_EVERY,
    checkpoint: Path | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    progress: Callable[[EpochReport], None] | None = None,
) -> TrainResult:
    """Trains ``model`` in place (Algorithm 1).

    Args:
        model: K members, on any device.
        data: transitions of the model's agents.
        settings: epochs, batch size, learning rate and averaging.
        batch_seeds: one SeedSequence per member, for the order of its transitions.
        rows: indices ``[M]`` of the transitions to train on; all by default.
        holdout: indices of the transitions to evaluate on; none by default.
        holdout_every: epochs between evaluations; the last epoch always has one.
        checkpoint: a file to resume from if it exists, and to save to; a resumed run ends exactly
            as an uninterrupted one. The file stays at the end.
        checkpoint_every: epochs between checkpoints; the last epoch always writes one.
        progress: called after every epoch.

    Raises:
        InputError: the checkpoint is damaged or another run's, a number is below 1, or the model is not for such data.
        DivergenceError: the loss became non-finite.
    """
    check_at_least("holdout_every", holdout_every, 1)
    check_at_least("checkpoint_every", checkpoint_every, 1)
    shape, discrete = model.settings, data.action.ndim == 1
    agents, actions = int(data.agent.max()) + 1, int(data.action.max()) + 1 if discrete else data.action.shape[1]
    found, wanted = ((agents, data.observation.shape[1], actions, discrete),
                     (shape.n_agents, shape.state_dim, shape.action_dim, shape.discrete))  # fmt: skip
    if found[1::2] != wanted[1::2] or agents > shape.n_agents or actions > shape.action_dim:
        names = "agents, state dimensions, actions, discrete"
        raise InputError(f"the data have {found} ({names}), the model is for {wanted}; make one for these data")
    chosen = np.arange(len(data)) if rows is None else rows
    model.fit_scales(torch.from_numpy(data.observation[chosen]), torch.from_numpy(data.delta[chosen]))
    training = TrainingRows(model, data, chosen)
    held_out = None if holdout is None else TrainingRows(model, data, holdout)
    seeds = [[str(seed.entropy), list(seed.spawn_key)] for seed in batch_seeds]
    identity: dict[str, object] = {"model": asdict(model.settings), "settings": settings.about(), "seeds": seeds}
    identity |= {"data": data.content_hash, "rows": store.content_hash({"rows": chosen}, {})}
    identity |= {"holdout_every": holdout_every}
    run = _Run(model, settings, checkpoint, identity)
    started = time.perf_counter() - run.seconds
    orders = [_epoch_order(seed, run.epoch, len(training)) for seed in batch_seeds]
    while run.epoch < settings.epochs:
        squared = run.start_epoch(training, orders)
        orders = [_epoch_order(seed, run.epoch + 1, len(training)) for seed in batch_seeds]  # while a GPU is at work
        run.end_epoch(training, squared)
        last = run.epoch == settings.epochs
        if held_out is not None and (last or run.epoch % holdout_every == 0):
            run.holdout_epochs.append(run.epoch)
            run.holdout_losses.append(float(holdout_errors(model, held_out).mean()))
            if not math.isfinite(run.holdout_losses[-1]):
                raise DivergenceError(f"the hold-out loss became non-finite at step {int(run.adam_step)}")
        run.seconds = time.perf_counter() - started
        if checkpoint is not None and (last or run.epoch % checkpoint_every == 0):
            run.save(checkpoint)
        if progress is not None:
            latest = run.holdout_losses[-1] if run.holdout_losses else None
            progress(EpochReport(run.epoch, settings.epochs, run.losses[-1], latest))
    errors = None if held_out is None else holdout_errors(model, held_out)
    return TrainResult(run.losses, run.holdout_epochs, run.holdout_losses, errors, run.seconds, int(run.adam_step))
