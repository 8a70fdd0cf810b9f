"""What a model sees of a table: the present row, earlier states, and exponential memories, all computed, not learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from persim.tables.reading import Array
from persim.tables.schema import Schema
from persim.tables.table import Table


class Inputs(NamedTuple):
    """A table as a model sees it, NaN where unknown.

    Attributes:
        history: ``[T, X]``: the S present states, the S states before, and so on, then the memories.
        acts: ``[T, A]``: actions (discrete ones one-hot), then known inputs.
    """

    history: Array
    acts: Array


@dataclass(frozen=True)
class Features:
    """The layout of ``history`` and ``acts``, and how one history follows from another.

    A memory m of a column z with time constant tau (in steps) goes on as ``m + (1 - exp(-1 / tau)) (z - m)``, so it is
    in the unit of its column. It begins at the first known value of a state, or the mean of an input over its
    block, and stays where z is missing. A missing earlier state is interpolated between its neighbours, if there are
    some on both sides that are not later than the present; a missing present one stays missing.

    Attributes:
        states: S.
        lags: values of each state that are seen.
        labels: number of labels of a discrete action, or 0.
        inputs: number of columns of ``acts``.
        sources: of each memory: index into the S states and then ``acts``.
        decay: of each memory: the share that it keeps each step.
    """

    states: int
    lags: int
    labels: int
    inputs: int
    sources: tuple[int, ...]
    decay: tuple[float, ...]

    @classmethod
    def of(cls, table: Table) -> Features:
        """The layout of a table's schema, with its grid."""
        schema, labels = table.schema, len(table.labels)
        inputs = (labels if schema.discrete else len(schema.action)) + len(schema.known)
        columns = (*schema.state, *((None,) * labels if schema.discrete else schema.action), *schema.known)
        spans = [(columns.index(name), span) for name, spans in table.memory.items() for span in spans]
        decay = tuple(float(np.exp(-1 / span)) for _, span in spans)
        return cls(len(schema.state), schema.lags, labels, inputs, tuple(place for place, _ in spans), decay)

    @property
    def width(self) -> int:
        """X, the number of columns of a history."""
        return self.states * self.lags + len(self.decay)

    def names(self, schema: Schema) -> tuple[list[str], list[str]]:
        """Name the columns of ``history`` and of ``acts`` for a reader."""
        acts = [f"{schema.action[0]}={label}" for label in schema.labels] if schema.discrete else list(schema.action)
        acts += schema.known
        earlier = [f"{name}, {lag} before" for lag in range(1, self.lags) for name in schema.state]
        spans = [f"memory of {name} over {span}" for name, found in schema.memory.items() for span in found]
        return [*schema.state, *earlier, *spans], acts

    def inputs_of(self, table: Table) -> Inputs:
        """Compute what a model sees at each row of a table."""
        acts = self.acts(table.action, table.known)
        history = np.concatenate([self._lagged(table), self._memories(table, acts)], axis=1)
        return Inputs(history, acts)

    def acts(self, action: Array, known: Array) -> Array:
        """Encode actions ``[..., A]`` (codes if discrete) and known inputs ``[..., C]`` as acts ``[..., inputs]``."""
        if self.labels:
            action = np.where(np.isnan(action), np.nan, action == np.arange(self.labels))
        return np.concatenate([action, known], axis=-1)

    def following(self, history: Tensor, acts: Tensor, states: Tensor) -> Tensor:
        """Return the next histories ``[..., X]``, given acts ``[..., inputs]`` and the next states ``[..., S]``."""
        kept = [states, history[..., : self.states * (self.lags - 1)]]
        if self.decay:
            memory = history[..., self.states * self.lags :]
            sources = torch.cat([history[..., : self.states], acts.expand(*history.shape[:-1], -1)], dim=-1)
            decay = torch.tensor(self.decay, dtype=history.dtype, device=history.device)
            kept.append(torch.lerp(sources[..., list(self.sources)], memory, decay))
        return torch.cat(kept, dim=-1)

    def _lagged(self, table: Table) -> Array:
        """Present and earlier states ``[T, S * lags]``."""
        filled = _interpolated(table)
        columns = []
        for lag in range(self.lags):
            shifted = np.full_like(table.state, np.nan)
            source = table.state if lag == 0 else filled
            shifted[lag:] = source[: len(source) - lag]
            shifted[table.step < lag] = np.nan
            columns.append(shifted)
        return np.concatenate(columns, axis=1)

    def _memories(self, table: Table, acts: Array) -> Array:
        """Memories ``[T, M]``, each of what was before its row."""
        values = np.concatenate([table.state, acts], axis=1)[:, list(self.sources)]
        sizes = np.bincount(table.block)
        padded = np.full((len(sizes), sizes.max(), values.shape[1]), np.nan)
        padded[table.block, table.step] = values
        memory = np.where(np.array(self.sources) < self.states, _first_known(padded), _mean_known(padded))
        found, share = np.empty_like(padded), 1 - np.array(self.decay)
        for step in range(padded.shape[1]):
            found[:, step] = memory
            memory = memory + share * np.nan_to_num(padded[:, step] - memory)
        return found[table.block, table.step]


def _interpolated(table: Table) -> Array:
    """States ``[T, S]`` with gaps inside a block interpolated over time."""
    filled = table.state.copy()
    for column in filled.T:
        known = np.flatnonzero(~np.isnan(column))
        if 0 < len(known) < len(column):
            gaps = np.flatnonzero(np.isnan(column))
            place = np.searchsorted(known, gaps)
            inner = (place > 0) & (place < len(known))
            gaps, left, right = gaps[inner], known[place[inner] - 1], known[place[inner]]
            same = table.block[left] == table.block[right]
            gaps, left, right = gaps[same], left[same], right[same]
            column[gaps] = column[left] + (column[right] - column[left]) * (gaps - left) / (right - left)
    return filled


def _first_known(padded: Array) -> Array:
    """The first value ``[blocks, M]`` of ``[blocks, T, M]`` that is known, 0 where none is."""
    first = np.isfinite(padded).argmax(1)
    return np.nan_to_num(np.take_along_axis(padded, first[:, None], 1)[:, 0])


def _mean_known(padded: Array) -> Array:
    """The mean ``[blocks, M]`` of the known values of ``[blocks, T, M]``, 0 where none is."""
    known = np.isfinite(padded)
    return np.asarray(np.where(known, padded, 0).sum(1) / np.maximum(known.sum(1), 1))
