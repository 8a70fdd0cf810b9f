"""The parts of a report as plain data, and the report as Markdown and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from persim.storage.cells import file_name

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        lines: its text, the most important line first.
        style: the class of the template that colours it, such as ``better``; the text has to say the same.
    """

    lines: tuple[str, ...]
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    Attributes:
        caption: what the table shows.
        columns: heads of one or more lines; the first one is of the row names.
        rows: each a row name and its entries.
        notes: lines below the table.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    Attributes:
        name: of the file, without suffix.
        svg: the picture, whose bytes depend on nothing but the rows that it shows.
        caption: what the picture shows; screen readers read it out.
    """

    name: str
    svg: bytes
    caption: str

    @property
    def path(self) -> str:
        """The file, relative to the report's folder."""
        return f"figures/{file_name(self.name)}.svg"

    @property
    def source(self) -> str:
        """The picture as a URL that holds all of it, so that the page loads nothing."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: the heading.
        anchor: the last part of a link to the section; no two sections share one.
        text: paragraphs.
        tables: shown below the text.
        figures: shown below the tables.
        level: of the heading: 2, or 3 for a part of the section before.
    """

    title: str
    anchor: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    level: int = 2


def text(value: str, style: str = "plain") -> Entry:
    """Make an entry of one line."""
    return Entry((value,), style)


def render(form: str, title: str, sections: Sequence[Section]) -> bytes:
    """Write the report as one page, ``html``, or as ``md``: Markdown with its figures in separate files."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=form == "html", undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"plain": plain, "markdown": markdown}
    page = environment.get_template(f"report.{form}.jinja").render(title=title, sections=sections)
    return (page.rstrip() + "\n").encode()


def markdown(table: Table) -> str:
    """Write a table as Markdown, with its caption above and its notes below."""
    lines = [[plain(column).replace("\n", "<br>") for column in table.columns], ["---"] * len(table.columns)]
    lines += [["<br>".join(map(plain, entry.lines)) for entry in row] for row in table.rows]
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"**{plain(table.caption)}**", shown, *map(plain, table.notes)])


def plain(value: str) -> str:
    """Escape a text, so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", value)
