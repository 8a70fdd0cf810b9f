"""Rewards of plans and policies: a function of named columns, or what a table's recorded reward teaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from persim.errors import InputError
from persim.storage.store import Arrays
from persim.tables.reading import Array
from persim.tables.schema import Schema
from persim.tables.table import Table

RIDGE = 1e-3  # of the regression, as a share of the number of rows


class Row(dict[str, Any]):
    """Columns by name, as ``row["cgm"]`` or ``row.cgm``; each is an array with one value for each simulated path.

    A discrete action is an array of its labels.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"no column {name!r}; there are: {', '.join(self)}") from error


Reward = Callable[[Row], Any]


@dataclass(frozen=True)
class Rewards:
    """A quadratic ridge regression of the recorded reward on the state after a step and what was done in it.

    Attributes:
        weights: of 1, the standardised columns, and all their products of two.
        scale: mean and deviation of the columns ``[2, D]``.
        explained: share of the recorded rewards' variance that it explains.
    """

    weights: Array
    scale: Array
    explained: float

    @classmethod
    def of(cls, table: Table) -> Rewards | None:
        """Learn it from a table; None where no reward is recorded, or too few are to learn from."""
        if table.reward is None:
            return None
        same = np.append(table.block[1:] == table.block[:-1], False)
        columns = np.concatenate([np.roll(table.state, -1, axis=0), table.action, table.known], axis=1)
        known = same & np.isfinite(columns).all(1) & np.isfinite(table.reward)
        columns, rewards = columns[known], table.reward[known]
        if len(rewards) <= columns.shape[1]:
            return None
        deviation = columns.std(0)
        scale = np.stack([columns.mean(0), np.where(deviation > 0, deviation, 1.0)])
        terms = _quadratic(columns, scale)
        ridge = RIDGE * len(terms) * np.eye(terms.shape[1])
        ridge[0, 0] = 0
        weights = np.linalg.solve(terms.T @ terms + ridge, terms.T @ rewards)
        spread = rewards.var()
        explained = 1 - np.square(rewards - terms @ weights).mean() / spread if spread > 0 else 1.0
        return cls(weights, scale, float(explained))

    def __call__(self, states: Array, action: Array, known: Array) -> Array:
        """Return rewards ``[...]`` of next states ``[..., S]``, actions (codes if discrete) and known inputs."""
        columns = np.concatenate([states, action, known], axis=-1)
        return np.asarray(_quadratic(columns.reshape(-1, columns.shape[-1]), self.scale) @ self.weights).reshape(
            columns.shape[:-1]
        )

    def arrays(self) -> Arrays:
        """All arrays by name."""
        found = {"weights": self.weights, "scale": self.scale, "explained": np.array([self.explained])}
        return {f"rewards.{name}": array for name, array in found.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Rewards | None:
        """Read what ``arrays`` gave; None where there is none."""
        if "rewards.weights" not in arrays:
            return None
        weights, scale, explained = (arrays[f"rewards.{name}"] for name in ("weights", "scale", "explained"))
        return cls(np.array(weights), np.array(scale), float(explained[0]))


def _quadratic(columns: Array, scale: Array) -> Array:
    z = (columns - scale[0]) / scale[1]
    first, second = np.triu_indices(z.shape[1])
    return np.concatenate([np.ones((len(z), 1)), z, z[:, first] * z[:, second]], axis=1)


@dataclass(frozen=True)
class RewardOf:
    """The reward of simulated steps.

    Attributes:
        schema: names the columns.
        function: of the user, or None for ``learnt``.
        learnt: from the recorded reward.

    Raises:
        InputError: there is neither.
    """

    schema: Schema
    function: Reward | None
    learnt: Rewards | None

    def __post_init__(self) -> None:
        if self.function is None and self.learnt is None:
            raise InputError("no reward was recorded to learn from; give a function of the columns as reward")

    def row(self, states: Array, action: Array, known: Array) -> Row:
        """Name the columns: next states ``[..., S]``, actions and known inputs of the step, each ``[..., D]``."""
        given: dict[str, Any] = dict(zip(self.schema.state, np.moveaxis(states, -1, 0), strict=True))
        if self.schema.discrete:
            given[self.schema.action[0]] = np.array(self.schema.labels)[action[..., 0].astype(np.int64)]
        else:
            given |= dict(zip(self.schema.action, np.moveaxis(action, -1, 0), strict=True))
        return Row(given | dict(zip(self.schema.known, np.moveaxis(known, -1, 0), strict=True)))

    def __call__(self, states: Array, action: Array, known: Array) -> Array:
        """Return rewards ``[...]``.

        Raises:
            InputError: the user's function gives something else than one number for each path.
        """
        if self.function is None:
            assert self.learnt is not None  # checked when made
            return self.learnt(states, action, known)
        try:
            found = np.asarray(self.function(self.row(states, action, known)), dtype=np.float64)
            return np.array(np.broadcast_to(found, states.shape[:-1]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the reward function failed ({type(error).__name__}: {error}); it is given columns of arrays, such as "
                "row['cgm'], and has to give an array of numbers"
            ) from error
