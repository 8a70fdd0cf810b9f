"""Helpers that every command of the project shares: one-line errors, exit statuses, number lists."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from persim import __version__
from persim.errors import LARGEST_SEED, InputError, without_password
from persim.storage.objects import store_path

UNFORESEEN = 70  # the exit status of an error that nobody thought of; EX_SOFTWARE of sysexits.h
_LONGEST = 1000  # characters of a message
# What the machine refuses: the user can mend it, and no traceback helps.
_FORESEEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
_FORESEEN |= {errno.EISDIR, errno.ENOTDIR, errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.EIO}
_doing = ""


def doing(what: str) -> None:
    """Note what the command does from now on; the line of an unforeseen error says it."""
    global _doing
    _doing = what


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with exit status 2, and whose numbers are finite."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]  # argparse checks them
        self.register("type", int, whole)
        self.register("type", float, finite)

    def error(self, message: str) -> NoReturn:
        """Ends the program; ``message`` is argparse's."""
        self.exit(2, f"{self.prog}: error: {line(message)}; see {self.prog} --help\n")


def whole(text: str) -> int:
    """A whole number that fits into 64 bits, for argparse.

    Raises:
        argparse.ArgumentTypeError: something else was given.
    """
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
    if abs(number) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is too large; give a number of at most 2^63 - 1")
    return number


def finite(text: str) -> float:
    """A finite number, for argparse.

    Raises:
        argparse.ArgumentTypeError: something else was given.
    """
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
    if not abs(number) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no finite number")
    return number


def numbers(text: str) -> tuple[int, ...]:
    """``"3,5,10"`` as whole numbers, for argparse.

    Raises:
        argparse.ArgumentTypeError: something else was given.
    """
    try:
        return tuple(whole(part) for part in text.split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 3,5,10") from error


def store(text: str) -> Path:
    """A folder, or the URL of an object store, for argparse.

    Raises:
        argparse.ArgumentTypeError: the URL cannot be used.
    """
    try:
        return store_path(text)
    except InputError as error:  # a ValueError, whose text argparse would drop
        raise argparse.ArgumentTypeError(str(error)) from error


def folder(text: str) -> Path:
    """A local folder, for argparse.

    Raises:
        argparse.ArgumentTypeError: it is the URL of an object store.
    """
    path = store(text)
    if not isinstance(path, Path):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder, and this command cannot do without one")
    return path


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Lay out rows of cells under their heads, two spaces between columns.

    The first ``left`` columns are aligned to the left, the others to the right.
    """
    columns = []
    for place, cells in enumerate(zip(heads, *rows, strict=True)):
        width = max(map(len, cells))
        columns.append([cell.ljust(width) if place < left else cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def line(text: str) -> str:
    """A message as one line that a terminal can show: without passwords, control characters and endless names."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(without_password(text).split()))
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST // 2]} ... {shown[-_LONGEST // 2 :]}"


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status; whatever goes wrong becomes one line.

    Bad input, and what the machine refuses, such as a full disk: status 2. Ctrl-C: 130. A reader of the output that
    has gone: 1. An error that nobody thought of: 70, and the traceback goes to a file that the line names.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    words = sys.argv[1:] if argv is None else list(argv)
    command = [word for word in words[:1] if not word.startswith("-")]
    doing(" ".join([Path(sys.argv[0]).name, *command]))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal or file that knows ASCII only gets \xb1 for ±
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main(argv)
        print(end="", flush=True)  # here, where what cannot be written has a line of its own
        return status
    except InputError as error:
        return _said(f"error: {line(str(error))}", 2)
    except KeyboardInterrupt:
        return _said("\ninterrupted; the same command goes on where this one stopped", 130)
    except BrokenPipeError:  # of head, say: what it did not read is lost
        return 1
    except Exception as error:
        foreseen = getattr(error, "errno", None) in _FORESEEN
        return _said(_refused(error), 2) if foreseen else _said(_unforeseen(error, words), UNFORESEEN)
    finally:
        _drop_unwritten()


def _said(message: str, status: int) -> int:
    if sys.stderr is not None:
        print(message, file=sys.stderr)
    return status


def _refused(error: Exception) -> str:
    where = getattr(error, "filename", None)
    return line(
        f"error: {getattr(error, 'strerror', error)}{f': {where}' if where else ''}; free space, or give another place"
    )


def _unforeseen(error: Exception, words: Sequence[str]) -> str:
    """Write the traceback into a file, and say in one line what was being done, what went wrong and where it is."""
    command = shlex.join([Path(sys.argv[0]).name, *words])
    what = line(f"{type(error).__name__}: {error}")
    lines = [f"persim {__version__}: {command}", f"while doing: {_doing}", *traceback.format_exception(error)]
    try:
        handle, name = tempfile.mkstemp(prefix="persim-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(without_password("\n".join(lines)))
    except OSError as failure:
        name = f"nowhere, as it cannot be written ({failure.strerror})"
    return f"error: {line(_doing)}: nobody foresaw {what}; the traceback is in {name}"


def _drop_unwritten() -> None:
    """Write out what was printed; where it cannot be, drop it, so that Python does not complain at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # the reader is gone or the disk is full; or the stream was closed
            with open(os.devnull, "wb") as nothing:  # noqa: PTH123 (of a descriptor)
                os.dup2(nothing.fileno(), stream.fileno())
