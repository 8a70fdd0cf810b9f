"""Say what a simulator could learn from a table, before one is fitted: gaps, little data, what cannot be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from persim.errors import InputError
from persim.tables import usable
from persim.tables.explained import earlier, explained, residual
from persim.tables.features import Features, Inputs
from persim.tables.grid import Numbers
from persim.tables.reading import Array
from persim.tables.table import Table
from persim.tables.windows import Windows

ROWS = 20_000  # linear fits use at most so many rows, evenly spaced
EARLIER = 12  # rows before the present that are searched for what the schema leaves out
FEW_AGENTS, FEW_STEPS = 5, 10  # steps: for each coefficient of a linear model of one agent
BY_STATE, BY_INPUTS, LEFT_OUT, MUCH = 0.9, 0.99, 0.05, 0.2


@dataclass(frozen=True)
class Column:
    """What is known of one column.

    Attributes:
        name: of the column.
        role: state, action, known, static or reward.
        missing: the share of its values.
        spread: its least, median and greatest value; NaN where none is known.
        still: the names of the agents for which it never varies; none for static columns.
        by_state: the share of an input's variance within agents that a linear map of the states seen explains, or NaN.
        by_inputs: the same of a linear map of the other inputs.
        left_out: the share of what a linear model of the next state misses that earlier rows of this column explain.
    """

    name: str
    role: str
    missing: float
    spread: tuple[float, float, float]
    still: tuple[str, ...]
    by_state: float = np.nan
    by_inputs: float = np.nan
    left_out: float = np.nan


@dataclass(frozen=True)
class Check:
    """What ``check`` found in a table of N agents.

    Attributes:
        table: the table.
        columns: one entry per column with numbers or labels.
        rows: ``[N]``, the rows of each agent on the grid.
        steps: ``[N]``, those from which a simulator can learn: the states seen, inputs and next state are known.
        gaps: ``[N]``, how often states are missing, once for each run of rows.
        longest: ``[N]``, the rows of the longest gap.
        coefficients: those of a linear model of one agent, for each state.
        error: why no simulator can be fitted, or an empty text.
    """

    table: Table
    columns: tuple[Column, ...]
    rows: Numbers
    steps: Numbers
    gaps: Numbers
    longest: Numbers
    coefficients: int
    error: str

    @property
    def findings(self) -> list[str]:
        """What to look at before fitting: each entry says what was found and what to do."""
        return [*_about_agents(self), *(line for column in self.columns for line in _about_column(self, column))]

    @property
    def verdict(self) -> str:
        """The conclusion in one line."""
        if self.error:
            return f"no simulator can be fitted yet: {self.error}"
        count = len(self.findings)
        return "ready to fit" if not count else f"can be fitted, but see the {_count(count, 'point')} above"


def check(table: Table, source: str = "table") -> Check:
    """Look at a table that was read with ``new=True``, so that what forbids a fit is a part of the result."""
    features = Features.of(table)
    inputs = features.inputs_of(table)
    windows = Windows.of(table, inputs, 1, len(table))
    row = windows.row[np.isfinite(windows.true[:, 0]).all(1)]
    n_agents, error = len(table.names), ""
    gaps, longest = _gaps(table)
    try:
        usable.check_rows(table, source)
        usable.check_actions(table, source)
    except InputError as found:
        error = str(found)
    return Check(
        table=table,
        columns=tuple(_columns(table, features, inputs, row)),
        rows=np.bincount(table.agent, minlength=n_agents),
        steps=np.bincount(table.agent[row], minlength=n_agents),
        gaps=gaps,
        longest=longest,
        coefficients=features.width + features.inputs + 1,
        error=error,
    )


def _gaps(table: Table) -> tuple[Numbers, Numbers]:
    """Count the runs of rows without a full state, and the rows of the longest: ``[N]`` each."""
    gone = np.asarray(np.isnan(table.state).any(1))
    follows = np.append(False, gone[:-1]) & (table.step > 0)
    opens = np.asarray(gone & ~follows)
    size = np.bincount(np.cumsum(opens)[gone], minlength=opens.sum() + 1)[1:]
    owner = table.agent[opens]
    longest = np.zeros(len(table.names), dtype=np.int64)
    np.maximum.at(longest, owner, size)
    return np.bincount(owner, minlength=len(table.names)), longest


def _columns(table: Table, features: Features, inputs: Inputs, row: Numbers) -> Iterator[Column]:
    """Describe each column; ``row`` are the rows that can be learnt from."""
    row = row[np.linspace(0, len(row) - 1, min(ROWS, len(row))).astype(np.int64)]
    agent, acts, schema = table.agent[row], inputs.acts[row], table.schema
    states = inputs.history[row, : features.states * features.lags]
    missed = residual(table.state[row + 1], np.concatenate([inputs.history[row], acts], axis=1), agent)
    owner = np.repeat(schema.inputs, [features.labels or 1] * len(schema.action) + [1] * len(schema.known))
    for role, name in schema.roles():
        if role in ("agent", "trajectory", "time"):
            continue
        values = table.column(name)
        known = values[np.isfinite(values)]
        low, middle, high = np.quantile(known, [0, 0.5, 1]) if len(known) else [np.nan] * 3
        about = {}
        if name in schema.inputs:
            own = owner == name
            about["by_state"] = explained(acts[:, own], states, agent)
            about["by_inputs"] = explained(acts[:, own], acts[:, ~own], agent)
        if name in schema.state + schema.inputs and not (schema.discrete and role == "action"):
            about["left_out"] = explained(missed, earlier(table, values, row, EARLIER), agent)
        still = () if role == "static" else _still(table, values)
        yield Column(name, role, float(np.isnan(values).mean()), (low, middle, high), still, **about)


def _still(table: Table, values: Array) -> tuple[str, ...]:
    """Name the agents with known values ``[T]`` that are all the same."""
    low, high = np.full((2, len(table.names)), np.nan)
    np.fmin.at(low, table.agent, values)
    np.fmax.at(high, table.agent, values)
    return tuple(np.array(table.names, dtype=object)[low == high])


def _about_agents(found: Check) -> Iterator[str]:
    table, schema, names = found.table, found.table.schema, np.array(found.table.names, dtype=object)
    if table.counts["merged"]:
        yield f"{_count(table.counts['merged'], 'row')} merged with another: a smaller `every` would keep them apart"
    elif table.counts["moved"] > MUCH * table.counts["rows"]:
        yield f"{table.counts['moved']:,} rows lie off the grid (every {schema.every}): does `every` fit the times?"
    if len(names) < FEW_AGENTS:
        yield f"only {_count(len(names), 'agent')}: there is little to share; a model of each may do as well"
    needed = FEW_STEPS * found.coefficients
    if few := list(names[found.steps < needed]):
        yield (
            f"{_count(len(few), 'agent')} with fewer than {needed} known steps ({FEW_STEPS} for each coefficient of a "
            f"linear model of its own): {_some(few)}; compare with the last value before you trust a simulator there"
        )
    if found.steps.sum() < (1 - MUCH) * (len(table) - len(table.trajectories)):
        yield (
            f"only {found.steps.sum():,} of {len(table):,} rows can be learnt from, as the others lack a state, an "
            "input or an earlier row: take fewer lags, or `fill` for inputs that are recorded only when they occur"
        )
    if len(names) < FEW_AGENTS * len(schema.static):
        yield f"{len(schema.static)} static columns for {_count(len(names), 'agent')}: their effect will be a guess"


def _about_column(found: Check, column: Column) -> Iterator[str]:
    name, is_input = f"{column.role} {column.name!r}", column.role in ("action", "known")
    if column.missing > MUCH:
        where = "of the agents" if column.role == "static" else "of the rows"
        hint = "; if empty means none, say so by `fill`" if is_input else ""
        yield f"{name} is missing in {column.missing:.0%} {where}{hint}"
    yield from _about_still(found, column, name)
    if column.by_state > BY_STATE:
        yield (
            f"{name} nearly follows from the states ({column.by_state:.0%} of its variance), so that its effect is "
            "hard to tell from what would have happened anyway: do not trust plans far from what was done"
        )
    if column.by_inputs > BY_INPUTS:
        yield f"{name} nearly follows from the other inputs ({column.by_inputs:.1%}): leave one of them out"
    chance = 3 * np.sqrt(2 * EARLIER) / max(1, min(ROWS, found.steps.sum()))  # three standard deviations
    if column.left_out > max(LEFT_OUT, chance):
        hint = "more `lags`" if column.role == "state" else "a `memory` of it"
        yield f"earlier rows of {name} explain {column.left_out:.0%} of what a linear model misses: try {hint}"


def _about_still(found: Check, column: Column, name: str) -> Iterator[str]:
    low, _, high = column.spread
    if low == high and column.role != "action":
        yield f"{name} is {low:g} wherever it is known: take it out of the schema"
    elif column.role == "known" and len(column.still) == len(found.table.names):
        yield f"{name} varies between agents but never within one: make it static"
    elif column.role == "action" and low != high and column.still:
        yield f"{name} never varies for {_some(column.still)}: its effect there is guessed from the other agents"
    elif column.role == "state" and column.still:
        yield f"{name} never varies for {_some(column.still)}: is the sensor stuck?"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
