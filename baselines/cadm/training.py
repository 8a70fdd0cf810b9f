"""Training of CaDM: iterations over growing data, epochs with early stopping, checkpoint and resume."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.cadm.losses import bound_penalty, reconstruction
from baselines.cadm.nets import CaDMNets
from baselines.cadm.scales import Scales
from baselines.cadm.settings import CaDMSettings
from baselines.cadm.stage import Stage, Table, stage_scales
from baselines.common.snapshots import adam_arrays, below, load_adam, under
from persim import seeding
from persim.envs.spec import EnvSpec
from persim.errors import InputError
from persim.learning.training import KIND as CHECKPOINT
from persim.learning.training import DivergenceError
from persim.methods import Part, Report
from persim.storage import store

_CHUNK = 50  # updates between two looks at the losses
_CHECKPOINT_SECONDS = 30.0
_PATIENCE = 0.99  # of the rolling validation loss
_SPACING = 1.05  # each point of a curve is at this many times the updates of the last


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        iteration: that is under way, from 0.
        epoch: likewise.
        step: updates of this epoch.
        spent: updates of this iteration.
        updates: in all.
        rolling: the rolling validation loss, and what it was an epoch before; None before the first epoch.
        pending: sum and number of the losses since the last point of the curve.
        seconds: so far.
        curves: points (updates, value).
    """

    iteration: int = 0
    epoch: int = 0
    step: int = 0
    spent: int = 0
    updates: int = 0
    rolling: list[float] | None = None
    pending: list[float] = field(default_factory=lambda: [0.0, 0.0])
    seconds: float = 0.0
    curves: dict[str, list[list[float]]] = field(default_factory=lambda: {"train_loss": [], "validation_loss": []})


def train(part: Part, settings: CaDMSettings) -> tuple[CaDMNets, Scales, Progress]:
    """Trains the nets; everything random follows from the seed, so a resumed training is the same training.

    Args:
        part: what to learn from, and where.
        settings: how.

    Raises:
        InputError: the data are of another environment, or the checkpoint of another training.
        DivergenceError: the loss became non-finite.
    """
    table = Table(part.data, part.spec, settings, part.seed, part.device)
    run = _Run(table, part.spec)
    if part.checkpoint is not None and part.checkpoint.exists():
        run.restore(part.checkpoint)
    saver = _Saver(run, part.checkpoint)
    while run.progress.iteration < settings.iterations:
        stage = Stage(table, run.progress.iteration)
        while not run.iteration_is_over():
            _epoch(run, stage, saver, part.report)
        run.next_iteration()
    return run.nets, stage_scales(table, settings.iterations - 1), run.progress


def _epoch(run: _Run, stage: Stage, saver: _Saver, report: Report | None) -> None:
    """What is left of an epoch: sample, loss, step, log, save; then validation."""
    order = run.order(stage)
    steps = min(math.ceil(order.shape[1] / run.batch_size), run.progress.step + run.left())
    while run.progress.step < steps:
        clock = time.perf_counter()
        stop = min(run.progress.step + _CHUNK, steps)
        losses = [run.step(stage, order, step) for step in range(run.progress.step, stop)]
        run.log(torch.stack(losses).tolist())
        run.progress.seconds += time.perf_counter() - clock
        saver.save_sometimes()
        if report is not None:
            report(run.share(steps))
    clock = time.perf_counter()
    run.validate(stage)
    run.progress.seconds += time.perf_counter() - clock


class _Run:
    """The mutable state of a training: nets, Adam's averages, progress."""

    def __init__(self, table: Table, spec: EnvSpec) -> None:
        self.settings, self.seed, self.device = table.settings, table.seed, table.device
        self.batch_size = self.settings.batch_size
        self._identity = _identity(table)
        dims = (table.states.shape[1], spec.state_dim, spec.action_dim)
        self.nets = CaDMNets(self.settings, *dims, seeding.sequence(table.seed, "cadm", "init")).to(table.device)
        self._adam = self.nets.adam(self.settings.learning_rate)
        self.progress = Progress()

    def order(self, stage: Stage) -> Tensor:
        """Numbers of the pairs of this epoch ``[K, pairs]``, shuffled; bootstrapped if there are several members."""
        p, members = self.progress, self.settings.members
        drawn = np.arange(len(stage))[None]
        if members > 1:
            rng = seeding.generator(self.seed, "cadm", "bootstrap", p.iteration)
            drawn = rng.integers(len(stage), size=(members, len(stage)))
        shuffle = seeding.generator(self.seed, "cadm", "batches", p.iteration, p.epoch)
        return torch.from_numpy(shuffle.permuted(drawn, axis=1)).to(self.device)

    def step(self, stage: Stage, order: Tensor, step: int) -> Tensor:
        """One step of Adam; returns the loss without regularisation, mean over members."""
        batch = stage.batch(order[:, step * self.batch_size : (step + 1) * self.batch_size])
        loss = reconstruction(self.nets, batch, self.settings.backward_weight)
        self._adam.zero_grad()
        (loss + bound_penalty(self.nets, self.settings.bound_weight)).backward()  # type: ignore[no-untyped-call]  # torch's
        self._adam.step()
        return loss.detach() / self.settings.members

    def log(self, losses: list[float]) -> None:
        """Counts these steps, and makes a point of the curve if it is time.

        Raises:
            DivergenceError: one is not finite.
        """
        p = self.progress
        for number, loss in enumerate(losses, p.updates + 1):
            if not math.isfinite(loss):
                raise DivergenceError(f"the loss became {loss} at step {number}; lower the learning rate")
        p.step, p.spent, p.updates = (count + len(losses) for count in (p.step, p.spent, p.updates))
        p.pending = [p.pending[0] + sum(losses), p.pending[1] + len(losses)]
        points = p.curves["train_loss"]
        if not points or p.updates >= _SPACING * points[-1][0]:
            points.append([p.updates, p.pending[0] / p.pending[1]])
            p.pending = [0.0, 0.0]

    @torch.no_grad()
    def validate(self, stage: Stage) -> None:
        """Ends an epoch: updates the rolling validation loss, if anything is held out.

        Raises:
            DivergenceError: the loss is not finite.
        """
        p, weight = self.progress, self.settings.backward_weight
        found = [(reconstruction(self.nets, batch, weight), batch.states.shape[1]) for batch in stage.held_out()]
        p.epoch, p.step = p.epoch + 1, 0
        if not found:
            return
        loss = sum(float(value) * rows for value, rows in found) / sum(rows for _, rows in found)
        if not math.isfinite(loss):
            raise DivergenceError(f"the validation loss became {loss} at step {p.updates}; lower the learning rate")
        p.rolling = rolled(p.rolling, loss)
        p.curves["validation_loss"].append([p.updates, loss / self.settings.members])

    def left(self) -> int:
        """Updates that this iteration may still do."""
        s, now = self.settings, self.progress.iteration
        if s.updates is None:
            return 2**62
        return shares(s.updates, s.iterations)[now] - self.progress.spent

    def iteration_is_over(self) -> bool:
        """Whether all epochs or updates are done, or the validation loss has stopped falling."""
        p = self.progress
        rises = p.rolling is not None and p.rolling[0] > p.rolling[1]
        return p.step == 0 and (p.epoch >= self.settings.epochs or self.left() <= 0 or rises)

    def next_iteration(self) -> None:
        """Goes on to the next; weights and Adam's averages stay."""
        p = self.progress
        p.iteration, p.epoch, p.spent, p.rolling = p.iteration + 1, 0, 0, None

    def share(self, steps: int) -> float:
        """What is done, 0 to 1, if no iteration stops early; one costs in proportion to its data."""
        p, s = self.progress, self.settings
        done = (p.epoch + p.step / steps) / s.epochs
        if s.updates is not None:
            done = max(done, p.spent / max(1, p.spent + self.left()))
        return (p.iteration * (p.iteration + 1) + 2 * (p.iteration + 1) * done) / (s.iterations * (s.iterations + 1))

    def save(self, path: Path) -> None:
        """Writes all that the next step depends on."""
        arrays = self.nets.arrays() | under("adam.", adam_arrays(self._adam))
        store.write_arrays(path, arrays, CHECKPOINT, {"identity": self._identity, "progress": asdict(self.progress)})

    def restore(self, path: Path) -> None:
        """Goes on from what ``save`` wrote.

        Raises:
            InputError: it is damaged, or of another training.
        """
        arrays, state = store.read_arrays(path, CHECKPOINT)
        if store.canonical_json(state["identity"]) != store.canonical_json(self._identity):
            raise InputError(f"checkpoint {str(path)!r} belongs to another run; delete it or give another path")
        self.nets.load(arrays)
        self.progress = Progress(**state["progress"])
        load_adam(self._adam, below("adam.", arrays))


class _Saver:
    """Saves a run now and then."""

    def __init__(self, run: _Run, path: Path | None) -> None:
        self._run, self._path, self._saved = run, path, time.monotonic()

    def save_sometimes(self) -> None:
        if self._path is not None and time.monotonic() - self._saved > _CHECKPOINT_SECONDS:
            self._run.save(self._path)
            self._saved = time.monotonic()


def _identity(table: Table) -> dict[str, Any]:
    return {"settings": asdict(table.settings), "data": table.data.content_hash, "seed": table.seed}


def shares(updates: int, iterations: int) -> list[int]:
    """Updates of each iteration, in proportion to its data: 1, 2, 3, ... parts; together all of them."""
    parts: NDArray[np.float64] = np.arange(1, iterations + 1).cumsum()
    ends: list[int] = (updates * parts / parts[-1]).round().astype(int).tolist()
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def rolled(before: list[float] | None, loss: float) -> list[float]:
    """The rolling validation loss and the one before it, from the last such pair (None at first) and a new loss.

    It starts high, so that it falls for a long time and training rarely stops early.
    """
    if before is None:
        before = [1.5 * loss, 2 * loss] if loss >= 0 else [loss / 1.5, loss / 2]
        return [_PATIENCE * before[0] + (1 - _PATIENCE) * loss, before[1]]
    return [_PATIENCE * before[0] + (1 - _PATIENCE) * loss, before[0]]
