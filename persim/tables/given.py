"""What a prediction is given: the columns of its next steps, where each agent's data end, and how far it acted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from persim.errors import InputError, check_choice
from persim.tables.reading import Array
from persim.tables.schema import Schema
from persim.tables.table import Table


def columns_of(schema: Schema, frame: Any, names: tuple[str, ...], steps: int) -> Array:
    """Read columns of the next H steps from a frame, ``[H, D]``; labels become codes.

    An empty cell means what the schema's ``fill`` says.

    Raises:
        InputError: a column is missing, a value is no number or unknown, or there are fewer rows than steps.
    """
    import pandas as pd

    frame = pd.DataFrame(frame)
    for name in names:
        check_choice("column", name, [str(column) for column in frame.columns])
    if len(frame) < steps:
        raise InputError(f"{len(frame)} rows of inputs were given for {steps} steps; give one for each step")
    parts = []
    for name in names:
        if schema.discrete and name in schema.action:
            values = [schema.labels.index(check_choice(f"label of {name!r}", str(one), schema.labels))
                      for one in frame[name][:steps]]  # fmt: skip
        else:
            column = frame[name][:steps]
            column = column.fillna(schema.fill[name]) if name in schema.fill else column
            values = pd.to_numeric(column, errors="coerce").to_list()
        parts.append(np.asarray(values, dtype=np.float64))
    found = np.stack(parts, axis=1)
    for row, place in np.argwhere(~np.isfinite(found))[:1]:
        raise InputError(f"inputs: row {row + 1}, column {names[place]!r} is no finite number; give one")
    return found


def last_histories(table: Table, history: Array) -> Array:
    """Each agent's last history ``[N, X]`` in which all is known; NaN for one that has none."""
    found = np.full((len(table.names), history.shape[1]), np.nan)
    rows = np.flatnonzero(np.isfinite(history).all(1))
    found[table.agent[rows]] = history[rows]  # later rows replace earlier ones
    return found


def action_bounds(table: Table, summary: Mapping[str, Mapping[str, float]]) -> Array:
    """Lowest and highest recorded action of each agent ``[2, N, A]``; those of all agents where one has none."""
    agents, names = len(table.names), table.schema.action
    found = np.stack([np.full((agents, len(names)), np.inf), np.full((agents, len(names)), -np.inf)])
    np.fmin.at(found[0], table.agent, table.action)
    np.fmax.at(found[1], table.agent, table.action)
    for place, name in enumerate(names):
        lone = ~(found[0, :, place] < found[1, :, place]) & (name in summary)
        found[0, lone, place], found[1, lone, place] = (summary.get(name, {}).get(end, 0.0) for end in ("min", "max"))
    return found
