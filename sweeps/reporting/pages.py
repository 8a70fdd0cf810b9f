"""Blocks of results in README.md and the guides, written from rows between two marks.

A block starts with a line ``<!-- results: NAME -->`` and ends with ``<!-- end -->``; what stands between is replaced.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from baselines.registry import METHODS
from persim.errors import InputError, check_choice
from persim.evaluation.paper import PaperError
from sweeps.reporting import goal, paper_figures
from sweeps.reporting.compare import LEGEND, MARKS, Known, decimals, number, size_of, with_spread
from sweeps.reporting.page import Entry, Section, Table, markdown, plain
from sweeps.reporting.ranks import ranks
from sweeps.reporting.remarks import OURS, remarks
from sweeps.reporting.results import ENV_TITLES, REWARD, RMSE, STEPS, Block, Line, Results
from sweeps.reporting.tables import table

START, END = "<!-- results: ", "<!-- end -->"
_BLOCK = re.compile(rf"^{START}(?P<name>.*?) -->\n(?P<old>.*?)^{END}$", re.MULTILINE | re.DOTALL)
_SUITES = {RMSE: "prediction", REWARD: "reward"}


def filled(page: Path, results: Results) -> str:
    """Write the blocks of a page anew; gives its whole text, and is the text that it has if nothing has changed.

    Raises:
        InputError: a mark has no end, or names no block.
    """
    text = page.read_text()
    if text.count(f"\n{START}") + text.startswith(START) != len(_BLOCK.findall(text)):
        raise InputError(f"{str(page)!r}: a line {START}NAME --> has no line {END} before the next; add it")
    known = blocks(results, os.path.relpath(results.out, page.parent))

    def block(found: re.Match[str]) -> str:
        name = check_choice(f"{str(page)!r}: block of results", found["name"], known)
        return f"{START}{name} -->\n\n{known[name]()}\n\n{END}"

    return _BLOCK.sub(block, text)


def blocks(results: Results, folder: str) -> Mapping[str, Callable[[], str]]:
    """Every block that a page may have, by name; ``folder`` is where the page finds the report's figures."""
    of_tables = {
        f"{block.table}/{block.env}/{block.regime}": partial(_shown, block)
        for block in sorted(results.blocks, key=lambda block: int(block.table))
    }
    return {
        "headline": lambda: _headline(results),
        "prediction": lambda: _joined(_overview(results, RMSE)),
        "rewards": lambda: _joined(_overview(results, REWARD)),
        "ranks": lambda: _sections(ranks(results)[1:], folder),
        "factors": lambda: _joined(paper_figures.factors(results)[0].tables),
        **of_tables,
    }


def _headline(results: Results) -> str:
    lines, summary = goal.headline(results)
    return "\n\n".join([*map(plain, lines), markdown(summary), plain(LEGEND)])


def _sections(sections: Sequence[Section], folder: str) -> str:
    pictures = [f"![{plain(f.caption)}]({folder}/{f.path})" for section in sections for f in section.figures]
    return "\n\n".join([_joined([one for section in sections for one in section.tables]), *pictures])


def _joined(tables: Sequence[Table]) -> str:
    return "\n\n".join(map(markdown, tables)) or "Nothing is measured yet."


def _shown(block: Block) -> str:
    """Show a table of the report without the methods that are not measured."""
    whole = table(block)
    rows = tuple(row for line, row in zip(block.lines, whole.rows, strict=True) if line.ours is not None)
    return _joined([Table(whole.caption, whole.columns, rows, whole.notes)] if rows else [])


def _overview(results: Results, metric: str) -> list[Table]:
    """Tabulate PerSim and the true environment beside the paper's: a table per environment, all regimes in it."""
    tables = []
    for env, title in ENV_TITLES.items():
        found = [only for block in results.of(_SUITES[metric]) if block.env == env and (only := _ours(block)).lines]
        if any(line.method.startswith(OURS) for block in found for line in block.lines):
            what = "50-step prediction RMSE" if metric == RMSE else "average reward of an episode"
            columns = ("data", "", *(f"agent {agent + 1}" for agent in found[0].agents))
            rows = tuple(row for block in found for row in _rows(block, once=block is found[-1]))
            notes = tuple(dict.fromkeys(note for block in found for note in remarks(block)))
            tables.append(Table(f"{title}, N = 500: {what} (Table {found[0].table})", columns, rows, notes))
    return tables


def _ours(block: Block) -> Block:
    """Select the lines of PerSim and of the true environment that are measured."""
    wanted = [line for line in block.lines if line.method.startswith(OURS) or not METHODS[line.method].learns]
    return replace(block, lines=tuple(line for line in wanted if line.ours is not None))


def _rows(block: Block, *, once: bool) -> Iterator[tuple[Entry, ...]]:
    """Give each line a row, and the paper's one below; ``once``: also those that are the same under every regime."""
    lines = [line for line in block.lines if once or METHODS[line.method].learns]
    for place, line in enumerate(lines):
        assert line.ours is not None  # as selected
        data = block.regime if METHODS[line.method].learns else "any"
        name = Entry((f"{line.name} ({line.ours.brief}{line.ours.dagger})",))
        yield Entry((data,)), name, *(_entry(block.metric, line, agent) for agent in block.agents)
        if line.theirs and (place + 1 == len(lines) or lines[place + 1].theirs != line.theirs):
            theirs = (line.theirs.get(agent) for agent in block.agents)
            yield Entry((data,)), Entry(("the paper's",)), *(Entry((_theirs(known),)) for known in theirs)


def _entry(metric: str, line: Line, agent: int) -> Entry:
    """Write our number with its mark and size, and the scored steps of a prediction error if they are known."""
    values, known, compared = line.values(metric, agent), line.theirs.get(agent), line.compared(metric, agent)
    if not len(values):
        return Entry(("–",))
    ours = with_spread(values, decimals(float(values.mean()), error=metric == RMSE))
    marked = f" {MARKS[compared.mark]}" if compared else ""
    size = size_of(compared, known) if compared and known else ""
    steps = line.mean(STEPS, agent) if metric == RMSE else math.nan
    more = [size, "" if math.isnan(steps) else f"{number(steps, 1)} steps"]
    return Entry((ours + marked, ", ".join(filter(None, more))) if any(more) else (ours + marked,))


def _theirs(known: Known | None) -> str:
    if known is None:
        return "–"
    if isinstance(known, PaperError):
        return number(known.rmse, known.decimals)
    return f"{number(known.mean, known.decimals)} ± {known.std:g}"
