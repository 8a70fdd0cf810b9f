"""Training in chunks with a checkpoint between them, so that a resumed training equals an uninterrupted one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from persim.errors import InputError
from persim.learning.training import KIND as CHECKPOINT
from persim.learning.training import DivergenceError
from persim.methods import Part, Weights
from persim.storage import store
from persim.storage.store import Arrays

CHECKPOINT_SECONDS = 30.0


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        chunks: number of finished chunks.
        updates: the step that the last chunk ended at: optimiser updates, or MOReL's environment steps.
        seconds: time spent on the chunks.
        curves: points ``[step, value]`` by name, at most one per chunk.
    """

    chunks: int = 0
    updates: int = 0
    seconds: float = 0.0
    curves: dict[str, list[list[float]]] = field(default_factory=dict)


class Trainee(Protocol):
    """Anything that can be trained in chunks; each chunk has random streams of its own."""

    @property
    def chunks(self) -> float:
        """The number of chunks, or the present estimate of it where the training may stop early."""

    def advance(self, chunk: int) -> tuple[int, dict[str, float]]:
        """Trains chunk number ``chunk``, from 0; returns the step reached and the new value of each curve."""

    def arrays(self) -> Arrays:
        """The weights that the trained method acts with, as named arrays."""

    def state(self) -> Arrays:
        """Everything that the next chunk depends on, as named arrays."""

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""


def check_finite(what: str, loss: float, step: int) -> None:
    """Stops a training whose loss is not finite.

    Raises:
        DivergenceError: it is not; the message names the step.
    """
    if not math.isfinite(loss):
        raise DivergenceError(f"{what} became {loss} at step {step}; lower the learning rate")


def train(trainee: Trainee, part: Part, identity: Mapping[str, Any]) -> Weights:
    """Trains all chunks of a part, or those that are left after its checkpoint.

    Args:
        trainee: what to train.
        part: gives the checkpoint, and the function that is told after each chunk which fraction is done.
        identity: what tells this run from others (settings, data, seed), as JSON can hold it. It is stored in the
            checkpoint.

    Raises:
        InputError: the checkpoint is damaged, or its identity is another one.
        DivergenceError: a loss of the trainee became non-finite.
    """
    path, progress = part.checkpoint, Progress()
    if path is not None and path.exists():
        arrays, settings = store.read_arrays(path, CHECKPOINT)
        if store.canonical_json(settings.pop("identity", None)) != store.canonical_json(identity):
            raise InputError(f"checkpoint {str(path)!r} belongs to another run; delete it or give another path")
        with store.contents_of(path):
            progress = store.build(Progress, settings)
            trainee.load_state(arrays)
    saved = time.monotonic()
    while progress.chunks < trainee.chunks:
        clock = time.perf_counter()
        progress.updates, values = trainee.advance(progress.chunks)
        for name, value in values.items():
            progress.curves.setdefault(name, []).append([progress.updates, value])
        progress.chunks += 1
        progress.seconds += time.perf_counter() - clock
        if path is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            store.write_arrays(path, trainee.state(), CHECKPOINT, {"identity": identity, **asdict(progress)})
            saved = time.monotonic()
        if part.report is not None:
            part.report(progress.chunks / trainee.chunks)
    about = {"curves": progress.curves, "seconds": progress.seconds, "updates": progress.updates}
    return Weights(trainee.arrays(), {"about": about})
