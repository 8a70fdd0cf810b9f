"""The options of the commands that can use a GPU."""

from __future__ import annotations

import argparse
import logging

from persim import console
from persim.errors import InputError, check_choice

MOST_CPUS = 1024  # of one machine; Ray starts a process for each
DEVICES = ("cpu", "cuda", "auto")
_log = logging.getLogger(__name__)


def add_device_options(p: console.Parser) -> None:
    """Add the device, and how a cluster is asked for it."""
    about = "of training and planning: cpu, cuda, or auto: a GPU if there is one, or the cluster starts one (cpu)"
    p.add_argument("--device", default="cpu", help=about)
    p.add_argument("--gpu-share", type=float, default=0.2, help="of one GPU for a task; five share it (0.2)")
    p.add_argument("--autoscale", action="store_true", help="the cluster adds machines: ask for more CPUs than it has")


def check_device_options(args: argparse.Namespace) -> None:
    """Check the options above.

    Raises:
        InputError: a device is unknown, or not here and no cluster is named; or a share is out of range.
    """
    if check_choice("device", args.device, DEVICES) == "cuda" and args.address is None:
        import torch  # takes seconds, and only this option needs it

        settled(args.device, torch.cuda.is_available())
    if not 0 < args.gpu_share <= 1:
        raise InputError(f"gpu-share is {args.gpu_share}, but it has to be above 0 and at most 1")


def settled(asked: str, found: bool, *, cluster: bool = False) -> str:
    """The device, ``cpu`` or ``cuda``, once it is known whether there is a GPU, here or in a cluster.

    Raises:
        InputError: ``cuda`` was asked for, and there is no GPU.
    """
    if found and asked != "cpu":
        return "cuda"
    where = "in the cluster, and none comes" if cluster else "on this machine"
    if asked == "cuda":
        more = ", or add a machine type with a GPU to the cluster (docs/cluster.md)" if cluster else ""
        raise InputError(f"device 'cuda' was asked for, but there is no GPU {where}; give --device cpu or auto{more}")
    if asked == "auto" and cluster:
        _log.warning("there is no GPU %s; everything runs on CPUs", where)
    return "cpu"
