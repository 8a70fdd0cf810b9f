"""Share between both sweeps: the trials as jobs, the files of earlier runs, and how the missing trials are run."""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from persim import console
from persim.envs import get
from persim.learning.training import KIND as CHECKPOINT
from persim.methods.holdout import HoldOut
from persim.methods.job import Job
from persim.methods.measure import checkpoint_path, dataset
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, Request
from sweeps.engine.session import ray_session

if TYPE_CHECKING:  # Ray Tune and Optuna take seconds to import, --help none
    from sweeps.tuning.tuner import Plan


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
        """Return what the command asks for."""
        ids = tuple(dict.fromkeys(job.cell.id for job in jobs))
        return Request(self.suite, "", ids, self.label, self.as_json())

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

    def at_rung(self, error: float) -> dict[str, float]:
        """The ``value`` of a trial that is stopped with this hold-out error, if it has one."""
        return {}


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


def run_missing(
    args: argparse.Namespace,
    sweep: Sweep,
    first: Job,
    cells: CellStore,
    done: int,
    trials: int,
    plan: Callable[[], Plan],
) -> list[Failure]:
    """Run the trials that are missing, if any, and return those that failed for good.

    ``done`` of the ``trials`` are finished, and ``plan`` decides which others run. All have the dataset of ``first``.

    Raises:
        InputError: the data are too few or too short for the hold-out.
    """
    if done:
        print(f"{done} of {trials} trials are finished already in {cells.root}", file=sys.stderr)
    if done >= trials:
        return []
    console.doing(f"{sweep.suite}.py: running {trials - done} trials")
    data = dataset(first, cells)
    HoldOut.of(first.cell.measure).rows(data, first.cell.seed)  # before any worker finds out that it cannot be
    with ray_session(args.address, args.cpus, sweep.env):  # first: it sets what Ray reads when imported
        from sweeps.engine.gpus import Workers
        from sweeps.tuning.tuner import run_trials

        workers = Workers.of(args, args.device)
        return run_trials(sweep, plan(), trials - done, data, cells.root, workers)
