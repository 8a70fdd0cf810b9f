"""Write several files as one change: all of them into a folder aside first, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from persim.errors import InputError
from persim.storage import store

_FIGURES = "figures"


def write_all(out: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a report below a folder, and remove the pictures of an earlier report.

    Nothing that was there is touched until all new files are complete on the disk.

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
        for path in list((out / _FIGURES).glob("*.svg")):
            if f"{_FIGURES}/{path.name}" not in files:
                path.unlink()
        if not any((out / _FIGURES).glob("*")):
            shutil.rmtree(out / _FIGURES, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"out {str(out)!r} cannot be written ({error.strerror}); free space or give a folder that you can write to"
        ) from error
