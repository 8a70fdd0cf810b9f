"""Starting Ray on this machine, or joining a cluster, and leaving nothing behind."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from persim.errors import InputError

_OBJECT_STORE_BYTES = 256 * 2**20


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


@contextmanager
def ray_session(address: str | None, cpus: int | None = None) -> Iterator[int]:
    """Ray for the length of a ``with`` block; yields the number of CPUs of the cluster.

    Args:
        address: of a running cluster (``auto`` or ``host:port``); None starts Ray on this machine.
        cpus: CPUs of a local Ray; all of the machine by default.

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
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster answers at address {address!r} ({str(error).splitlines()[0]}); "
                "give auto or host:port of a running one, or leave --address out to use this machine"
            ) from error
        try:
            yield int(ray.cluster_resources().get("CPU", 1))
        finally:
            ray.shutdown()
