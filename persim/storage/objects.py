"""Object stores behind fsspec URLs, as paths with the methods of ``pathlib.Path``.

An object is written whole or not at all, so nothing has to be renamed. ``upath`` is imported for remote paths only.
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
from persim.storage.owners import mark

# The package of each protocol. Writing an object has to be atomic, which excludes file servers (sftp).
_NEEDS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_NEEDS |= {"memory": "fsspec"}
_EXTRAS = {"s3fs": "persim[s3]", "fsspec": "persim"}  # what to install instead of the package itself


def store_path(text: str) -> Path:
    """Turn the name of a folder or the URL of an object store into a path, without reading or writing there.

    Raises:
        InputError: the protocol is unknown, its package is missing, or the URL names no bucket.
    """
    protocol, separator, place = text.partition("://")
    if not separator:
        return Path(text)
    if protocol in ("file", "local"):
        return Path("/" + place.lstrip("/"))
    if protocol not in _NEEDS:
        allowed = f"give a folder, or a URL that begins with one of: file, {', '.join(_NEEDS)}"
        raise InputError(f"store {text!r} has an unknown protocol{nearest(protocol, _NEEDS)}; {allowed}")
    package = _NEEDS[protocol]
    for needed in ("upath", package):
        if find_spec(needed) is None:
            missing = f"needs the package {needed}, which is missing"
            raise InputError(f"store {text!r} {missing}; pip install '{_EXTRAS.get(package, package)}'")
    place = place.rstrip("/")
    if not place or place.startswith("/"):
        raise InputError(f"store {text!r} names no bucket; give {protocol}://BUCKET/PREFIX")
    from upath import UPath

    # It has all methods of Path that are used on a store. Listings are not cached: other machines write there, too.
    return UPath(f"{protocol}://{place}", use_listings_cache=False)  # type: ignore[no-any-return]  # UPath is untyped


def is_remote(path: Path) -> bool:
    """Tell whether a path of ``store_path`` lies in an object store."""
    return not isinstance(path, Path)


def put(path: Any, data: bytes, *, new: bool = False) -> None:
    """Write a whole object; with ``new``, fail if it exists already (where the store supports that)."""
    path.fs.pipe_file(path.path, data, mode="create" if new else "overwrite")


def fetch(path: Any) -> bytes:
    """Read the whole object in one request."""
    return bytes(path.fs.cat_file(path.path))


def reason(error: Exception) -> str:
    """Say in one line why a store failed; every cloud has its own exceptions."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def reach(root: Path) -> None:
    """Check that an object store can be read, before any work begins; do nothing for a folder.

    Raises:
        InputError: the store does not answer or refuses access.
    """
    if is_remote(root):
        try:
            (root / "cells").exists()
        except Exception as error:  # every store's package raises its own
            raise _unusable(root, "store", "read", error) from error


def prove_writable(root: Path, what: str) -> None:
    """Check that an object can be written and deleted.

    Raises:
        InputError: writing or deleting failed.
    """
    probe = root / f".probe-{secrets.token_hex(6)}"
    try:
        put(probe, b"")
        probe.unlink(missing_ok=True)
    except Exception as error:  # as in reach
        raise _unusable(root, what, "written", error) from error


def _unusable(root: Path, what: str, verb: str, error: Exception) -> InputError:
    advice = "make the bucket, check the credentials and the endpoint, or give another store"
    return InputError(f"{what} {str(root)!r} cannot be {verb} ({reason(error)}); {advice}")


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield the local file itself, or a temporary copy of the object with the same name."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=f"persim-{mark()}-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(fetch(path))
        yield copy
