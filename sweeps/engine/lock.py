"""One driver at a time: a locked file, or on an object store, where no file can be locked, an object that says who.

The object is made only if there is none, and is kept fresh. Its holder writes the time into it every 30 seconds; when
that is two minutes old, the holder is taken for dead. A holder of this machine whose process is gone is known to be
dead at once.
Clocks of machines that share a store have to agree to within a minute.
"""

from __future__ import annotations

import _thread
import fcntl
import itertools
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
from persim.storage import owners

BEAT_SECONDS = 30.0
DEAD_SECONDS = 120.0
_TRIES, _TRY_SECONDS = 3, 0.05
_log = logging.getLogger(__name__)


@contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a local lock file for the length of a ``with`` block; it is there only as long as somebody holds it.

    Raises:
        BlockingIOError: another process holds it, and we do not ``wait``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in itertools.count(_TRIES, -1):
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:  # perhaps held for a moment only, by a process that looks for locks of dead ones
                if left <= 0:
                    raise
                time.sleep(_TRY_SECONDS)
                continue
            if not _is_there(path, file.fileno()):  # who held it before has removed it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_there(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


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
    about = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "place": owners.place()}
    return json.dumps({**about, "time": time.time()}).encode()


def _dead(holder: dict[str, Any]) -> bool:
    """Whether its process is gone, or it has not been heard of for long."""
    pid = holder.get("pid")
    if holder.get("place") == owners.place() and isinstance(pid, int) and not owners.is_alive(pid):
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
