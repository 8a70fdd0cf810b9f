"""What the sweeps share: options and their checks, and one driver at a time."""

from __future__ import annotations

import argparse
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from persim import console
from persim.data import REGIMES, check_regime
from persim.envs import EnvSpec, get, names
from persim.errors import InputError, check_at_least, check_between
from persim.storage.store import is_remote
from sweeps.engine import lock as remote_lock
from sweeps.engine.session import check_address


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
    p.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        help="MLflow server or database ($MLFLOW_TRACKING_URI, else mlflow.db in the store)",
    )
    p.add_argument("--address", help="Ray cluster to run on: auto or host:port (a local Ray)")
    p.add_argument("--cpus", type=int, help="CPUs of the local Ray, one trial on each (all)")


def check_options(args: argparse.Namespace) -> EnvSpec:
    """Check the options above and return the environment.

    Raises:
        InputError: an option is unknown or out of range.
    """
    spec = get(args.env)
    check_regime(args.regime, spec)
    check_at_least("agents", args.agents, len(spec.test_agents), f"{spec.name} has that many test agents")
    check_at_least("seed", args.seed, 0)
    check_between("hold-out share", args.holdout, 0, 1)
    if args.cpus is not None:
        check_at_least("cpus", args.cpus, 1)
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
        with remote_lock.held(path):
            yield
        return
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another process is running this sweep in store {str(root)!r}; wait for it, or give another --store"
            ) from error
        yield
