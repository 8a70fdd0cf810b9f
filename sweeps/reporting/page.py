"""The parts of a report as plain data, and the report as Markdown and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

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
        return f"figures/{self.name}.svg"

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


def html(title: str, sections: Sequence[Section]) -> bytes:
    """Write the report as an HTML page."""
    loader = FileSystemLoader(_TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(title=title, sections=sections)
    return (page.rstrip() + "\n").encode()


def markdown(title: str, sections: Sequence[Section]) -> bytes:
    """Write the report as Markdown, with its figures in separate files."""
    lines = [f"# {_plain(title)}", ""]
    lines += [f"{'  ' * (section.level - 2)}- [{_plain(section.title)}](#{section.anchor})" for section in sections]
    for section in sections:
        lines += ["", f'<a id="{section.anchor}"></a>', "", f"{'#' * section.level} {_plain(section.title)}"]
        for paragraph in section.text:
            lines += ["", _plain(paragraph)]
        for table in section.tables:
            lines += ["", *_table(table)]
        for figure in section.figures:
            lines += ["", f"![{_plain(figure.caption)}]({figure.path})", "", f"*{_plain(figure.caption)}*"]
    return ("\n".join(lines) + "\n").encode()


def _table(table: Table) -> list[str]:
    head = _row([_plain(column).replace("\n", "<br>") for column in table.columns])
    rule = _row(["---"] * len(table.columns))
    rows = [_row(["<br>".join(map(_plain, entry.lines)) for entry in row]) for row in table.rows]
    notes = [line for note in table.notes for line in ("", _plain(note))]
    return [f"**{_plain(table.caption)}**", "", head, rule, *rows, *notes]


def _row(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entries) + " |"


def _plain(value: str) -> str:
    """Escape a text, so that Markdown shows it as it is."""
    for character in "\\`*_|<>[]":
        value = value.replace(character, f"\\{character}")
    return value
