"""What killed runs leave behind: temporary folders, with processes of Ray that still write there, and locks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

from persim.storage import owners
from sweeps.engine.lock import file_lock

PREFIX = "persim-ray-"
_OWNER = "owner"


def own(folder: Path) -> None:
    """Write down which process a folder of Ray belongs to."""
    (folder / _OWNER).write_text(owners.mark())


def remove_temporary() -> None:
    """Remove temporary folders whose owner is dead, after the processes that still have files in them."""
    for folder in Path(tempfile.gettempdir()).glob("persim-*"):
        with contextlib.suppress(OSError, UnicodeDecodeError):  # another process was quicker; or it is just being made
            # The paths of Ray's sockets have no room for a mark.
            if owners.is_left((folder / _OWNER).read_text() if folder.name.startswith(PREFIX) else folder.name):
                remove(folder)


def remove(folder: Path) -> None:
    """End the other processes that have files open in a folder of Ray, and remove it."""
    for pid in _with_files_in(folder):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _with_files_in(folder: Path) -> list[int]:
    """The other processes of this user that have files open below a folder (on Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            files = [link.readlink() for link in (process / "fd").iterdir()]
            if int(process.name) != os.getpid() and any(folder in file.parents for file in files):
                found.append(int(process.name))
    return found


def remove_locks(folder: Path) -> None:
    """Remove the lock files of a store that no process holds."""
    for path in folder.glob("*.lock"):
        with contextlib.suppress(OSError), file_lock(path, wait=False):
            pass  # leaving it removes the file
