"""Read and write files that are whole or absent: written aside and renamed, checked when read, never pickled.

Arrays are stored in safetensors files whose header has the settings (JSON) and a checksum; records are stored in
JSON files with a checksum. Paths are local, or those of ``store_path`` in an object store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as _tensors_from_bytes
from safetensors.numpy import save as _tensors_to_bytes

from persim.errors import InputError
from persim.storage import contents, files
from persim.storage import objects as remote

prepare_files, prepare_folder, prepare_folders = files.prepare_files, files.prepare_folder, files.prepare_folders
write_atomic, regular, STORE = files.write_atomic, files.regular, files.STORE
build, contents_of, parse_json = contents.build, contents.contents_of, contents.parse_json
is_remote, local_copy, reach, store_path = remote.is_remote, remote.local_copy, remote.reach, remote.store_path

FORMAT_VERSION = 1

Arrays = dict[str, NDArray[Any]]


def canonical_json(value: object) -> str:
    """Write JSON with sorted keys and no spaces, so that equal settings give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def settings_hash(settings: Mapping[str, object]) -> str:
    """Hash settings to twelve hexadecimal digits, which serve as their name."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:12]


def content_hash(arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, object]) -> str:
    """Compute the SHA-256 over the settings and the names, types, shapes and bytes of arrays ``[...]``."""
    digest = hashlib.sha256(canonical_json(settings).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], kind: str, settings: Mapping[str, object]) -> str:
    """Write numeric or boolean arrays of any shape ``[...]`` with their settings and return the content hash.

    The file is by convention ``*.safetensors``, and ``read_arrays`` checks its kind, such as ``"trajectories"``. The
    settings are values that JSON can represent.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    checksum = content_hash(arrays, settings)
    header = {"kind": kind, "version": str(FORMAT_VERSION), "settings": canonical_json(settings), "sha256": checksum}
    write_atomic(path, _tensors_to_bytes(arrays, metadata=header))
    return checksum


def _header(path: Path, data: bytes) -> dict[str, str]:
    """Parse the metadata of a safetensors file: an 8-byte length, then JSON with ``__metadata__``."""
    try:
        size = int.from_bytes(data[:8], "little")
        metadata = parse_json(data[8 : 8 + size])["__metadata__"]
        return {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header cannot be read") from error


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{str(path)!r} is damaged or not PerSim's: {why}; if PerSim wrote it, delete it and run again")


def _check_kind(path: Path, found: object, version: object, kind: str) -> None:
    if found != kind:
        raise InputError(f"{str(path)!r} holds {found!r}, but {kind!r} is wanted; give such a file")
    if str(version) != str(FORMAT_VERSION):
        read = f"this program reads {FORMAT_VERSION}; use the one that wrote it, or write it again"
        raise InputError(f"{str(path)!r} has format version {version}, but {read}")


def _read_bytes(path: Path, kind: str) -> bytes:
    try:
        return remote.fetch(path) if is_remote(path) else path.read_bytes()
    except Exception as error:  # OSError, or an exception of the object store's package
        why = "No such file or directory" if isinstance(error, FileNotFoundError) else remote.reason(error)
        raise InputError(f"{kind} file {str(path)!r} cannot be read ({why}); give an existing file") from error


def read_arrays(path: Path, kind: str) -> tuple[Arrays, dict[str, Any]]:
    """Read the named arrays ``[...]`` and the settings that ``write_arrays`` wrote.

    Raises:
        InputError: the file is missing, of another kind or version, truncated or changed, or a value is not finite.
    """
    data = _read_bytes(path, kind)
    header = _header(path, data)
    _check_kind(path, header.get("kind"), header.get("version"), kind)
    try:
        arrays: Arrays = _tensors_from_bytes(data)
        settings: dict[str, Any] = parse_json(header["settings"])
        fits = isinstance(settings, dict) and content_hash(arrays, settings) == header.get("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, "it is truncated or incomplete") from error
    if not fits:
        raise _damaged(path, "its checksum does not match its contents")
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise InputError(f"{str(path)!r} holds a non-finite value in {name!r}; delete it, then run again")
    return arrays, settings


def write_record(path: Path, kind: str, record: Mapping[str, object]) -> None:
    """Write a JSON record with its kind, format version and checksum."""
    body = {"kind": kind, "version": FORMAT_VERSION, "record": record}
    checksum = hashlib.sha256(canonical_json(body).encode()).hexdigest()
    text = json.dumps({**body, "sha256": checksum}, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """Read what ``write_record`` wrote.

    Raises:
        InputError: the file is missing, of another kind or version, truncated or changed.
    """
    data = _read_bytes(path, kind)
    try:
        body = parse_json(data)
        checksum = body.pop("sha256")
        found, version, record = body["kind"], body["version"], body["record"]
        fits = hashlib.sha256(canonical_json(body).encode()).hexdigest() == checksum
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(path, "it is truncated or not a record") from error
    _check_kind(path, found, version, kind)
    if not fits or not isinstance(record, dict):
        raise _damaged(path, "its checksum does not match its contents")
    return record
