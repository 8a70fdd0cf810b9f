"""Check that a table can be learnt from, can be split, and fits the table that a simulator was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from persim.errors import InputError, nearest
from persim.tables.schema import seconds

if TYPE_CHECKING:
    from persim.tables.schema import Schema
    from persim.tables.table import Table

UNIT_RATIO = 30  # a column whose values are so many times larger or smaller than before has another unit


def needed_rows(schema: Schema) -> int:
    """How many rows with a known state an agent needs: its lags, the next state, and one more to learn from."""
    return schema.lags + 2


def check_rows(table: Table, source: str) -> None:
    """Check that each agent has rows enough for the lags.

    Raises:
        InputError: one has not.
    """
    found = np.bincount(table.agent[np.isfinite(table.state).all(1)], minlength=len(table.names))
    needed = needed_rows(table.schema)
    short = np.flatnonzero(found < needed)
    if len(short):
        others = f" ({len(short)} agents are as short)" if len(short) > 1 else ""
        raise InputError(
            f"{source}: agent {table.names[short[0]]!r} has {found[short[0]]} rows with a known state, fewer than the "
            f"{needed} that {table.schema.lags} lags need{others}; leave it out, give it more rows, or take fewer lags"
        )


def check_actions(table: Table, source: str) -> None:
    """Check that no column of states, actions or known inputs is empty and that each action varies.

    Raises:
        InputError: one is empty, or an action is the same in every row.
    """
    schema = table.schema
    for name in schema.state + schema.inputs:
        values = table.column(name)
        values = values[np.isfinite(values)]
        if not len(values):
            raise InputError(f"{source}: column {name!r} holds no value at all; take it out of the schema")
        if name in schema.action and values.min() == values.max():
            value = schema.labels[int(values[0])] if schema.discrete else f"{values[0]:g}"
            what = f"action {name!r} is {value} in every row, so that its effect cannot be learnt"
            raise InputError(f"{source}: {what}; give data in which it varies, or take it out of the schema")


def check_split(table: Table, train: Table, test: Table) -> None:
    """Check that each agent of a table keeps rows enough on both sides of a split.

    Raises:
        InputError: one does not.
    """
    number, needed = len(table.names), needed_rows(table.schema)
    left = np.bincount(train.agent, minlength=number)
    tested = np.bincount(test.agent[test.counted], minlength=number)
    for agent in np.flatnonzero((left < needed) | (tested < 1))[:1]:
        have = int((table.counted & (table.agent == agent)).sum())
        raise InputError(
            f"agent {table.names[agent]!r} has {have} rows, which a split leaves {left[agent]} of to learn from and "
            f"{tested[agent]} to test on; it needs {needed} and 1: take another share, or leave the agent out"
        )


def conform(table: Table, schema: Schema, summary: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of other data as a simulator needs it that was trained with this schema and ``Table.summary``.

    The codes of a discrete action become those of the schema.

    Raises:
        InputError: the columns or the step differ, a label is unknown, or the values of a column are so much larger
            or smaller that it has to have another unit.
    """
    given = table.schema
    for role in ("state", "action", "known", "static"):
        have, want = getattr(given, role), getattr(schema, role)
        if have != want:
            shown = [", ".join(map(repr, names)) or "none" for names in (have, want)]
            raise InputError(
                f"the table has {shown[0]} as {role}, the simulator was trained with {shown[1]}; read the table with "
                "the schema of the simulator"
            )
    assert given.every is not None  # reading finds it
    assert schema.every is not None
    if isinstance(given.every, str) != isinstance(schema.every, str) or seconds(given.every) != seconds(schema.every):
        what = f"the table has a row every {given.every}, the simulator a step every {schema.every}"
        raise InputError(f"{what}; read the table with the schema of the simulator")
    if 2 * table.counts.get("merged", 0) > table.counts.get("rows", 0):
        what = f"{table.counts['merged']:,} of {table.counts['rows']:,} rows share a point of the grid with another"
        raise InputError(f"{what} (every {schema.every}); give the time in the unit of the simulator's data")
    now = table.summary()
    for name in set(now) & set(summary):
        before, after = summary[name]["median"], now[name]["median"]
        if before and after and not 1 / UNIT_RATIO <= after / before <= UNIT_RATIO:
            what = f"column {name!r} is about {after:.3g}, in the data of the simulator about {before:.3g}"
            raise InputError(f"{what}: more than {UNIT_RATIO} times apart; give it in the same unit")
    return _recoded(table, schema) if given.labels != schema.labels else table


def _recoded(table: Table, schema: Schema) -> Table:
    """Give the labels of the discrete action the codes that they have in the schema."""
    for label in table.labels:
        if label not in schema.labels:
            have = f"column {schema.action[0]!r} has the label {label!r}, which the simulator does not know"
            raise InputError(f"{have}{nearest(label, schema.labels)}; it knows: {', '.join(schema.labels)}")
    code = np.array([*map(schema.labels.index, table.labels), np.nan])
    old = np.where(np.isnan(table.action), -1, table.action).astype(np.int64)
    return replace(table, schema=replace(table.schema, labels=schema.labels), action=code[old])
