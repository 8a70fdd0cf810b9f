"""Who owns a file that is to go again: its name says which process made it, so that a later one can tell it is dead."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from functools import cache
from pathlib import Path

_MARK = re.compile(r"([0-9a-f]{12})-(\d+)-(\d+)-[0-9a-f]{8}")


@cache
def place() -> str:
    """Names the set of processes that this one can see: the machine since its start, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return hashlib.sha256(f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}".encode()).hexdigest()[:12]
    except OSError:
        return secrets.token_hex(6)  # not Linux: equal to no other


def mark() -> str:
    """A new part of a file name that says which process it belongs to."""
    pid = os.getpid()
    return f"{place()}-{pid}-{_started(pid)}-{secrets.token_hex(4)}"


def is_left(name: str) -> bool:
    """Whether a file name has the mark of a process of this machine that is no more."""
    found = _MARK.search(name)
    if found is None or found[1] != place():
        return False
    return _started(int(found[2])) != int(found[3])


def is_alive(pid: int) -> bool:
    """Whether a process that this one can see runs."""
    return _started(pid) != 0


def _started(pid: int) -> int:
    """When a process began, in ticks since the machine did; 0 if there is none, or it waits to be buried."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state in "ZX" else int(fields[18])
