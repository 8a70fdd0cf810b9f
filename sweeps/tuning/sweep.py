"""What both sweeps share: the trials as jobs, the files of earlier runs, and what is said at the end."""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from persim.envs import get
from persim.learning.training import KIND as CHECKPOINT
from persim.methods.job import Job
from persim.methods.measure import checkpoint_path, dataset
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, Request
from sweeps.options import only_driver

if TYPE_CHECKING:  # MLflow takes seconds to import, --help none
    from sweeps.tracking.mirror import Mirror


@dataclass(frozen=True)
class Sweep(ABC):
    """Settings of a sweep; a worker makes its trials from them.

    Attributes:
        env: name of the environment.
        regime: how the data were recorded.
        agents: N.
        holdout: share of the transitions that is held out.
        seed: everything random follows from it.
        suite: the command, as requests and seeds name it.
        doing: the command, as people read it.
    """

    env: str
    regime: str
    agents: int
    holdout: float
    seed: int

    suite: ClassVar[str]
    doing: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """All settings, for records and hashes."""
        return asdict(self)

    @property
    def id(self) -> str:
        """Names the sweep: the hash of its settings."""
        return store.settings_hash({"suite": self.suite, **self.as_json()})

    @property
    def title(self) -> str:
        """The data, as people read them."""
        return f"{get(self.env).title}, {self.regime} data, {self.agents} agents"

    @property
    def label(self) -> str:
        """Names the sweep in MLflow."""
        return f"{self.env} {self.regime} N={self.agents}"

    def request(self, jobs: Sequence[Job]) -> Request:
        """What the command asks for."""
        ids = dict.fromkeys(job.cell.id for job in jobs)
        return Request(self.suite, "", tuple(ids), self.label, self.as_json())

    @property
    @abstractmethod
    def largest_epochs(self) -> int:
        """Epochs of the longest trial."""

    @abstractmethod
    def trial(self, config: Mapping[str, Any]) -> Job:
        """The trial that Ray Tune calls by this configuration."""

    @abstractmethod
    def value(self, done: FinishedCell) -> float:
        """The number that trials are compared by; not finite if training diverged."""

    def rungs(self, epochs: int) -> list[int]:
        """Epochs at which a trial of so many epochs may be stopped."""
        return []

    def value_at_rung(self, error: float) -> float | None:
        """The value of a trial that is stopped with this hold-out error; None if it has none."""
        return None


@dataclass(frozen=True)
class Failure:
    """A trial that failed for good."""

    name: str
    cell: Cell
    error: str


def check_files(jobs: Sequence[Job], cells: CellStore) -> None:
    """Find damaged files of an earlier run before anything is written, not in a worker half-way.

    Raises:
        InputError: the dataset, or the record or checkpoint of a job is damaged.
    """
    if cells.dataset_path(*jobs[0].data_key).exists():
        dataset(jobs[0], cells)
    for job in jobs:
        path = checkpoint_path(cells.root, job.cell)
        if cells.finished(job.cell) is None and path.exists():
            store.read_arrays(path, CHECKPOINT)


def open_mirror(args: argparse.Namespace, source: str) -> Mirror:
    """Connect to MLflow and prepare the store.

    Raises:
        InputError: MLflow does not answer, or the store cannot be written.
    """
    from sweeps.tracking.mirror import Mirror

    return Mirror(args.tracking_uri, args.store, source)


@contextmanager
def driving(root: Path, sweep: Sweep, mirror: Mirror, request: Callable[[], Request]) -> Iterator[None]:
    """Be the only driver of a sweep; if the ``with`` block raises, its run in MLflow ends as failed.

    Raises:
        InputError: another process drives this sweep.
    """
    try:
        with only_driver(root, sweep.id):
            try:
                yield
            except BaseException:
                mirror.end(request(), status="FAILED")
                raise
    except BaseException:
        mirror.close()
        raise


def close(mirror: Mirror, request: Request) -> bool:
    """Send what is left, and say where to look; returns whether MLflow has everything."""
    lacking = mirror.close()
    if lacking:
        print(f"MLflow at {mirror.uri} lacks {lacking} runs; the next command sends them when it answers again")
    else:
        print(f"MLflow: {mirror.how_to_look(request)}")
    return not lacking


def incomplete(mirror: Mirror, request: Request, failures: Sequence[Failure], finished: int, trials: int) -> int:
    """End a sweep of which some trials are missing; returns the exit status."""
    for failure in failures:
        mirror.fail(request, failure.cell, failure.error)
        print(f"failed: {failure.name}: {failure.error}", file=sys.stderr)
    mirror.end(request, status="FAILED")
    close(mirror, request)
    print(f"{finished} of {trials} trials finished; the same command tries the rest", file=sys.stderr)
    return 1
