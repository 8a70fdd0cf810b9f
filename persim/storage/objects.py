"""Stores that are no folders: object stores behind fsspec URLs, as paths with the methods of ``pathlib.Path``.

An object is put whole or not at all, so nothing is renamed. Nothing here is imported, nor ``upath``, for local paths.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from persim.errors import InputError, nearest

# Protocol -> package, and how to install it. Only stores whose put is atomic: a file server (sftp) is none.
_NEEDS = {
    "s3": ("s3fs", "persim[s3]"),
    "s3a": ("s3fs", "persim[s3]"),
    "gs": ("gcsfs", "gcsfs"),
    "gcs": ("gcsfs", "gcsfs"),
    "az": ("adlfs", "adlfs"),
    "abfs": ("adlfs", "adlfs"),
    "memory": ("fsspec", "persim"),
}


def store_path(text: str) -> Path:
    """A folder, or the place in an object store that a URL names; nothing is read or written.

    Raises:
        InputError: the protocol is unknown, its package is missing, or no bucket is named.
    """
    protocol, separator, place = text.partition("://")
    if not separator:
        return Path(text)
    if protocol in ("file", "local"):
        return Path("/" + place.lstrip("/"))
    if protocol not in _NEEDS:
        raise InputError(
            f"store {text!r} has a protocol that is unknown{nearest(protocol, _NEEDS)}; "
            f"give a folder, or a URL that begins with one of: file, {', '.join(_NEEDS)}"
        )
    package, install = _NEEDS[protocol]
    for needed in ("upath", package):
        if find_spec(needed) is None:
            raise InputError(f"store {text!r} needs the package {needed}, which is missing; pip install '{install}'")
    place = place.rstrip("/")
    if not place or place.startswith("/"):
        raise InputError(f"store {text!r} names no bucket; give {protocol}://BUCKET/PREFIX")
    from upath import UPath

    # Listings are not cached: what another machine has just written has to be seen.
    path: Any = UPath(f"{protocol}://{place}", use_listings_cache=False)
    return path  # type: ignore[no-any-return]  # it has the methods of a Path that stores use


def is_remote(path: Path) -> bool:
    """Whether a path of ``store_path`` lies in an object store."""
    return not isinstance(path, Path)


def put(path: Path, data: bytes, *, new: bool = False) -> None:
    """Writes a whole object; with ``new``, fails if there is one already (where the store supports that)."""
    there: Any = path
    there.fs.pipe_file(there.path, data, mode="create" if new else "overwrite")


def fetch(path: Path) -> bytes:
    """The whole object, in one request."""
    there: Any = path
    data: bytes = there.fs.cat_file(there.path)
    return data


def reason(error: Exception) -> str:
    """Why a store failed, in a line; clouds have exceptions of their own."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def reach(root: Path) -> None:
    """Asks an object store for one object, before anything is begun; a folder is left alone.

    Raises:
        InputError: it does not answer or refuses.
    """
    if is_remote(root):
        try:
            (root / "cells").exists()
        except Exception as error:  # whatever the store's package raises, the user needs one line
            raise _unusable(root, "store", "read", error) from error


def prove_writable(root: Path, what: str) -> None:
    """Writes an object and deletes it.

    Raises:
        InputError: one of them failed.
    """
    probe = root / f".probe-{secrets.token_hex(6)}"
    try:
        put(probe, b"")
        probe.unlink(missing_ok=True)
    except Exception as error:  # as in reach
        raise _unusable(root, what, "written", error) from error


def _unusable(root: Path, what: str, verb: str, error: Exception) -> InputError:
    return InputError(
        f"{what} {str(root)!r} cannot be {verb} ({reason(error)}); "
        "make the bucket, check the credentials and the endpoint, or give another store"
    )


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """The file itself, or a copy of the object under the same name, for what can only read files."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="persim-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(fetch(path))
        yield copy
