"""Reaching MLflow: a client that is quiet and gives up soon, and a lock for what MLflow cannot do twice at once."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from persim.errors import InputError


def is_server(uri: str) -> bool:
    """Whether the URI is one of a server, which keeps artifacts itself."""
    return uri.startswith("http")


@contextmanager
def alone(uri: str, store: Path) -> Iterator[None]:
    """Keeps other processes with the same database, or on a server with the same store, waiting."""
    path = _lock_path(uri, store)
    with nullcontext() if path is None else path.open("w") as file:
        if file is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_path(uri: str, store: Path) -> Path | None:
    """The lock file; none for a server before the store is made."""
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///").split("?")[0] + ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)  # as MLflow does for the database
        return path
    if not store.exists():
        return None
    (store / "locks").mkdir(exist_ok=True)
    return store / "locks" / "mlflow.lock"


def be_quiet_and_quick() -> None:
    """Settings of MLflow: give up on a dead server within seconds instead of minutes."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request sent twice could make a run twice; Tracker retries
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(name, value)


def connect(uri: str) -> Any:
    """An MLflow client; makes the database if there is none."""
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)  # after the import, which sets them to INFO
    return MlflowClient(tracking_uri=uri)


def brief(error: Exception) -> str:
    """The first line of an error, not too long."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 140 else text[:137] + "..."


def unreachable(uri: str, error: Exception) -> InputError:
    """The one line that a user needs."""
    return InputError(
        f"MLflow tracking URI {uri!r} does not answer ({brief(error)}); start the server, "
        "or leave --tracking-uri out to use a database file in the store"
    )
