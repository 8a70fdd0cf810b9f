"""Windows of a table: where open-loop predictions start, what truly followed, and the errors per agent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persim.tables.features import Inputs
from persim.tables.reading import Array
from persim.tables.table import Table

MOST = 20_000  # windows that are compared at most, spread evenly


@dataclass(frozen=True)
class Windows:
    """B windows of H steps in a table.

    Attributes:
        table: the table.
        row: ``[B]``, the row of the present state, from which a window predicts the next H rows.
        history: ``[B, X]`` of that row.
        acts: ``[B, H, inputs]``: what is done at that row and the next H - 1.
        true: ``[B, H, S]``, what followed; NaN where it is missing.
    """

    table: Table
    row: NDArray[np.int64]
    history: Array
    acts: Array
    true: Array

    def __len__(self) -> int:
        return len(self.row)

    @property
    def agent(self) -> NDArray[np.int64]:
        """Each window's agent ``[B]``."""
        return self.table.agent[self.row]

    @classmethod
    def of(cls, table: Table, inputs: Inputs, horizon: int, most: int = MOST) -> Windows:
        """All windows whose history and acts are known and whose predicted rows count, at most ``most``."""
        usable = np.isfinite(inputs.history).all(1)
        acts = np.isfinite(inputs.acts).all(1)
        sizes = np.bincount(table.block)[table.block]
        acting = np.append(0, np.cumsum(acts))
        row = np.flatnonzero(usable & (table.step + horizon < sizes) & (table.step + 1 >= table.start[table.block]))
        row = row[acting[row + horizon] - acting[row] == horizon]
        if len(row) > most:
            row = row[np.linspace(0, len(row) - 1, most).astype(np.int64)]
        steps = row[:, None] + np.arange(horizon)
        return cls(table, row, inputs.history[row], inputs.acts[steps], table.state[steps + 1])

    def errors(self, predicted: Array, unit: Array | None = None) -> Array:
        """Return the RMSE ``[N, S]`` of each agent over all its windows and steps; NaN for an agent without any.

        Predicted states are ``[B, H, S]``; errors are in units of ``unit`` ``[S]``, or of the states.
        """
        squared = ((predicted - self.true) / (1.0 if unit is None else unit)) ** 2
        known = np.isfinite(squared)
        total, count = (np.zeros((len(self.table.names), squared.shape[-1])) for _ in range(2))
        np.add.at(total, self.agent, np.where(known, squared, 0).sum(1))
        np.add.at(count, self.agent, known.sum(1))
        return np.sqrt(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))


def typical_length(table: Table) -> int:
    """The median number of rows that count in a trajectory."""
    return int(np.median(np.bincount(table.block) - table.start))
