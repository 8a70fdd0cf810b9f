"""What is missing, and where PerSim is not as good as the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baselines.registry import METHODS
from persim.errors import check_choice
from sweeps.reporting.blocks import PAPER_AGENTS, Block, Line
from sweeps.reporting.compare import MARKS, Comparison
from sweeps.reporting.page import Entry, Section, Table, text
from sweeps.reporting.results import ENV_TITLES, Results
from sweeps.reporting.tables import DAGGER, behind, entry

GOAL_TABLES = ("6", "7", "9", "10", "14", "15")
ABOUT = "about"


@dataclass(frozen=True)
class Goal:
    """One cell of the paper that PerSim has to reach."""

    block: Block
    line: Line
    agent: int

    @property
    def keys(self) -> tuple[str, str]:
        """Names of the reason in ``notes.json``: that of the cell, and that of its line."""
        line = f"{self.block.table}/{self.block.env}/{self.block.regime}/{self.line.n_agents}"
        return f"{line}/{self.agent + 1}", line

    @property
    def compared(self) -> Comparison | None:
        """None if it is not measured."""
        return self.line.compared(self.block.metric, self.agent)


def goals(results: Results) -> list[Goal]:
    """PerSim's cells of ``GOAL_TABLES``: random data, and Table 15, which has pure data only."""
    return [
        Goal(block, line, agent)
        for block in results.blocks
        if block.table in GOAL_TABLES and (block.regime == "random" or block.suite == "scarcity")
        for line in block.lines
        if line.method == "persim" and not (block.suite == "scarcity" and line.n_agents == PAPER_AGENTS)
        for agent in line.theirs
    ]


def check_notes(results: Results) -> None:
    """Finds a key of ``notes.json`` that belongs to nothing.

    Raises:
        InputError: there is one; the message has the nearest.
    """
    known = [ABOUT, *dict.fromkeys(key for goal in goals(results) for key in goal.keys)]
    for key in results.notes:
        if key not in known:
            check_choice("key of notes.json", key, known[:1] + [name for name in known if _near(name, key)])


def _near(name: str, key: str) -> bool:
    """Whether the names share their table: all of them would not fit in one line."""
    return name.partition("/")[0] == key.partition("/")[0]


def goal(results: Results) -> list[Section]:
    """The list of cells that are not reached, with reasons."""
    wanted = goals(results)
    compared = [(found, found.compared) for found in wanted]
    missed = [found for found, result in compared if result is not None and result.mark == "worse"]
    lacking = [found for found, result in compared if result is None]
    counts = {mark: sum(result is not None and result.mark == mark for _, result in compared) for mark in MARKS}
    lines = [
        f"PerSim on random data in Tables {', '.join(GOAL_TABLES)} (Table 15: pure, as printed): of {len(wanted)} "
        f"cells {counts['better']} are better than or equal to the paper's, {counts['within']} within one standard "
        f"deviation, {counts['worse']} worse, {len(lacking)} not measured; {_reduced(wanted)} were measured with less "
        f"than the paper's budget ({DAGGER})."
    ]
    tables = [_missed(results, missed)] if missed else []
    if lacking:
        lines.append(f"Not measured: {'; '.join(_places(lacking))}.")
    return [Section("Where ours is not as good as the paper's", "goal", tuple(lines), tuple(tables))]


def _reduced(found: Sequence[Goal]) -> int:
    return sum(cell.line.ours is not None and cell.line.ours.reduced for cell in found)


def _missed(results: Results, missed: Sequence[Goal]) -> Table:
    rows = tuple(_missed_row(results, found) for found in missed)
    caption = "PerSim: cells worse than the paper's by more than one standard deviation"
    return Table(caption, ("cell", "ours, paper's, difference", "behind it", "reason"), rows)


def _missed_row(results: Results, found: Goal) -> tuple[Entry, ...]:
    assert found.line.ours is not None  # only what is measured can be missed
    reason = next((results.notes[key] for key in found.keys if key in results.notes), "not known yet")
    where = _place(found)
    shown = entry(found.block.metric, found.line, found.agent)
    return (
        Entry((where, f"agent {found.agent + 1}")),
        shown,
        text(behind(found.line.ours), "wrap"),
        text(reason, "wrap"),
    )


def _place(found: Goal) -> str:
    block = found.block
    size = f", N = {found.line.n_agents}" if block.suite == "scarcity" else ""
    return f"Table {block.table}: {ENV_TITLES[block.env]}, {block.regime}{size}"


def _places(lacking: Sequence[Goal]) -> list[str]:
    return list(dict.fromkeys(map(_place, lacking)))


def overview(results: Results) -> list[Section]:
    """What is here, how to read it, and what is missing."""
    cells = results.library.cells
    commits = sorted({done.commit for done in cells})
    lines = [results.notes[ABOUT]] if ABOUT in results.notes else []
    lines += [
        f"{len(cells)} finished cells (a cell is one measurement of one method on one kind of data, with one seed), "
        f"computed with code of {len(commits)} commit{'s' if len(commits) > 1 else ''}: {', '.join(commits)}.",
        "Every cell of a table has ours (mean ± sample standard deviation over trials), the paper's, and the "
        f"difference. {MARKS['better']} better than or equal to the paper's, at its printed precision; "
        f"{MARKS['within']} within one standard deviation (the paper's; for prediction errors ours over trials, as the "
        f"paper prints none); {MARKS['worse']} worse than that; – not measured.",
        f"{DAGGER} Not the paper's budget: another preset than paper, or options changed. Of several budgets the best "
        "is shown (paper, then laptop, then quick; smoke never), which the first column names; what differs stands "
        "below each table.",
    ]
    return [Section("What is here", "overview", tuple(lines), (coverage(results),))]


def coverage(results: Results) -> Table:
    """How much of each table of the paper is measured."""
    by_table: dict[str, list[Block]] = {}
    for block in results.blocks:
        by_table.setdefault(block.table, []).append(block)
    rows = tuple(
        _coverage_row(number, blocks) for number, blocks in sorted(by_table.items(), key=lambda item: int(item[0]))
    )
    columns = ("table", "environments", "its cells", "measured", f"of these with less {DAGGER}", "missing")
    return Table("Cells of the paper's tables that have ours beside them", columns, rows)


def _coverage_row(table: str, blocks: Sequence[Block]) -> tuple[Entry, ...]:
    cells = _paper_cells(blocks)
    measured = [line for line in cells if line.ours is not None]
    reduced = sum(line.ours is not None and line.ours.reduced for line in measured)
    envs = ", ".join(dict.fromkeys(ENV_TITLES[block.env] for block in blocks))
    counts = (len(cells), len(measured), reduced, len(cells) - len(measured))
    return (Entry((f"Table {table}",)), text(envs), *(text(str(count)) for count in counts))


def _paper_cells(blocks: Sequence[Block]) -> list[Line]:
    """The line of every number that the paper prints in these blocks.

    N = 500 is of other tables, and the true environment is printed once for all regimes.
    """
    found = {
        (block.env, block.regime if METHODS[line.method].learns else "", line.name, agent): line
        for block in blocks
        for line in block.lines
        for agent in line.theirs
        if not (block.suite == "scarcity" and line.n_agents == PAPER_AGENTS)
    }
    return list(found.values())
