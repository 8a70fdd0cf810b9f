"""The one writer of local files: checked early, written aside, renamed and synced; only regular files are replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from persim.errors import InputError
from persim.storage import objects as remote
from persim.storage import owners

STORE = "store"
# Of a store; each is made when something is kept in it.
_FOLDERS = ("cells", "requests", "datasets", "models", "parts", "pieces", "checkpoints", "choices", "locks", "plots",
            "oracle", "studies", "sweeps")  # fmt: skip
_BLOCK = bytes(4096)  # what a folder has to have room for
_OLD_SECONDS = 86_400.0  # no writer takes so long, on whatever machine


def prepare_folder(path: Path, what: str = STORE) -> Path:
    """Create the folder and check that a file can be written in it.

    Raises:
        InputError: the folder cannot be created or written.
    """
    prepare_folders((path, what))
    return path


def prepare_folders(*wanted: tuple[Path, str]) -> None:
    """Prepare several folders, given with their names in messages; if one fails, remove all new ones.

    What killed writers left in them is removed.

    Raises:
        InputError: a folder cannot be created or written.
    """
    local = [path for path, _ in wanted if not remote.is_remote(path)]
    missing = [folder for path in local for folder in (path, *path.parents) if not os.path.lexists(folder)]
    try:
        for path, what in wanted:
            _prove_writable(path, what)
    except InputError:
        for folder in missing:  # innermost first
            with contextlib.suppress(OSError):  # not created after all, or no longer empty
                folder.rmdir()
        raise
    for path, what in wanted:
        if not remote.is_remote(path):
            _remove_left(path, whole=what == STORE)


def prepare_files(option: str, *paths: Path, also: Sequence[tuple[Path, str]] = ()) -> None:
    """Check that files can be written, before anything takes hours, and create their folders and ``also`` those.

    Raises:
        InputError: a folder, device or the like is there, a name is too long, or a folder cannot be written.
    """
    folders = dict.fromkeys(regular(path, option).parent for path in paths if not remote.is_remote(path))
    prepare_folders(*((folder, f"folder of {option}") for folder in folders), *also)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either all of it or what it held before, also if the machine stops.

    Raises:
        InputError: something else than a regular file is there, or the file cannot be written.
    """
    if remote.is_remote(path):
        remote.put(path, data)
        return
    target = regular(path, "file")
    part = target.with_name(f".{owners.mark()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        _sync(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable("file", path, error) from error
        raise


def regular(path: Path, what: str) -> Path:
    """The file that a path leads to, which is a regular one or not there.

    Raises:
        InputError: a folder, device or the like is there, or the name is too long.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise _unwritable(what, path, error) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{what} {str(path)!r} is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{what} {str(path)!r} is a device or the like, which is not replaced; give another name")
    return target


def _prove_writable(path: Path, what: str) -> None:
    if remote.is_remote(path):
        remote.prove_writable(path, what)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(_BLOCK)
            file.flush()
            os.fsync(file.fileno())
        for folder in (path / name for name in _FOLDERS if what == STORE and os.path.lexists(path / name)):
            folder.mkdir(exist_ok=True)  # fails where something else has the name
    except (OSError, ValueError) as error:
        raise _unwritable(what, path, error) from error


def _unwritable(what: str, path: Path, error: Exception) -> InputError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    advice = "free space, or give a folder with write permission"
    return InputError(f"{what} {str(path)!r} cannot be written ({why}); {advice}")


def _sync(folder: Path) -> None:
    """Make the names in a folder last; some file systems cannot."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_left(folder: Path, *, whole: bool) -> None:
    """Remove what killed writers left in a folder; ``whole``: also in the folders of a store."""
    for part in (*folder.glob(".*.part"), *(folder.glob("*/.*.part") if whole else ())):
        with contextlib.suppress(OSError):  # another process was quicker
            if owners.is_left(part.name) or time.time() - part.stat().st_mtime > _OLD_SECONDS:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
