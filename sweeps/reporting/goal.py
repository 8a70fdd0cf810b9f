"""What is here, what is missing, and where PerSim is not as good as the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baselines.registry import METHODS
from persim.errors import check_choice
from sweeps.reporting.compare import MARKS
from sweeps.reporting.page import Entry, Section, Table, text
from sweeps.reporting.results import ENV_TITLES, Block, Line, Results
from sweeps.reporting.select import DAGGER, Measured
from sweeps.reporting.tables import entry

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
    def place(self) -> str:
        """The line of the table, as people read it."""
        return self.block.title + (f", N = {self.line.n_agents}" if self.block.suite == "scarcity" else "")


def goals(results: Results) -> list[Goal]:
    """PerSim's cells of ``GOAL_TABLES``: random data, and Table 15, which has pure data only."""
    return [
        Goal(block, line, agent)
        for block in results.blocks
        if block.table in GOAL_TABLES and (block.regime == "random" or block.suite == "scarcity")
        for line, agent in block.printed
        if line.method == "persim"
    ]


def check_notes(results: Results) -> None:
    """Find a key of ``notes.json`` that belongs to nothing.

    Raises:
        InputError: there is one; the message has the nearest.
    """
    known = [ABOUT, *dict.fromkeys(key for goal in goals(results) for key in goal.keys)]
    for key in results.notes:
        if key not in known:  # the names of all tables would not fit in one line
            near = [name for name in known if name.partition("/")[0] == key.partition("/")[0]]
            check_choice("key of notes.json", key, [ABOUT, *near])


def goal(results: Results) -> list[Section]:
    """The list of cells that are not reached, with reasons."""
    compared = [(found, found.line.compared(found.block.metric, found.agent)) for found in goals(results)]
    missed = [found for found, result in compared if result is not None and result.mark == "worse"]
    lacking = [found.place for found, result in compared if result is None]
    counts = {mark: sum(result is not None and result.mark == mark for _, result in compared) for mark in MARKS}
    reduced = sum(found.line.ours is not None and found.line.ours.reduced for found, _ in compared)
    lines = [
        f"PerSim on random data in Tables {', '.join(GOAL_TABLES)} (Table 15: pure, as printed): of {len(compared)} "
        f"cells {counts['better']} are better than or equal to the paper's, {counts['within']} within one standard "
        f"deviation, {counts['worse']} worse, {len(lacking)} not measured; {reduced} were measured with less "
        f"than the paper's budget ({DAGGER})."
    ]
    if lacking:
        lines.append(f"Not measured: {'; '.join(dict.fromkeys(lacking))}.")
    caption = "PerSim: cells worse than the paper's by more than one standard deviation"
    rows = tuple(_missed(results, found) for found in missed)
    tables = (Table(caption, ("cell", "ours, paper's, difference", "behind it", "reason"), rows),) if rows else ()
    return [Section("Where ours is not as good as the paper's", "goal", tuple(lines), tables)]


def _missed(results: Results, found: Goal) -> tuple[Entry, ...]:
    assert found.line.ours is not None  # only what is measured can be missed
    reason = next((results.notes[key] for key in found.keys if key in results.notes), "not known yet")
    where = Entry((found.place, f"agent {found.agent + 1}"))
    behind = text(found.line.ours.described + found.line.ours.dagger, "wrap")
    return where, entry(found.block.metric, found.line, found.agent), behind, text(reason, "wrap")


def overview(results: Results) -> list[Section]:
    """What is here, how to read it, and what is missing."""
    commits = sorted({done.commit for done in results.cells})
    lines = [results.notes[ABOUT]] if ABOUT in results.notes else []
    lines += [
        f"{len(results.cells)} finished cells (a cell is one measurement of one method on one kind of data, with one "
        f"seed), computed with code of {len(commits)} commit{'s' if len(commits) > 1 else ''}: {', '.join(commits)}.",
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
    rows = tuple(_covered(number, by_table[number]) for number in sorted(by_table, key=int))
    columns = ("table", "environments", "its cells", "measured", f"of these with less {DAGGER}", "missing")
    return Table("Cells of the paper's tables that have ours beside them", columns, rows)


def _covered(table: str, blocks: Sequence[Block]) -> tuple[Entry, ...]:
    """Count the numbers of a table; that of the true environment is printed once for all regimes."""
    printed: dict[tuple[str, str, str, int, int], Measured | None] = {}
    for block in blocks:
        for line, agent in block.printed:
            method = METHODS[line.method]
            regime = block.regime if method.learns else ""
            key = (block.env, regime, method.title, line.n_agents, agent)  # under whichever planner
            printed[key] = printed.get(key) or line.ours
    measured = [ours for ours in printed.values() if ours is not None]
    envs = ", ".join(dict.fromkeys(ENV_TITLES[block.env] for block in blocks))
    reduced, missing = sum(ours.reduced for ours in measured), len(printed) - len(measured)
    counts = (len(printed), len(measured), reduced, missing)
    return (Entry((f"Table {table}",)), text(envs), *(text(str(count)) for count in counts))
