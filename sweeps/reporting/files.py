"""Several files that change together: all written aside first, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from persim.errors import InputError
from persim.storage import store

_FIGURES = "figures"


def write_all(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes files below a folder, and removes pictures of an earlier report that this one has not.

    Until all of them are whole on the disk nothing that was there is touched.

    Raises:
        InputError: the folder cannot be written.
    """
    store.prepare_folder(out, "out")
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".report.", suffix=".part") as aside:
            for name, data in files.items():
                store.write_atomic(Path(aside) / name, data)
            for name in files:
                (out / name).parent.mkdir(exist_ok=True)
                (Path(aside) / name).replace(out / name)
        _remove_old(out, files)
    except OSError as error:
        raise InputError(
            f"out {str(out)!r} cannot be written ({error.strerror}); free space or give a folder that you can write to"
        ) from error


def _remove_old(out: Path, files: Mapping[str, bytes]) -> None:
    for path in sorted((out / _FIGURES).glob("*.svg")):
        if f"{_FIGURES}/{path.name}" not in files:
            path.unlink()
    if not any((out / _FIGURES).glob("*")):
        shutil.rmtree(out / _FIGURES, ignore_errors=True)
