"""Files that are whole or absent: written aside and renamed, checked when read, never pickled.

Arrays live in safetensors files whose header carries the settings (JSON) and a checksum of the
contents; records live in JSON files with a checksum of theirs. Paths are local, or of ``store_path``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as _tensors_from_bytes
from safetensors.numpy import save as _tensors_to_bytes

from persim.errors import InputError
from persim.storage import objects as remote
from persim.storage.objects import is_remote, local_copy, reach, store_path

__all__ = [
    "Arrays",
    "canonical_json",
    "content_hash",
    "is_remote",
    "local_copy",
    "prepare_folder",
    "prepare_folders",
    "reach",
    "read_arrays",
    "read_record",
    "settings_hash",
    "store_path",
    "write_arrays",
    "write_atomic",
    "write_record",
]

FORMAT_VERSION = 1

Arrays = dict[str, NDArray[Any]]


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal settings give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def settings_hash(settings: Mapping[str, object]) -> str:
    """Twelve hexadecimal digits that name these settings."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:12]


def content_hash(arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, object]) -> str:
    """SHA-256 over names, types, shapes and bytes of the arrays, and the settings."""
    digest = hashlib.sha256(canonical_json(settings).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def prepare_folder(path: Path, what: str = "store") -> Path:
    """Makes the folder and proves that a file can be written in it.

    Raises:
        InputError: it cannot be made or written.
    """
    if is_remote(path):
        remote.prove_writable(path, what)
        return path
    missing = _missing(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        _remove(missing)
        raise InputError(
            f"{what} {str(path)!r} cannot be written ({error.strerror}); give a folder that you can write to"
        ) from error
    return path


def prepare_folders(*wanted: tuple[Path, str]) -> None:
    """``prepare_folder`` for each of these, or for none.

    Raises:
        InputError: one cannot be made or written.
    """
    missing = [folder for path, _ in wanted if not is_remote(path) for folder in _missing(path)]
    try:
        for path, what in wanted:
            prepare_folder(path, what)
    except InputError:
        _remove(missing)
        raise


def _missing(path: Path) -> list[Path]:
    """The folders that ``mkdir(parents=True)`` would make, nearest first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _remove(folders: list[Path]) -> None:
    """Removes those of these folders that are there and empty: leaves no half-made path behind."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def write_atomic(path: Path, data: bytes) -> None:
    """Writes ``data`` so that ``path`` holds either all of it or what it held before."""
    if is_remote(path):
        remote.put(path, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # mkstemp's 0600 would hide it from the others who share the store
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], kind: str, settings: Mapping[str, object]) -> str:
    """Writes arrays with their settings; returns the content hash.

    Args:
        path: the file, by convention ``*.safetensors``.
        arrays: named numeric or boolean arrays.
        kind: what the file is, such as ``"trajectories"``; ``read_arrays`` insists on it.
        settings: anything that JSON can hold.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    checksum = content_hash(arrays, settings)
    header = {
        "kind": kind,
        "version": str(FORMAT_VERSION),
        "settings": canonical_json(settings),
        "sha256": checksum,
    }
    write_atomic(path, _tensors_to_bytes(arrays, metadata=header))
    return checksum


def _header(path: Path, data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: an 8-byte length, then JSON with ``__metadata__``."""
    try:
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        return {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header cannot be read") from error


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{str(path)!r} is damaged, or not of PerSim: {why}; if PerSim wrote it, delete it and run again")


def _read_bytes(path: Path, kind: str) -> bytes:
    try:
        return remote.fetch(path) if is_remote(path) else path.read_bytes()
    except FileNotFoundError as error:
        raise _unread(path, kind, "No such file or directory") from error
    except Exception as error:  # an OSError, or whatever an object store's package raises
        raise _unread(path, kind, remote.reason(error)) from error


def _unread(path: Path, kind: str, why: str) -> InputError:
    return InputError(f"{kind} file {str(path)!r} cannot be read ({why}); give the path of an existing file")


def read_arrays(path: Path, kind: str) -> tuple[Arrays, dict[str, Any]]:
    """Reads what ``write_arrays`` wrote.

    Returns:
        The arrays by name, and the settings.

    Raises:
        InputError: the file is missing, of another kind or version, truncated, changed, or holds
            a value that is not finite.
    """
    data = _read_bytes(path, kind)
    header = _header(path, data)
    if header.get("kind") != kind:
        raise InputError(f"{str(path)!r} holds {header.get('kind')!r}, but {kind!r} is wanted; give another file")
    if header.get("version") != str(FORMAT_VERSION):
        raise InputError(
            f"{str(path)!r} has format version {header.get('version')}, this program reads {FORMAT_VERSION}; "
            "use the program version that wrote it, or make the file anew"
        )
    try:
        arrays: Arrays = _tensors_from_bytes(data)
        settings: dict[str, Any] = json.loads(header["settings"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, "it is truncated or not whole") from error
    if content_hash(arrays, settings) != header.get("sha256"):
        raise _damaged(path, "its checksum does not match its contents")
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise InputError(f"{str(path)!r} holds a non-finite value in {name!r}; delete it, then run again")
    return arrays, settings


def write_record(path: Path, kind: str, record: Mapping[str, object]) -> None:
    """Writes a JSON record with its kind, format version and checksum."""
    body = {"kind": kind, "version": FORMAT_VERSION, "record": record}
    checksum = hashlib.sha256(canonical_json(body).encode()).hexdigest()
    text = json.dumps({**body, "sha256": checksum}, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """Reads what ``write_record`` wrote.

    Raises:
        InputError: the file is missing, of another kind or version, truncated or changed.
    """
    data = _read_bytes(path, kind)
    try:
        body = json.loads(data)
        checksum = body.pop("sha256")
        found, version, record = body["kind"], body["version"], body["record"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(path, "it is truncated or not a record") from error
    if found != kind or version != FORMAT_VERSION:
        raise InputError(
            f"{str(path)!r} holds {found!r} version {version}, but {kind!r} version {FORMAT_VERSION} is wanted; "
            "give another store"
        )
    if hashlib.sha256(canonical_json(body).encode()).hexdigest() != checksum:
        raise _damaged(path, "its checksum does not match its contents")
    return dict(record)
