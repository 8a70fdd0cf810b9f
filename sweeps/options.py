"""Share between the sweeps: options and their checks, one driver at a time, and how they begin and end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from persim import console
from persim.data import REGIMES, check_regime
from persim.envs import EnvSpec, get, names
from persim.envs.spec import MOST_AGENTS
from persim.errors import InputError, check_at_least, check_between, check_seed
from persim.storage.cells import Request
from persim.storage.store import is_remote
from sweeps.engine import leftovers
from sweeps.engine import lock as locks
from sweeps.engine.session import check_address
from sweeps.grid.devices import MOST_CPUS, add_device_options, check_device_options
from sweeps.tuning.sweep import Failure

if TYPE_CHECKING:  # MLflow takes seconds to import, --help none
    from sweeps.tracking.mirror import Mirror


def add_data_options(p: console.Parser) -> None:
    """Add the options that name the data."""
    p.add_argument("--env", required=True, help=f"{', '.join(names())}, or module:ATTRIBUTE of an EnvSpec of yours")
    p.add_argument("--regime", default="random", help=f"how the data were recorded: {', '.join(REGIMES)} (random)")
    p.add_argument("--agents", type=int, default=500, metavar="N", help="one trajectory each (500)")


def add_run_options(p: console.Parser) -> None:
    """Add the options for the hold-out, the seed, the store, MLflow and Ray."""
    p.add_argument("--holdout", type=float, default=0.2, help="share of transitions held out (0.2)")
    p.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    p.add_argument(
        "--store", type=console.folder, default=Path("runs"), help="folder for data, models and results (runs)"
    )
    about = "MLflow server or database ($MLFLOW_TRACKING_URI, else mlflow.db in the store)"
    p.add_argument("--tracking-uri", default=os.environ.get("MLFLOW_TRACKING_URI"), help=about)
    p.add_argument("--address", help="Ray cluster to run on: auto or host:port (a local Ray)")
    p.add_argument("--cpus", type=int, help="CPUs of the local Ray, one trial on each (all)")
    add_device_options(p)


def check_options(args: argparse.Namespace) -> EnvSpec:
    """Check the options above and return the environment.

    Raises:
        InputError: an option is unknown or out of range.
    """
    spec = get(args.env)
    check_regime(args.regime, spec)
    least = len(spec.test_agents)
    check_at_least("agents", args.agents, least, f"{spec.name} has that many test agents", most=MOST_AGENTS)
    check_seed(args.seed)
    check_between("hold-out share", args.holdout, 0, 1)
    check_device_options(args)
    if args.cpus is not None:
        check_at_least("cpus", args.cpus, 1, most=MOST_CPUS)
    if args.address is not None:
        check_address(args.address)
    return spec


@contextmanager
def only_driver(root: Path, sweep_id: str) -> Iterator[None]:
    """Refuse a second driver of the same sweep on the same store.

    Raises:
        InputError: another driver holds the lock.
    """
    path = root / "locks" / f"{sweep_id}.lock"
    if is_remote(path):
        with locks.held(path):
            yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.file_lock(path, wait=False))
        except BlockingIOError as error:
            raise InputError(
                f"another process is running this sweep in store {str(root)!r}; wait for it, or give another --store"
            ) from error
        leftovers.remove_locks(path.parent)
        yield


@contextmanager
def driving(args: argparse.Namespace, command: str, lock: str, request: Callable[[], Request]) -> Iterator[Mirror]:
    """Connect to MLflow, prepare the store, and be the only driver that holds the lock.

    If the ``with`` block raises, the run of the sweep in MLflow ends as failed.

    Raises:
        InputError: MLflow does not answer, the store cannot be written, or another process drives this sweep.
    """
    from sweeps.tracking.mirror import Mirror

    mirror = Mirror(args.tracking_uri, args.store, f"sweeps/{command}.py")
    try:
        with only_driver(args.store, lock):
            try:
                yield mirror
            except BaseException:
                mirror.end(request(), status="FAILED")
                raise
    except BaseException:
        mirror.close()
        raise


def close(mirror: Mirror, request: Request) -> bool:
    """Send what is left, and say where to look; returns whether MLflow has everything."""
    console.doing(f"sending what is left to MLflow at {mirror.uri}")
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
