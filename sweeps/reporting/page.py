"""What a report is made of, and how it becomes Markdown and one HTML page that needs nothing else.

A section is plain data: whoever makes one need not know how it is shown.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).parent / "templates"
STYLES = ("", "better", "within", "worse", "missing", "plain")


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        lines: what it says, the most important first.
        style: one of ``STYLES``, which colours it; never the only carrier of a meaning.
    """

    lines: tuple[str, ...]
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    Attributes:
        caption: what it shows.
        columns: heads, of one or more lines; the first is that of the row names.
        rows: a row name and its entries each.
        notes: lines below it.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    Attributes:
        name: of its file, without suffix.
        svg: the picture; the same bytes whenever it is drawn from the same rows.
        caption: what it shows; also read out where there is no picture.
    """

    name: str
    svg: bytes
    caption: str

    @property
    def path(self) -> str:
        """Where it is kept, below the report's folder."""
        return f"figures/{self.name}.svg"

    @property
    def source(self) -> str:
        """The picture as a URL that holds it, so that the page asks for nothing."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: its heading.
        anchor: what a link to it ends in; one of its own.
        text: paragraphs.
        tables: below the text.
        figures: below the tables.
        level: 2, or 3 for a part of the section before.
    """

    title: str
    anchor: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    level: int = 2


def text(value: str, style: str = "plain") -> Entry:
    """An entry of one line."""
    return Entry((value,), style)


def html(title: str, sections: Sequence[Section]) -> bytes:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(title=title, sections=sections)
    return (page.rstrip() + "\n").encode()


def markdown(title: str, sections: Sequence[Section]) -> bytes:
    """The same as Markdown, its figures in files beside it."""
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
    head = [
        f"**{_plain(table.caption)}**",
        "",
        _row([_plain(column).replace("\n", "<br>") for column in table.columns]),
    ]
    rule = _row(["---"] * len(table.columns))
    rows = [_row(["<br>".join(map(_plain, entry.lines)) for entry in row]) for row in table.rows]
    notes = [line for note in table.notes for line in ("", _plain(note))]
    return [*head, rule, *rows, *notes]


def _row(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entries) + " |"


def _plain(value: str) -> str:
    """Text that Markdown shows as it is."""
    for character in "\\`*_|<>[]":
        value = value.replace(character, f"\\{character}")
    return value
