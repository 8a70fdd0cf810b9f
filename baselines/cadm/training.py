"""Training of CaDM: iterations over growing data, and epochs with early stopping."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.cadm.nets import CaDMNets, bound_penalty, reconstruction
from baselines.cadm.stage import Stage, Table, stage_scales
from baselines.common.chunks import check_finite
from baselines.common.snapshots import adam_arrays, below, load_adam, under
from persim import seeding
from persim.storage.store import Arrays

_CHUNK = 50  # the most updates of a chunk
_PATIENCE = 0.99  # decay of the rolling validation loss
_SPACING = 1.05  # each point of the training curve is at this many times the updates of the last one


@dataclass
class _Position:
    """Keeps where a training stands, so that it can go on from there.

    Attributes:
        iteration: number of the iteration, from 0.
        epoch: number of the epoch in this iteration, from 0.
        steps: updates that this epoch takes.
        step: updates done in this epoch.
        spent: updates done in this iteration.
        updates: updates done in all.
        chunks: chunks done in all.
        point: updates at the last point of the training curve.
    """

    iteration: int = 0
    epoch: int = 0
    steps: int = 1
    step: int = 0
    spent: int = 0
    updates: int = 0
    chunks: int = 0
    point: int = 0


class Training:
    """The networks, Adam's moments and the position; see ``baselines.common.chunks.Trainee``.

    Everything random follows from the seed of the table, so a resumed training is the same training.
    """

    def __init__(self, table: Table) -> None:
        self._table, self._settings = table, table.settings
        dims = (table.states.shape[1], table.targets.shape[1], table.actions.shape[1])
        self.nets = CaDMNets(table.settings, *dims, seeding.sequence(table.seed, "cadm", "init")).to(table.device)
        self._adam = self.nets.adam(table.settings.learning_rate)
        self._rolling: list[float] | None = None
        self._pending = [0.0, 0.0]  # sum and number of the losses since the last point of the training curve
        self._stage: Stage | None = None
        self._order: Tensor | None = None
        self._at = _Position()
        self._skip_empty_iterations()

    @property
    def chunks(self) -> float:
        """The chunks done, divided by the share of the work that is done if no iteration stops early."""
        s, at = self._settings, self._at
        if at.iteration == s.iterations:
            return at.chunks
        if not at.chunks:
            return math.inf
        done = (at.epoch + at.step / at.steps) / s.epochs
        if s.updates is not None:
            done = max(done, at.spent / (at.spent + self._left()))
        work = at.iteration * (at.iteration + 1) + 2 * (at.iteration + 1) * done  # in proportion to the data
        return at.chunks * s.iterations * (s.iterations + 1) / work

    def advance(self, chunk: int) -> tuple[int, dict[str, float]]:
        """Trains up to 50 updates of an epoch, then validates if the epoch is over.

        Raises:
            DivergenceError: a loss became non-finite.
        """
        at = self._at
        stage, order = self._prepare()
        losses = [self._update(stage, order, step) for step in range(at.step, min(at.step + _CHUNK, at.steps))]
        values = self._count(torch.stack(losses).tolist())
        at.chunks = chunk + 1
        if at.step == at.steps:
            values |= self._end_epoch(stage)
        return at.updates, values

    def _prepare(self) -> tuple[Stage, Tensor]:
        """The data of this iteration, and the numbers of its pairs ``[K, pairs]`` in the order of this epoch.

        Two or more members are trained on bootstrapped pairs.
        """
        at, members = self._at, self._settings.members
        if self._stage is None:
            self._stage = Stage(self._table, at.iteration)
        if self._order is None:
            pairs = len(self._stage)
            drawn = np.arange(pairs)[None]
            if members > 1:
                bootstrap = seeding.generator(self._table.seed, "cadm", "bootstrap", at.iteration)
                drawn = bootstrap.integers(pairs, size=(members, pairs))
            shuffle = seeding.generator(self._table.seed, "cadm", "batches", at.iteration, at.epoch)
            self._order = torch.from_numpy(shuffle.permuted(drawn, axis=1)).to(self._table.device)
            at.steps = min(math.ceil(pairs / self._settings.batch_size), at.step + self._left())
        return self._stage, self._order

    def _update(self, stage: Stage, order: Tensor, step: int) -> Tensor:
        """One step of Adam; returns the loss without penalties ``[]``, mean over members."""
        s = self._settings
        batch = stage.batch(order[:, step * s.batch_size : (step + 1) * s.batch_size])
        loss = reconstruction(self.nets, batch, s.backward_weight)
        self._adam.zero_grad()
        (loss + bound_penalty(self.nets, s.bound_weight)).backward()  # type: ignore[no-untyped-call]  # torch's
        self._adam.step()
        return loss.detach() / s.members

    def _count(self, losses: list[float]) -> dict[str, float]:
        """Counts these updates; returns a point of the training curve if one is due."""
        at = self._at
        for number, loss in enumerate(losses, at.updates + 1):
            check_finite("the loss", loss, number)
        at.step, at.spent, at.updates = (count + len(losses) for count in (at.step, at.spent, at.updates))
        self._pending = [self._pending[0] + sum(losses), self._pending[1] + len(losses)]
        if at.updates < _SPACING * at.point:
            return {}
        mean = self._pending[0] / self._pending[1]
        self._pending, at.point = [0.0, 0.0], at.updates
        return {"train_loss": mean}

    @torch.no_grad()
    def _end_epoch(self, stage: Stage) -> dict[str, float]:
        """Validates if anything is held out, and goes on to the next epoch, or iteration if this one is over.

        An iteration is over when its epochs or updates are done, or when the rolling validation loss rises. The
        weights and Adam's moments are kept.
        """
        s, at, values = self._settings, self._at, {}
        losses = [(reconstruction(self.nets, b, s.backward_weight), len(b.states[0])) for b in stage.held_out()]
        if losses:
            loss = sum(float(value) * rows for value, rows in losses) / sum(rows for _, rows in losses)
            check_finite("the validation loss", loss, at.updates)
            self._rolling = rolled(self._rolling, loss)
            values = {"validation_loss": loss / s.members}
        at.epoch, at.step, self._order = at.epoch + 1, 0, None
        rises = self._rolling is not None and self._rolling[0] > self._rolling[1]
        if at.epoch >= s.epochs or self._left() <= 0 or rises:
            at.iteration, at.epoch, at.spent, self._rolling, self._stage = at.iteration + 1, 0, 0, None, None
            self._skip_empty_iterations()
        return values

    def _skip_empty_iterations(self) -> None:
        """Skips iterations that have no updates to do."""
        while self._at.iteration < self._settings.iterations and self._left() <= 0:
            self._at.iteration += 1

    def _left(self) -> int:
        """Updates that this iteration may still do."""
        s, at = self._settings, self._at
        return 2**62 if s.updates is None else shares(s.updates, s.iterations)[at.iteration] - at.spent

    def arrays(self) -> Arrays:
        """The weights, and the scales of the last iteration."""
        return self.nets.arrays() | stage_scales(self._table, self._settings.iterations - 1).arrays()

    def state(self) -> Arrays:
        """Weights, Adam's moments and the position; see ``baselines.common.chunks.Trainee``."""
        numbers = {"position": astuple(self._at), "pending": self._pending, "rolling": self._rolling or []}
        arrays = {name: np.array(values) for name, values in numbers.items()}
        return self.nets.arrays() | under({"adam.": adam_arrays(self._adam)}) | arrays

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""
        self.nets.load(arrays)
        load_adam(self._adam, below("adam.", arrays))
        self._at = _Position(*arrays["position"].tolist())
        self._pending, self._rolling = arrays["pending"].tolist(), arrays["rolling"].tolist() or None


def shares(updates: int, iterations: int) -> list[int]:
    """Splits the updates over the iterations in proportion to their data: 1, 2, 3, ... parts."""
    parts: NDArray[np.float64] = np.arange(1, iterations + 1).cumsum()
    ends: list[int] = (updates * parts / parts[-1]).round().astype(int).tolist()
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def rolled(before: list[float] | None, loss: float) -> list[float]:
    """Updates the rolling validation loss and its previous value, given both (None at first) and a new loss.

    The rolling loss starts high, so that it falls for a long time and training rarely stops early.
    """
    if before is None:
        before = [1.5 * loss, 2 * loss] if loss >= 0 else [loss / 1.5, loss / 2]
        return [_PATIENCE * before[0] + (1 - _PATIENCE) * loss, before[1]]
    return [_PATIENCE * before[0] + (1 - _PATIENCE) * loss, before[0]]
