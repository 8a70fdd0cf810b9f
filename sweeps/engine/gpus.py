"""Decide where work that gains from a GPU runs; a cluster that grows is asked for one, and waited for."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from sweeps.grid.devices import settled

_BEYOND = 4  # tasks asked for beyond what the cluster has, so that an autoscaler sees the demand
_PATIENCE_SECONDS = 30.0  # an autoscaler that can help says so within a few rounds, of five seconds each
_POLL_SECONDS = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """Say what tasks ask the running Ray for.

    Attributes:
        device: of tasks that gain from a GPU, ``cpu`` or ``cuda``.
        gpu_share: of one GPU for each of these, so that several share it.
        grows_cpus: whether to ask for more CPUs than there are, so that an autoscaler adds machines.
        grows_gpus: the same for GPUs.
    """

    device: str = "cpu"
    gpu_share: float = 0.2
    grows_cpus: bool = False
    grows_gpus: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace, asked: str) -> Workers:
        """Settle the device; on a cluster without a GPU, ask for one and wait as long as a machine is on its way.

        Args:
            args: with the options of ``sweeps.grid.devices``, and ``address``.
            asked: the device, ``cpu`` where nothing gains from another.

        Raises:
            InputError: ``cuda`` was asked for, and there is no GPU and none comes.
        """
        cluster = args.address is not None
        found = asked != "cpu" and bool(_gpus() or (cluster and _comes(args.gpu_share)))
        device = settled(asked, found, cluster=cluster)
        return cls(device, args.gpu_share, cluster and args.autoscale, cluster)

    def on_gpu(self, gains: bool) -> bool:
        """Whether a task that gains from a GPU, or does not, is given one."""
        return gains and self.device != "cpu"

    def room(self, gpu: bool) -> int:
        """How many tasks of a kind to have at a time: what the cluster could run now, and some more if it grows."""
        there = ray.cluster_resources()
        room = int(there.get("GPU", 0) / self.gpu_share + 1e-9) if gpu else int(there.get("CPU", 1))
        return room + _BEYOND if self.grows(gpu) else room

    def grows(self, gpu: bool) -> bool:
        """Whether to ask for more of a kind than there is."""
        return self.grows_gpus if gpu else self.grows_cpus


def usable(device: str) -> str:
    """The device on this machine: ``cpu``, with a warning, if torch finds no GPU where Ray counts one."""
    import torch

    if device == "cpu" or torch.cuda.is_available():
        return device
    _log.warning("a machine has a GPU by Ray's count, but torch cannot use it: its tasks run on the CPU")
    return "cpu"


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def _nothing() -> None:
    """The task that asks for a GPU."""


def _comes(gpu_share: float) -> bool:
    """Ask for a GPU by a task that wants one; whether it came."""
    print("no GPU in the cluster yet; asked for one (`ray status` shows what comes)", file=sys.stderr)
    asking = ray.remote(max_retries=0)(_nothing).options(num_cpus=1, num_gpus=gpu_share).remote()
    end = time.monotonic() + _PATIENCE_SECONDS
    try:
        while time.monotonic() < end and not _gpus():
            coming, refused = _autoscaler_says()
            if refused:
                break
            if coming:
                end = time.monotonic() + _PATIENCE_SECONDS
            time.sleep(_POLL_SECONDS)
        return _gpus() > 0
    finally:
        ray.cancel(asking)


def _autoscaler_says() -> tuple[bool, bool]:
    """Whether a machine is on its way, and whether no machine that the cluster may start has a GPU.

    What ``ray status`` shows, of Ray's newer autoscaler and of the older one, which never says the second. Ray has no
    public call for it: should these change, nothing is known, and only the patience counts.
    """
    with suppress(Exception):
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
        from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
        from ray.experimental.internal_kv import _internal_kv_get

        reply = GetClusterStatusReply()
        reply.ParseFromString(GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=5))
        new = reply.autoscaling_state
        older: dict[str, Any] = (
            json.loads(_internal_kv_get("__autoscaling_status") or "{}").get("autoscaler_report") or {}
        )
        coming = [*new.pending_instance_requests, *new.pending_instances]
        coming += [*older.get("pending_launches", ()), *older.get("pending_nodes", ())]
        refused = any(request.resources_bundle.get("GPU") for request in new.infeasible_resource_requests)
        return bool(coming), refused
    return False, False
