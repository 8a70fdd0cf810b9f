"""Say what is here, what is missing, and how PerSim stands beside the paper's: all cells, and the worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap
from statistics import fmean

from baselines.registry import METHODS
from persim.errors import check_choice
from persim.evaluation import paper
from sweeps.reporting.compare import LEGEND, MARKS, Comparison, number
from sweeps.reporting.machines import computed_on
from sweeps.reporting.page import Entry, Section, Table, text
from sweeps.reporting.remarks import OURS
from sweeps.reporting.results import ENV_TITLES, REWARD, RMSE, Block, Line, Results
from sweeps.reporting.select import DAGGER, Measured
from sweeps.reporting.tables import entry

GOAL_TABLES = ("6", "7", "9", "10", "14", "15")
MUCH_WORSE = 1.2  # ratio of a prediction error to the paper's above which there has to be a reason
NAMED = 5  # cells that a sentence names at most
CLOSE = 0.01  # share of the best reward in the paper within which ours is as good
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
        other = "" if self.line.method == OURS else f"/{self.line.method}"
        return f"{line}/{self.agent + 1}{other}", line + other

    @property
    def place(self) -> str:
        """The line of the table, as people read it."""
        return self.block.title + (f", N = {self.line.n_agents}" if self.block.suite == "scarcity" else "")

    @property
    def name(self) -> str:
        """The method; where it plans, with its planner."""
        method = METHODS[self.line.method]
        return method.title if self.block.metric == RMSE else method.label

    @property
    def compared(self) -> Comparison | None:
        """Ours beside the paper's; None if nothing is measured."""
        return self.line.compared(self.block.metric, self.agent)

    @property
    def missed(self) -> bool:
        """Whether ours is so much worse that there has to be a reason."""
        found = self.compared
        if found is None:
            return False
        return found.size > MUCH_WORSE if self.block.metric == RMSE else found.mark == "worse"


def goals(results: Results) -> list[Goal]:
    """The cells of ``GOAL_TABLES`` under every regime, of each line of PerSim."""
    return [
        Goal(block, line, agent)
        for block in results.blocks
        if block.table in GOAL_TABLES
        for line, agent in block.printed
        if line.method.startswith(OURS)
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


def headline(results: Results) -> tuple[tuple[str, ...], Table]:
    """Sum up all cells of ``GOAL_TABLES`` in sentences, and in a table with a row per table, regime and line."""
    groups: dict[tuple[str, str], list[Goal]] = {}
    for found in goals(results):
        groups.setdefault((found.block.title, found.name), []).append(found)
    errors = [group for group in groups.values() if group[0].block.metric == RMSE]
    ratios = [ratio for group in errors if (ratio := geometric_mean(group)) is not None]
    by_line: dict[str, list[Goal]] = {}
    for (_, name), group in groups.items():
        if group[0].block.metric != RMSE:
            by_line.setdefault(name, []).extend(group)
    lines = [f"Prediction errors: {_counted([one for group in errors for one in group])}"]
    if ratios:
        lines[0] += (
            f" The geometric mean of the ratios ours/paper's is at most 1 in {sum(r <= 1 for r in ratios)} of "
            f"{len(ratios)} tables (environment and regime), and lies between {min(ratios):.2f} and {max(ratios):.2f}."
        )
    lines += [f"Rewards of {name}: {_counted(group)}{_beside_best(group)}" for name, group in by_line.items()]
    columns = ("table", "line", "trials", "cells", *MARKS.values(), "not measured", "geometric mean of ours/paper's",
               f"cells above {MUCH_WORSE}")  # fmt: skip
    return tuple(lines), Table("PerSim beside the paper's", columns, tuple(starmap(_summed, groups.items())))


def _counts(group: Sequence[Goal]) -> list[int]:
    """Count the cells of each mark, then those that are not measured."""
    marks = [None if one.compared is None else one.compared.mark for one in group]
    return [marks.count(mark) for mark in (*MARKS, None)]


def _counted(group: Sequence[Goal]) -> str:
    counts = zip(MARKS.items(), _counts(group), strict=False)
    told = ", ".join(f"{count} {mark}" for (name, mark), count in counts if count or name != "within")
    reduced = sum(one.line.ours is not None and one.line.ours.reduced for one in group)
    less = f", {reduced} with less than the paper's budget ({DAGGER})" if reduced else ""
    tables = ", ".join(dict.fromkeys(one.block.table for one in group))
    return f"of {len(group)} cells (Tables {tables}, all regimes) {told}, {_counts(group)[-1]} not measured{less}."


def _beside_best(group: Sequence[Goal]) -> str:
    """Compare rewards with the best of all methods in the paper's own table and regime, the true environment apart."""
    better, near, worse = 0, 0, []
    for one in group:
        if one.compared is None or one.block.suite != "reward":
            continue
        best = paper.best_reward(one.block.env, one.block.regime)[one.agent]
        ours = one.line.mean(REWARD, one.agent)
        if ours >= best:
            better += 1
        elif ours >= best - CLOSE * abs(best):
            near += 1
        else:
            worse.append(f"{ENV_TITLES[one.block.env]}, {one.block.regime}, agent {one.agent + 1}")
    if not better + near + len(worse):
        return ""
    told = f" Beside the best of all the paper's methods (Tables 9, 10): {better} better or equal, {near} within 1 %"
    named = f" ({'; '.join(worse)})" if 0 < len(worse) <= NAMED else ""
    return f"{told}, {len(worse)} worse{named}."


def geometric_mean(group: Sequence[Goal]) -> float | None:
    """Geometric mean of the ratios ours/paper's of prediction errors; None for rewards, or if none is measured."""
    ratios = [one.compared.size for one in group if one.compared is not None]
    if group[0].block.metric != RMSE or not ratios:
        return None
    return math.exp(fmean(map(math.log, ratios))) if min(ratios) > 0 else 0.0


def _summed(names: tuple[str, str], group: Sequence[Goal]) -> tuple[Entry, ...]:
    error, ratio = group[0].block.metric == RMSE, geometric_mean(group)
    trials = sorted({len(one.line.ours.cells) for one in group if one.line.ours is not None})
    shown = (
        names[1],
        " or ".join(map(str, trials)) or "–",
        str(len(group)),
        *map(str, _counts(group)),
        "–" if ratio is None else number(ratio, 2),
        str(sum(one.missed for one in group)) if error else "–",
    )
    return (Entry((names[0],)), *map(text, shown))


def goal(results: Results) -> list[Section]:
    """The headline, and the cells that are not reached, with reasons."""
    lines, summary = headline(results)
    missed = [found for found in goals(results) if found.missed]
    lacking = [found.place for found in goals(results) if found.compared is None]
    about = (
        f"PerSim's cells of Tables {', '.join(GOAL_TABLES)} under every regime that the paper prints, agent 5 of "
        "CartPole included (HalfCheetah: see Tables 8, 11 and 16). Rewards depend on the planner as much as on the "
        "model: how each line acts stands below its table."
    )
    more = [f"Not measured: {'; '.join(dict.fromkeys(lacking))}."] if lacking else []
    caption = f"PerSim: prediction errors above {MUCH_WORSE} times the paper's, and rewards marked {MARKS['worse']}"
    rows = tuple(_missed(results, found) for found in missed)
    listed = (Table(caption, ("cell", "ours, paper's, difference", "behind it", "reason"), rows),) if rows else ()
    return [Section("PerSim beside the paper's", "goal", (about, *lines, *more), (summary, *listed))]


def _missed(results: Results, found: Goal) -> tuple[Entry, ...]:
    assert found.line.ours is not None  # only what is measured can be missed
    reason = next((results.notes[key] for key in found.keys if key in results.notes), "not known yet")
    where = Entry((found.place, found.name, f"agent {found.agent + 1}"))
    behind = text(found.line.ours.described + found.line.ours.dagger, "wrap")
    return where, entry(found.block.metric, found.line, found.agent), behind, text(reason, "wrap")


def overview(results: Results) -> list[Section]:
    """Say what is here, how to read it, and what is missing."""
    commits = sorted({done.commit for done in results.cells})
    lines = [results.notes[ABOUT]] if ABOUT in results.notes else []
    lines += [
        f"{len(results.cells)} finished cells (a cell is one measurement of one method on one kind of data, with one "
        f"seed), computed with code of {len(commits)} commit{'s' if len(commits) > 1 else ''}: {', '.join(commits)}.",
        computed_on(results.cells),
        f"Every cell of a table has ours (mean ± sample standard deviation over trials), the paper's, and the "
        f"difference. {LEGEND} – not measured.",
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
