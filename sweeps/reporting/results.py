"""What the sections of a report are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from persim.errors import InputError
from sweeps.reporting.blocks import Block, all_blocks
from sweeps.reporting.select import Library

NOTES = "notes.json"


@dataclass(frozen=True)
class Results:
    """Everything that is in a folder of results.

    Attributes:
        library: the finished cells.
        out: the folder, for sections with files of their own.
        notes: remarks by key, from ``notes.json``.
        price: of a core-hour in $, or None.
    """

    library: Library
    out: Path
    notes: Mapping[str, str] = field(default_factory=dict)
    price: float | None = None

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The paper's tables, ours beside them."""
        return tuple(all_blocks(self.library))

    def of(self, suite: str) -> list[Block]:
        """The blocks of a suite."""
        return [block for block in self.blocks if block.suite == suite]


def read_notes(out: Path) -> dict[str, str]:
    """The remarks of ``notes.json``; none if there is no such file.

    Raises:
        InputError: it is not an object of texts.
    """
    path = out / NOTES
    if not path.exists():
        return {}
    try:
        notes = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); give an object of texts, or remove it") from error
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise InputError(f'{str(path)!r} has to be an object of texts, such as {{"about": "..."}}')
    return notes
