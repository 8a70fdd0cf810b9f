"""The table type: rows of many agents on a regular grid of times, in columns by role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persim.errors import InputError, check_between, check_choice
from persim.tables import usable
from persim.tables.grid import Numbers, on_grid
from persim.tables.reading import Array, read_rows
from persim.tables.schema import Schema, seconds

if TYPE_CHECKING:
    import pandas as pd

MEMORY_SPANS = 5  # after so many time constants a memory keeps less than a hundredth of what it held


@dataclass(frozen=True, eq=False)
class Table:
    """Rows on a regular grid, ordered by agent, trajectory and time; arrays are read-only, NaN where missing.

    Axis letters: T rows, N agents, S state, A action, C known-input and G static columns. A block is one trajectory
    of one agent; its rows are contiguous and no time is missing in it: where the source had no row, all is NaN.

    Attributes:
        schema: the schema, with ``every`` and the labels of a discrete action as they were found.
        names: the agents' ids as texts, in the order of their first appearance.
        trajectories: the id of each block's trajectory; empty texts where there is no such column.
        agent: ``[T]``, index into ``names``.
        block: ``[T]``, number of the block, counting up from 0.
        step: ``[T]``, number of the step in its block, from 0.
        time: ``[T]``, in the unit of the time column; in seconds since 1970 (UTC) for timestamps.
        state: ``[T, S]``.
        action: ``[T, A]``; a discrete action is ``[T, 1]`` and holds the codes 0, 1, ... of its labels.
        known: ``[T, C]``.
        reward: ``[T]``, or None.
        static: ``[N, G]``.
        start: ``[blocks]``, the first step of each block that counts; what is before is context for lags and memories.
        counts: what reading did: ``rows`` read, ``moved`` by over a tenth of a step to be on the grid, ``merged`` with
            another row on one grid point (their mean is taken), ``inserted`` where none was, and ``filled`` by the
            schema's ``fill``.
    """

    schema: Schema
    names: tuple[str, ...]
    trajectories: tuple[str, ...]
    agent: Numbers
    block: Numbers
    step: Numbers
    time: Array
    state: Array
    action: Array
    known: Array
    reward: Array | None
    static: Array
    start: Numbers
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, np.ndarray) and value.flags.writeable:
                frozen = value.view()
                frozen.flags.writeable = False
                object.__setattr__(self, one.name, frozen)

    @classmethod
    def of_frame(cls, source: Any, schema: Schema, *, new: bool = False) -> Table:
        """See ``read_table``."""
        rows, schema = read_rows(source, schema)
        table = cls(**on_grid(rows, schema))
        if not new:
            usable.check_rows(table, rows.source)
            usable.check_actions(table, rows.source)
        return table

    def __len__(self) -> int:
        return len(self.agent)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the discrete action, or nothing."""
        return self.schema.labels

    @property
    def every(self) -> float:
        """The step of the grid in the unit of ``time``; the mean one for months, quarters and years."""
        assert self.schema.every is not None  # reading finds it
        return seconds(self.schema.every)

    @property
    def stamps(self) -> bool:
        """Whether the times are timestamps."""
        return isinstance(self.schema.every, str)

    @property
    def memory(self) -> dict[str, tuple[float, ...]]:
        """The time constants of each remembered column, in steps of the grid."""
        return {name: tuple(seconds(span) / self.every for span in spans) for name, spans in self.schema.memory.items()}

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Whether each row ``[T]`` counts, or is context before the first that does."""
        return np.asarray(self.step >= self.start[self.block])

    def column(self, name: str) -> Array:
        """Return a column ``[T]`` of states, actions, known inputs or the reward, or a static one ``[N]``.

        Raises:
            InputError: no such column has a role.
        """
        for role in ("state", "action", "known", "static"):
            if name in getattr(self.schema, role):
                return np.asarray(getattr(self, role)[:, getattr(self.schema, role).index(name)])
        if name == self.schema.reward and self.reward is not None:
            return self.reward
        check_choice("column", name, self.schema.columns)
        raise InputError(f"column {name!r} holds no numbers")

    def of_agents(self, names: Sequence[str]) -> Table:
        """Keep only these agents, in the order of the table.

        Raises:
            InputError: an agent is not in the table, or none is named.
        """
        for name in names:
            check_choice("agent", str(name), self.names)
        kept = np.isin(self.names, list(map(str, names)))
        if not kept.any():
            raise InputError("no agent is named; give at least one")
        number = np.cumsum(kept) - 1
        part = self._rows(kept[self.agent])
        chosen = tuple(name for name, keep in zip(self.names, kept, strict=True) if keep)
        return replace(part, names=chosen, agent=number[part.agent], static=self.static[kept])

    def head(self, steps: int) -> Table:
        """Keep the first ``steps`` rows of each agent that count, over all its trajectories, and the context."""
        if steps < 1:
            raise InputError(f"head of {steps} rows; give at least 1")
        counted = np.cumsum(self.counted)
        opens = np.searchsorted(self.agent, np.arange(len(self.names)))
        before = np.append(0, counted)[opens][self.agent]
        return self._rows(counted - before + ~self.counted <= steps)

    def split_last(self, share: float) -> tuple[Table, Table]:
        """Split off the last share of each trajectory's rows; the test keeps what its lags and memories need before.

        Raises:
            InputError: the share is not between 0 and 1, or leaves an agent too few rows for the lags, or no test.
        """
        check_between("share", share, 0, 1)
        return self._split(1 - share, 1.0)

    def folds(self, number: int) -> list[tuple[Table, Table]]:
        """Cut the time of each trajectory into blocks and leave out each in turn: ``(train, test)`` pairs.

        The rows before and after what is left out are two blocks of the training table.

        Raises:
            InputError: fewer than two folds are wanted, or an agent has too few rows for so many.
        """
        if number < 2:
            raise InputError(f"number of folds is {number}; give at least 2")
        return [self._split(fold / number, (fold + 1) / number) for fold in range(number)]

    def _split(self, low: float, high: float) -> tuple[Table, Table]:
        context = self.schema.lags - 1
        context += int(np.ceil(MEMORY_SPANS * max((max(spans) for spans in self.memory.values() if spans), default=0)))
        sizes = np.bincount(self.block) - self.start
        begin, end = (self.start + np.floor(share * sizes + 0.5).astype(np.int64) for share in (low, high))
        inside = (self.step >= begin[self.block]) & (self.step < end[self.block])
        kept_from = np.maximum(begin - context, 0)
        test = self._rows(inside | ((self.step >= kept_from[self.block]) & (self.step < begin[self.block])
                                    & (end > begin)[self.block]))  # fmt: skip
        test = replace(test, start=(begin - kept_from)[end > begin])
        train = self._rows(~inside, after=self.step >= end[self.block])
        usable.check_split(self, train, test)
        return train, test

    def _rows(self, kept: NDArray[np.bool_], after: NDArray[np.bool_] | None = None) -> Table:
        """Keep some rows ``[T]``, and all agents; rows ``after`` a hole are blocks of their own."""
        old = self.block[kept]
        side = old if after is None else 2 * old + after[kept]
        new = np.append(True, side[1:] != side[:-1]) if len(side) else np.zeros(0, dtype=bool)
        block, opens = np.cumsum(new) - 1, np.flatnonzero(new)
        step = np.arange(len(old)) - opens[block]
        from_block = old[opens]
        start = np.maximum(self.start[from_block] - self.step[kept][opens], 0)
        columns = {name: getattr(self, name)[kept] for name in ("agent", "time", "state", "action", "known")}
        reward = None if self.reward is None else self.reward[kept]
        trajectories = tuple(self.trajectories[number] for number in from_block)
        return replace(self, trajectories=trajectories, block=block, step=step, start=start, reward=reward, **columns)

    def summary(self) -> dict[str, dict[str, float]]:
        """Describe columns of numbers: ``median`` of the sizes that are not 0, ``min``, ``max``, ``mean``, ``std``."""
        found = {}
        for name in self.schema.numbers:
            values = self.column(name)
            values = values[np.isfinite(values)]
            if len(values):
                size = np.abs(values[values != 0])
                about = (np.median(size) if len(size) else 0, values.min(), values.max(), values.mean(), values.std())
                found[name] = dict(zip(("median", "min", "max", "mean", "std"), map(float, about), strict=True))
        return found

    def missing(self) -> dict[str, int]:
        """Count the missing values of each column of numbers or labels."""
        names = self.schema.state + self.schema.inputs + self.schema.static
        names += (self.schema.reward,) if self.schema.reward else ()
        return {name: int(np.isnan(self.column(name)).sum()) for name in names}

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas frame with the original column names, one row per grid point; timestamps are in UTC."""
        import pandas as pd

        schema = self.schema
        about: dict[str, Any] = {}
        about[schema.agent] = np.array(self.names, dtype=object)[self.agent]
        if schema.trajectory is not None:
            about[schema.trajectory] = np.array(self.trajectories, dtype=object)[self.block]
        about[schema.time] = pd.to_datetime(self.time, unit="s").round("us") if self.stamps else self.time
        for role in ("state", "action", "known"):
            about |= dict(zip(getattr(schema, role), getattr(self, role).T, strict=True))
        if schema.discrete:
            code = self.action[:, 0]
            words = np.array([*schema.labels, None], dtype=object)
            about[schema.action[0]] = words[np.where(np.isnan(code), -1, code).astype(int)]
        about |= dict(zip(schema.static, self.static[self.agent].T, strict=True))
        if schema.reward is not None:
            about[schema.reward] = self.reward
        return pd.DataFrame(about)

    def describe(self) -> str:
        """Say in one line how much there is."""
        step = f"every {self.schema.every}" if self.stamps else f"every {self.every:g} of {self.schema.time!r}"
        agents, parts = len(self.names), len(self.trajectories)
        gaps = int(np.isnan(self.state).any(1).sum())
        return (
            f"{agents:,} agent{'s' * (agents != 1)}, {parts:,} trajector{'y' if parts == 1 else 'ies'}, "
            f"{len(self):,} rows {step}, {gaps:,} of them with a missing state"
        )


def read_table(source: Any, schema: Schema | str | Path, *, new: bool = False) -> Table:
    """Read a table of one row per agent and time and put it on a regular grid.

    Args:
        source: a path (``.csv``, ``.tsv``, either ``.gz``, or ``.parquet``), a pandas frame, or what has ``to_pandas``.
        schema: the roles of the columns, or the path of a YAML file with them.
        new: whether these are data of new agents for a simulator that is already there: then an agent may be short
            and an action constant.

    Raises:
        InputError: anything in the source is not usable; the message names agent, data row (from 1) and column.
    """
    return Table.of_frame(source, schema if isinstance(schema, Schema) else Schema.load(schema), new=new)
