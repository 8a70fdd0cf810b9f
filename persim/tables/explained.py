"""How much of one set of columns a linear map of another explains, within agents."""

from __future__ import annotations

import numpy as np

from persim.tables.grid import Numbers
from persim.tables.reading import Array
from persim.tables.table import Table

PER_COEFFICIENT = 10  # rows; with fewer a share means nothing


def centred(values: Array, agent: Numbers) -> Array:
    """Take from values ``[M, X]`` the mean of each column over the rows of the same agent, ``agent [M]``."""
    count = np.maximum(np.bincount(agent), 1)
    means = [(np.bincount(agent, column) / count)[agent] for column in values.T]
    return np.asarray(values - np.stack(means, 1)) if means else values


def residual(target: Array, given: Array, agent: Numbers) -> Array:
    """What a linear map of ``given [M, X]`` with an intercept for each agent leaves of ``target [M, Y]``."""
    target, given = centred(target, agent), centred(given, agent)
    scale = given.std(0) if len(given) else np.zeros(given.shape[1])
    given = given[:, scale > 0] / scale[scale > 0]
    return np.asarray(target - given @ np.linalg.lstsq(given, target, rcond=1e-9)[0])


def explained(target: Array, given: Array, agent: Numbers) -> float:
    """The share of the variance of ``target [M, Y]`` within agents that a linear map of ``given [M, X]`` explains.

    Every column of the target has equal weight; what chance explains is taken off. NaN where there are fewer than
    ten rows for each coefficient, or no column of the target varies.
    """
    free = len(target) - len(np.unique(agent))
    if not given.shape[1] or free < PER_COEFFICIENT * given.shape[1]:
        return np.nan
    target = centred(target, agent)
    size = np.sqrt(np.square(target).mean(0))
    varies = size > 1e-9 * np.abs(target).max(initial=0)
    if not varies.any():
        return np.nan
    target = target[:, varies] / size[varies]
    left = np.square(residual(target, given, agent)).mean() * len(target) / (free - given.shape[1])
    return float(max(0.0, 1 - left * free / len(target)))


def earlier(table: Table, values: Array, row: Numbers, lags: int) -> Array:
    """Values ``[M, lags]`` of the rows before each ``row [M]``; where there is none, the mean of the agent.

    ``values`` are a column ``[T]`` of the table.
    """
    known = np.isfinite(values)
    count = np.bincount(table.agent[known], minlength=len(table.names))
    mean = np.bincount(table.agent[known], values[known], len(table.names)) / np.maximum(count, 1)
    lag = np.arange(1, lags + 1)
    before = np.where(table.step[row, None] >= lag, values[row[:, None] - lag], np.nan)
    return np.where(np.isnan(before), mean[table.agent[row], None], before)
