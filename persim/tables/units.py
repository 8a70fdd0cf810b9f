"""The units in which the model sees inputs: each agent's own, so that doses of large and small patients compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.storage.store import Arrays
from persim.tables.features import Features
from persim.tables.reading import Array
from persim.tables.table import Table

ROWS = 20.0  # rows of an agent that weigh as much as what its covariates say of its unit
RIDGE = 5.0  # of regressions on standardised covariates, in agents


@dataclass(frozen=True)
class Covariates:
    """Mean and deviation ``[2, G]`` of the covariates of the training agents."""

    values: Array

    @classmethod
    def of(cls, static: Array) -> Covariates:
        """Those of covariates ``[N, G]``, some of which may be missing; a constant one gets deviation 1."""
        known = np.isfinite(static)
        count = np.maximum(known.sum(0), 1)
        mean = np.where(known, static, 0).sum(0) / count
        deviation = np.sqrt(np.where(known, (static - mean) ** 2, 0).sum(0) / count)
        return cls(np.stack([mean, np.where(deviation > 0, deviation, 1.0)]))

    def rows(self, static: Array) -> Array:
        """Return ``[N, 1 + G]``: 1, and the standardised covariates ``[N, G]``; a missing one counts as the mean."""
        standard = np.nan_to_num((static - self.values[0]) / self.values[1])
        return np.concatenate([np.ones((len(static), 1)), standard], axis=1)

    def regression(self, static: Array) -> Array:
        """Return ``[1 + G, N]``, which maps values of N agents to the weights of a ridge regression on ``rows``."""
        rows = self.rows(static)
        ridge = RIDGE * np.eye(rows.shape[1])
        ridge[0, 0] = 0
        return np.asarray(np.linalg.solve(rows.T @ rows + ridge, rows.T))


@dataclass(frozen=True)
class Units:
    """Centre and spread of each agent's acts, shrunk towards what its covariates say.

    Histories and acts are standardised by them before a model sees them: a memory of an input by the unit of that
    input. States stay as they are; the model scales these by the deviation of all agents.

    Attributes:
        features: how tables become histories and acts.
        centre: ``[N, inputs]``.
        spread: ``[N, inputs]``.
        covariates: of the training agents.
        centres: regression of the centre on covariates ``[1 + G, inputs]``.
        spreads: that of the logarithm of the spread.
    """

    features: Features
    centre: Array
    spread: Array
    covariates: Covariates
    centres: Array
    spreads: Array

    @classmethod
    def of(cls, features: Features, table: Table, acts: Array) -> Units:
        """The units of the agents of a table, whose acts are ``[T, inputs]``."""
        count, mean, variance = _moments(table, acts)
        share = count / np.maximum(count.sum(0), 1)
        whole = (share * mean).sum(0)
        pooled = np.sqrt((share * (variance + (mean - whole) ** 2)).sum(0))
        pooled = np.where(pooled > 0, pooled, 1.0)
        labels = features.labels  # one-hot columns have one unit for all
        mean[:, :labels], variance[:, :labels] = whole[:labels], pooled[:labels] ** 2
        covariates = Covariates.of(table.static)
        project = covariates.regression(table.static)
        known = np.where(count > 0, mean, whole)
        spread = np.log(np.maximum(np.sqrt(np.where(count > 1, variance, pooled**2)), 1e-2 * pooled))
        units = cls(features, mean, pooled, covariates, project @ known, project @ spread)
        return units.for_agents(table, acts)

    def for_agents(self, table: Table, acts: Array) -> Units:
        """The units of the agents of another table, whose acts are ``[T, inputs]``."""
        count, mean, variance = _moments(table, acts)
        rows = self.covariates.rows(table.static)
        before, wide = rows @ self.centres, np.exp(rows @ self.spreads)
        share = np.where(count > 0, count / (count + ROWS), 0)
        share[:, : self.features.labels] = 0
        centre = share * mean + (1 - share) * before
        spread = np.sqrt(share * variance + (1 - share) * wide**2)
        return replace(self, centre=centre, spread=spread)

    def joined(self, kept: list[int], others: Units) -> Units:
        """The units of some agents of these, then of all agents of others."""
        centre, spread = np.concatenate([self.centre[kept], others.centre]), self.spread[kept]
        return replace(self, centre=centre, spread=np.concatenate([spread, others.spread]))

    def acts(self, agents: NDArray[np.int64], acts: Tensor) -> Tensor:
        """Standardise acts ``[..., B, inputs]`` of agents ``[B]``; without inputs a column of zeros stands for them."""
        if not acts.shape[-1]:
            return acts.new_zeros((*acts.shape[:-1], 1))
        return (acts - torch.from_numpy(self.centre[agents])) / torch.from_numpy(self.spread[agents])

    def history(self, agents: NDArray[np.int64], history: Tensor) -> Tensor:
        """Standardise the memories of inputs in histories ``[..., B, X]`` of agents ``[B]``."""
        states = self.features.states
        places = [place for place, source in enumerate(self.features.sources) if source >= states]
        if not places:
            return history
        columns = [self.features.states * self.features.lags + place for place in places]
        inputs = [self.features.sources[place] - states for place in places]
        centre, spread = (torch.from_numpy(unit[agents][:, inputs]) for unit in (self.centre, self.spread))
        found = history.clone()
        found[..., columns] = (history[..., columns] - centre) / spread
        return found

    def arrays(self) -> Arrays:
        """All arrays by name."""
        found = {name: getattr(self, name) for name in ("centre", "spread", "centres", "spreads")}
        return {f"units.{name}": array for name, array in (found | {"covariates": self.covariates.values}).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], features: Features) -> Units:
        """Read what ``arrays`` gave."""
        names = ("centre", "spread", "covariates", "centres", "spreads")
        centre, spread, covariates, centres, spreads = (np.array(arrays[f"units.{name}"]) for name in names)
        return cls(features, centre, spread, Covariates(covariates), centres, spreads)


def _moments(table: Table, acts: Array) -> tuple[Array, Array, Array]:
    """Number, mean and variance of each agent's known acts, each ``[N, inputs]``; 0 where none is known."""
    agents = len(table.names)
    known = np.isfinite(acts)
    count, total, square = (np.zeros((agents, acts.shape[1])) for _ in range(3))
    np.add.at(count, table.agent, known)
    np.add.at(total, table.agent, np.where(known, acts, 0))
    mean = total / np.maximum(count, 1)
    np.add.at(square, table.agent, np.where(known, acts - mean[table.agent], 0) ** 2)
    return count, mean, square / np.maximum(count, 1)
