"""A real Ray cluster of several nodes on this machine, for tests: processes of its own for each node, on loopback.

It shows what the loss of a node does. It cannot show partitions of the network, ssh, or paths that only one node has:
``tests/test_ray_up.py`` has machines with an own network and file system.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

# A lost node is noticed in a second or two (by default it takes half a minute). Too twitchy for real clusters.
_FAST = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
_STORE_BYTES = 80 * 2**20


def _prepare_environment() -> None:
    """Settings of all nodes and drivers to come; they stay, as Ray reads them once a process."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_grpc_client_keepalive_time_ms", "3000")
    os.environ.setdefault("RAY_grpc_client_keepalive_timeout_ms", "3000")


class Nodes:
    """A running cluster: a head, and workers that can be added and lost."""

    def __init__(self, cpus: int) -> None:
        from ray.cluster_utils import Cluster

        # Not 127.0.0.1: Ray replaces it by another address of the machine, and waits for ever.
        head = {"num_cpus": cpus, "node_ip_address": "127.0.0.2", "object_store_memory": _STORE_BYTES}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**head, "include_dashboard": False, "_system_config": _FAST}
        )
        self._last = 2
        self.address: str = self._cluster.address
        self.workers: list[Any] = []

    def add(self, cpus: int = 1) -> Any:
        """Starts one more node and waits for it; the handle is what ``remove`` takes."""
        self._last += 1
        node = self._cluster.add_node(
            num_cpus=cpus, node_ip_address=f"127.0.0.{self._last}", object_store_memory=_STORE_BYTES
        )
        self.workers.append(node)
        return node

    def remove(self, node: Any) -> None:
        """Kills the processes of a node, as a crash would."""
        self._cluster.remove_node(node, allow_graceful=False)
        self.workers.remove(node)

    def close(self) -> None:
        """Ends all nodes."""
        self._cluster.shutdown()


@contextmanager
def two_nodes(cpus: int = 1) -> Iterator[Nodes]:
    """A head and one worker with so many CPUs each; nothing is connected to them yet.

    A driver joins by ``ray_session(nodes.address)``, or in a process of its own by ``--address``.
    """
    _prepare_environment()
    import ray

    # Not /tmp/ray, where any other Ray of this machine would find the address and join.
    with (
        tempfile.TemporaryDirectory(prefix="persim-ray-", ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, {"RAY_TMPDIR": folder}),
    ):
        nodes = Nodes(cpus)
        try:
            nodes.add(cpus)
            yield nodes
        finally:
            ray.shutdown()
            nodes.close()
