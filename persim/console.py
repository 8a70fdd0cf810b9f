"""Helpers that every command of the project shares: one-line errors, exit statuses, number lists."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from persim.errors import InputError
from persim.storage.objects import store_path


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with exit status 2."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]  # argparse checks them

    def error(self, message: str) -> NoReturn:
        """Ends the program; ``message`` is argparse's."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def numbers(text: str) -> tuple[int, ...]:
    """``"3,5,10"`` as whole numbers, for argparse.

    Raises:
        argparse.ArgumentTypeError: something else was given.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
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


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Runs a command; bad input becomes one line and status 2, Ctrl-C status 130."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return main(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
