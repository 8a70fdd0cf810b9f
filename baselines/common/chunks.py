"""Training in chunks with a checkpoint between them, so that a resumed training equals an uninterrupted one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from persim.errors import InputError
from persim.learning.training import KIND as CHECKPOINT
from persim.methods import Report
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
        ...

    def advance(self, chunk: int) -> tuple[int, dict[str, float]]:
        """Trains chunk number ``chunk``, from 0; returns the step reached and the new value of each curve."""
        ...

    def state(self) -> Arrays:
        """Everything that the next chunk depends on, as named arrays."""
        ...

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""
        ...


def train(
    trainee: Trainee, checkpoint: Path | None, report: Report | None, *, identity: Mapping[str, Any] | None = None
) -> Progress:
    """Trains all chunks, or those that are left after the checkpoint.

    Args:
        trainee: what to train.
        checkpoint: a file to resume from if it exists, and to save to.
        report: called after each chunk with the fraction that is done.
        identity: what tells this run from others (settings, data, seed), as JSON can hold it. It is stored in the
            checkpoint.

    Raises:
        InputError: the checkpoint is damaged, or its identity is another one.
        DivergenceError: a loss of the trainee became non-finite.
    """
    progress = Progress()
    if checkpoint is not None and checkpoint.exists():
        arrays, settings = store.read_arrays(checkpoint, CHECKPOINT)
        if store.canonical_json(settings.pop("identity", None)) != store.canonical_json(identity):
            raise InputError(f"checkpoint {str(checkpoint)!r} belongs to another run; delete it or give another path")
        trainee.load_state(arrays)
        progress = Progress(**settings)
    saved = time.monotonic()
    while progress.chunks < trainee.chunks:
        clock = time.perf_counter()
        progress.updates, values = trainee.advance(progress.chunks)
        for name, value in values.items():
            progress.curves.setdefault(name, []).append([progress.updates, value])
        progress.chunks += 1
        progress.seconds += time.perf_counter() - clock
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            store.write_arrays(checkpoint, trainee.state(), CHECKPOINT, {"identity": identity, **asdict(progress)})
            saved = time.monotonic()
        if report is not None:
            report(progress.chunks / trainee.chunks)
    return progress
