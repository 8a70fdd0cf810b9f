"""A real Ray cluster of several nodes on this machine, for tests: processes of its own for each node, on loopback.

It shows what the loss of a node does. It cannot show partitions of the network, ssh, or paths that only one node has:
``tests/test_ray_up.py`` has machines with an own network and file system.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
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


# What Ray's AutoscalingCluster writes; that class ends *every* Ray of the machine first, and lacks a file in the wheel.
_FAKE_PROVIDER = {
    "type": "external",
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "use_node_id_as_ip": True,  # as all nodes share one address
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
}


@contextmanager
def growing(worker: Mapping[str, int], *, newer: bool = False) -> Iterator[str]:
    """A head of one CPU whose autoscaler starts up to two workers with these resources on demand; yields the address.

    An idle worker goes after six seconds. The newer of Ray's autoscalers is that of ``ray up`` and KubeRay.
    """
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    _prepare_environment()
    address = f"127.0.0.2:{_free_port()}"
    sizes = {"object_store_memory": _STORE_BYTES}
    config = {
        **{f"{part}setup_commands": [] for part in ("", "head_", "worker_")}, "initialization_commands": [],
        "head_start_ray_commands": [], "worker_start_ray_commands": [], "file_mounts": {}, "cluster_synced_files": [],
        "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [], "auth": {}, "docker": {},
        "upscaling_speed": 1.0,
        "cluster_name": "growing", "max_workers": 2, "idle_timeout_minutes": 0.1, "head_node_type": "ray.head.default",
        "provider": {**_FAKE_PROVIDER, "gcs_address": address, "launch_multiple": newer},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {**worker, **sizes}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }  # fmt: skip
    v2 = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
          "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}  # fmt: skip
    host, _, port = address.partition(":")
    with tempfile.TemporaryDirectory(prefix="persim-ray-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "cluster.json").write_text(json.dumps(config))
        own = {"RAY_TMPDIR": folder, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--node-ip-address={host}",
            f"--port={port}", "--num-cpus=1", "--include-dashboard=false", f"--object-store-memory={_STORE_BYTES}",
            f"--autoscaling-config={folder}/cluster.json",
        ]  # fmt: skip
        with (Path(folder) / "log").open("wb") as log:
            env = {**os.environ, **own, **(v2 if newer else {})}
            head = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(head, "Ray runtime started", Path(folder) / "log")
            yield address
        finally:
            head.terminate()
            with suppress(subprocess.TimeoutExpired):
                head.wait(30)
            _end_all(folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return int(probe.getsockname()[1])


def _wait_for(process: subprocess.Popen[bytes], text: str, log: Path) -> None:
    end = time.monotonic() + 180
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


def _end_all(folder: str) -> None:
    """Ends what this cluster has left: nodes that its autoscaler started, known by the folder in their environment."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's process, or one that is gone
            if f"RAY_TMPDIR={folder}".encode() in (path / "environ").read_bytes().split(b"\0"):
                os.kill(int(path.name), signal.SIGKILL)
