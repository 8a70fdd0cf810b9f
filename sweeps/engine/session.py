"""Starting Ray on this machine, or joining a cluster, and leaving nothing behind."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from persim.errors import InputError

_OBJECT_STORE_BYTES = 256 * 2**20
_CONNECT_SECONDS = 5.0


def _prepare_environment(local: bool) -> None:
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_DEDUP_LOGS": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records hold the curves; no CSV and TensorBoard copies
        "TUNE_RESULT_BUFFER_LENGTH": "0",
        "TUNE_WARN_THRESHOLD_S": "60",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if local and "RAY_AUTH_MODE" not in os.environ:
        # Ray's ports are open on every interface: without this token nobody can talk to them, and
        # no token file is left in the home folder.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def check_address(address: str) -> None:
    """Tries to connect to ``host:port``: Ray itself would try for ten minutes.

    Raises:
        InputError: the address has another form, or nothing listens there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> InputError:
    if address is None:
        return InputError(
            f"Ray did not start on this machine ({_brief(error)}); if it is busy, run the command again when it is "
            "less so, or give the --address of a cluster"
        )
    return InputError(
        f"no Ray cluster answers at address {address!r} ({_brief(error)}); "
        "give auto or host:port of a running one, or leave --address out to use this machine"
    )


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:140] if lines else type(error).__name__


def _own_module(env: str) -> list[ModuleType]:
    """The module, or the package around it, of an environment that is no part of this project."""
    module, colon, _ = env.partition(":")
    return [import_module(module.partition(".")[0])] if colon else []


@contextmanager
def ray_session(address: str | None, cpus: int | None = None, env: str = "") -> Iterator[int]:
    """Ray for the length of a ``with`` block; yields the number of CPUs of the cluster.

    Args:
        address: of a running cluster (``auto`` or ``host:port``); None starts Ray on this machine.
        cpus: CPUs of a local Ray; all of the machine by default.
        env: name of the environment: the module of ``module:ATTRIBUTE`` is sent to the workers of a cluster.

    Raises:
        InputError: no cluster answers at the address.
    """
    _prepare_environment(local=address is None)
    import ray

    with tempfile.TemporaryDirectory(prefix="persim-ray-", ignore_cleanup_errors=True) as folder:
        try:
            if address is None:
                ray.init(
                    num_cpus=cpus or os.cpu_count(),
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=str(Path(folder)),
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
            else:
                sent = {"py_modules": own} if (own := _own_module(env)) else {}
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, runtime_env=sent)
        except Exception as error:  # Ray raises a bare Exception where a busy machine is too slow to start it
            ray.shutdown()
            raise _no_cluster(address, error) from error
        try:
            yield int(ray.cluster_resources().get("CPU", 1))
        finally:
            ray.shutdown()
