"""One driver at a time on an object store, where no file can be locked: an object that says who, kept fresh.

The object is made only if there is none. Its holder writes the time into it every 30 seconds; when that is two
minutes old, the holder is taken for dead. A holder of this machine whose process is gone is known to be dead at once.
Clocks of machines that share a store have to agree to within a minute.
"""

from __future__ import annotations

import _thread
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from persim.errors import InputError
from persim.storage import objects as remote

BEAT_SECONDS = 30.0
DEAD_SECONDS = 120.0
_log = logging.getLogger(__name__)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds the lock object for the length of a ``with`` block.

    Raises:
        InputError: another driver holds it, or the store does not take it.
    """
    token = secrets.token_hex(8)
    _take(path, token)
    done = threading.Event()
    beat = threading.Thread(target=_keep, args=(path, token, done), name="store-lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        with suppress(Exception):  # it ends by itself
            if _read(path).get("token") == token:
                path.unlink(missing_ok=True)


def _take(path: Path, token: str) -> None:
    for _ in range(2):  # once more after a dead driver's lock is removed
        try:
            remote.put(path, _content(token), new=True)
        except Exception as error:  # FileExistsError or another, by store
            if not _exists(path):
                raise InputError(f"lock {str(path)!r} cannot be made ({remote.reason(error)})") from error
        holder = _read(path)  # also for a store that knows no exclusive create: the last to write has it
        if holder.get("token") == token:
            return
        if not _dead(holder):
            break
        path.unlink(missing_ok=True)
    raise InputError(
        f"another process is running this sweep in store {str(path.parent.parent)!r} ({_who(holder)}); wait for it, "
        f"or give another --store; if it was killed, wait {DEAD_SECONDS / 60:.0f} minutes, or delete {str(path)!r}"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except Exception:  # a store that cannot even be asked: the caller reports why the lock was not made
        return False


def _read(path: Path) -> dict[str, Any]:
    """What the lock says; nothing if it is gone or not whole."""
    try:
        found = json.loads(remote.fetch(path))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _content(token: str) -> bytes:
    about = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "place": _place(), "time": time.time()}
    return json.dumps(about).encode()


def _place() -> str:
    """Names the set of processes that this one can see: the machine since its start, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return secrets.token_hex(8)  # not Linux: equal to no other


def _dead(holder: dict[str, Any]) -> bool:
    """Whether its process is gone, or it has not been heard of for long."""
    pid = holder.get("pid")
    if holder.get("place") == _place() and isinstance(pid, int) and not Path(f"/proc/{pid}").exists():
        return True
    return time.time() - _time(holder) > DEAD_SECONDS


def _time(holder: dict[str, Any]) -> float:
    value = holder.get("time")
    return float(value) if isinstance(value, int | float) else 0.0


def _who(holder: dict[str, Any]) -> str:
    seconds = max(0.0, time.time() - _time(holder))
    return f"process {holder.get('pid')} on {holder.get('host')}, heard of {seconds:.0f} s ago"


def _keep(path: Path, token: str, done: threading.Event) -> None:
    """Writes the time every now and then; stops the program if another driver has taken over."""
    while not done.wait(BEAT_SECONDS):
        try:
            if _read(path).get("token") == token:
                remote.put(path, _content(token))
                continue
        except Exception as error:
            _log.warning("the lock %s was not renewed (%s)", path, remote.reason(error))
            continue
        _log.error("the lock %s was removed or taken over by another driver; stopping", path)
        _thread.interrupt_main()
        return
