"""The steps of a table that a model learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from persim.storage import store
from persim.tables.features import Inputs
from persim.tables.table import Table
from persim.tables.units import Units


@dataclass(frozen=True)
class Steps:
    """M steps of a table that are known from end to end; they are ``persim.learning.gradients.Transitions``.

    Attributes:
        agent: ``[M]``.
        observation: histories ``[M, X]`` in the agents' units, float32.
        action: acts ``[M, A]`` in the agents' units, float32; one column of zeros if there are none.
        delta: differences of the states to the next row, ``[M, S]``, float32.
        row: ``[M]``, the row of the table in which each begins.
    """

    agent: NDArray[np.int64]
    observation: NDArray[np.float32]
    action: NDArray[Any]
    delta: NDArray[np.float32]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.agent)

    @property
    def content_hash(self) -> str:
        """SHA-256 of all columns."""
        columns = {name: getattr(self, name) for name in ("agent", "observation", "action", "delta")}
        return store.content_hash(columns, {})


def steps_of(table: Table, inputs: Inputs, units: Units) -> Steps:
    """Collect the steps of a table whose history, acts and next state are known, and that count."""
    following = np.full_like(table.state, np.nan)
    following[:-1] = table.state[1:]
    last = np.append(table.block[1:] != table.block[:-1], True)
    known = np.isfinite(inputs.history).all(1) & np.isfinite(inputs.acts).all(1) & np.isfinite(following).all(1)
    # The step into the first row that counts belongs to it.
    counts = np.append(table.counted[1:], False)
    row = np.flatnonzero(known & ~last & counts)
    delta = (following - table.state)[row].astype(np.float32)
    agent = table.agent[row]
    history = units.history(agent, torch.from_numpy(inputs.history[row]))
    acts = units.acts(agent, torch.from_numpy(inputs.acts[row]))
    return Steps(agent, history.float().numpy(), acts.float().numpy(), delta, row)
