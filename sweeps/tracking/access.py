"""Reaching MLflow: one writer at a time, a database that is whole, and a client that gives up soon."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from persim.errors import InputError, without_password
from persim.storage.objects import reason
from sweeps.engine.lock import file_lock

_log = logging.getLogger(__name__)
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request sent twice could make a run twice; the next sync tries again
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def database_file(uri: str) -> Path | None:
    """The file of an SQLite database; None for any other URI."""
    return Path(uri.partition(":///")[2].partition("?")[0]).absolute() if uri.startswith("sqlite") else None


def lock_file(uri: str, folder: Path) -> Path:
    """What all who write to an MLflow lock: a file beside its database, or in the folder that they share."""
    file = database_file(uri)
    return folder / "locks" / "mlflow.lock" if file is None else file.with_name(f"{file.name}.lock")


def connect(uri: str, artifacts: str) -> Any:
    """A client of the MLflow at this URI, which has answered; an SQLite database is made if there is none.

    Raises:
        InputError: it does not answer, or its database cannot be opened or would not last.
    """
    if uri.startswith("sqlite") and (uri.partition("://")[2] in ("", "/") or ":memory:" in uri or "mode=memory" in uri):
        raise InputError(
            f"MLflow tracking URI {uri!r} is a database in memory, which ends with the command; name a file"
        )
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)  # after the import, which sets them to INFO
    file = database_file(uri)
    try:
        if file is not None:
            _prepare(file, lock_file(uri, file), artifacts)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # whatever the backend raises, the user needs one line
        raise InputError(
            f"MLflow tracking URI {without_password(uri)!r} does not answer ({brief(error)}); start the server, "
            "move a file that is no database out of the way, or leave --tracking-uri out to use one in the store"
        ) from error
    return client


def _prepare(file: Path, lock: Path, artifacts: str) -> None:
    """Make a database aside, where there is no whole one, and rename it: a kill leaves it whole or absent."""
    with file_lock(lock, wait=True):
        for left in file.parent.glob(f"{file.name}.[0-9]*.part*"):  # of dead processes, as a living one has the lock
            left.unlink(missing_ok=True)
        if file.exists():
            if not _is_half_made(file):
                return
            _log.warning("MLflow's database %s was never finished, and is empty; moved to %s.broken", file, file.name)
            file.replace(f"{file}.broken")
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            SqlAlchemyStore(f"sqlite:///{part}", artifacts).engine.dispose()
            part.replace(file)
        finally:
            for left in file.parent.glob(f"{part.name}*"):  # with its journal, if it could not be made
                left.unlink(missing_ok=True)


def _is_half_made(file: Path) -> bool:
    """Whether MLflow was killed while it made this database: it has no experiment, so no run is lost."""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        needed = ("alembic_version", "experiments")
        whole = all(t in tables and database.execute(f"SELECT 1 FROM {t} LIMIT 1").fetchone() for t in needed)
    others = tables and tables.isdisjoint({"experiments", "runs"})  # a database of another program
    return not whole and not others


def is_refusal(error: Exception) -> bool:
    """Whether the fault lies with what was sent, so that sending it again is no use."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return str(error.error_code) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
    return isinstance(error, ValueError | KeyError | TypeError)  # of a record that is damaged or of another version


def brief(error: Exception) -> str:
    """Why something failed, in a line without a password."""
    return without_password(reason(error))
