"""Training in chunks, each with random streams of its own, so that a resumed training is the same training."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from persim.learning.training import KIND as CHECKPOINT
from persim.methods import Report
from persim.storage import store
from persim.storage.store import Arrays

CHECKPOINT_SECONDS = 30.0


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        chunks: that are finished.
        seconds: spent on them.
        curves: points ``[x, y]`` by name, at most one of each chunk.
    """

    chunks: int = 0
    seconds: float = 0.0
    curves: dict[str, list[list[float]]] = field(default_factory=dict)


class Trainee(Protocol):
    """What can be trained in chunks."""

    @property
    def chunks(self) -> int:
        """How many there are."""
        ...

    def advance(self, chunk: int) -> tuple[int, dict[str, float]]:
        """Does one chunk, counted from 0; returns where it has come to, and a value for each curve there."""
        ...

    def state(self) -> Arrays:
        """Everything that the next chunk depends on."""
        ...

    def load_state(self, arrays: Arrays) -> None:
        """Goes on from ``state``."""
        ...


def train(trainee: Trainee, checkpoint: Path | None, report: Report | None) -> Progress:
    """Does all chunks, or those that the checkpoint leaves.

    Args:
        trainee: what to train.
        checkpoint: a file to resume from if it exists, and to save to.
        report: told how far the training is.

    Raises:
        DivergenceError: from the trainee.
    """
    progress = _resume(trainee, checkpoint)
    saved = time.monotonic()
    for chunk in range(progress.chunks, trainee.chunks):
        clock = time.perf_counter()
        reached, values = trainee.advance(chunk)
        for name, value in values.items():
            progress.curves.setdefault(name, []).append([reached, value])
        progress.chunks += 1
        progress.seconds += time.perf_counter() - clock
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            store.write_arrays(checkpoint, trainee.state(), CHECKPOINT, asdict(progress))
            saved = time.monotonic()
        if report is not None:
            report(progress.chunks / trainee.chunks)
    return progress


def _resume(trainee: Trainee, checkpoint: Path | None) -> Progress:
    if checkpoint is None or not checkpoint.exists():
        return Progress()
    arrays, settings = store.read_arrays(checkpoint, CHECKPOINT)
    trainee.load_state(arrays)
    return Progress(**settings)
