"""Starting Ray on this machine, or joining a cluster, and leaving nothing behind."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from persim.errors import InputError
from sweeps.engine import leftovers

_OBJECT_STORE_BYTES = 256 * 2**20
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 60.0
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Whether a cluster takes us, in a process of its own: Ray would write warnings of its own for two minutes.
_PROBE = """
import sys
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient
GcsClient(address=canonicalize_bootstrap_address_or_die("auto") if sys.argv[1] == "auto" else sys.argv[1])
"""


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
    if local:
        # All ports on 127.0.0.1; without it they are open on every interface. Ray means Windows and macOS.
        os.environ[_CLUSTERS] = "0"
        if "RAY_AUTH_MODE" not in os.environ:  # other users of this machine cannot talk to them without this token
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def check_address(address: str) -> None:
    """Tries to connect to a cluster: Ray itself would try for minutes.

    Raises:
        InputError: the address has another form, nothing listens there, or the cluster does not take us.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if address != "auto":
            with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
                pass
        if not address.startswith("ray://"):
            probe, how = [sys.executable, "-c", _PROBE, address], {"capture_output": True, "text": True}
            subprocess.run(probe, check=True, timeout=_PROBE_SECONDS, **how)  # type: ignore[call-overload]
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.strip()]
        raise _no_cluster(address, RuntimeError(said[-1] if said else "it ended the connection")) from error
    except (OSError, ValueError, OverflowError, subprocess.TimeoutExpired) as error:
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

    ray._private.ray_constants.ENABLE_RAY_CLUSTER = address is not None  # where something has imported it before
    leftovers.remove_temporary()
    with tempfile.TemporaryDirectory(prefix=leftovers.PREFIX, ignore_cleanup_errors=True) as folder:
        leftovers.own(Path(folder))
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
        ended = threading.Event()
        if address is None:
            _watch(ray._private.worker._global_node.all_processes, ended, Path(folder))
        try:
            yield int(ray.cluster_resources().get("CPU", 1))
        finally:
            ended.set()
            ray.shutdown()
            os.environ.pop(_CLUSTERS, None)  # a later session may join a cluster


def _watch(processes: dict[str, Any], ended: threading.Event, folder: Path) -> None:
    """End this process with a line if one that Ray cannot do without ends: Ray would say nothing, or hang."""

    def wait(name: str, process: Any) -> None:
        process.wait()
        if ended.is_set():
            return
        print(f"error: Ray's {name} ended (killed, or too little memory); the same command goes on", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Ray would print the last lines of its logs
        leftovers.remove(folder)
        os._exit(1)

    for name in ("raylet", "gcs_server"):
        for info in processes.get(name, ()):
            threading.Thread(target=wait, args=(name, info.process), daemon=True).start()
