"""Put rows on a regular grid of times, a block per trajectory; what is missing stays missing and is counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persim.tables.reading import Array, Rows
from persim.tables.schema import Schema, Span, calendar, seconds

if TYPE_CHECKING:
    import pandas as pd

Numbers = NDArray[np.int64]
MOVED = 0.1  # of a step; a row that lies further off its grid point is counted as moved
_SPARSE = 20  # a grid may have this many points for each row that was read, and a thousand more
_logger = logging.getLogger(__name__)
_NAMED = ((86400, "D"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Grid:
    """Where T rows stand on the regular grid of L points; a block is a trajectory of one agent.

    Attributes:
        order: ``[T]``, the rows in order of agent, trajectory and time.
        point: ``[T]``, the grid point of each of these.
        first: ``[blocks]``, which of these starts each block.
        block: ``[L]``, the block of each grid point.
        step: ``[L]``, the steps since the start of the block.
        time: ``[L]``, in the unit of the rows.
        every: the step, in the form of the schema.
        moved: how many rows lay more than a tenth of a step off the grid.
    """

    order: Numbers
    point: Numbers
    first: Numbers
    block: Numbers
    step: Numbers
    time: Array
    every: Span
    moved: int

    def mean(self, values: Array) -> Array:
        """Average the known values of each grid point: ``[T]`` to ``[L]``, NaN where there is none."""
        ordered, size = values[self.order], len(self.time)
        known = np.isfinite(ordered)
        count = np.bincount(self.point[known], minlength=size)
        total = np.bincount(self.point[known], ordered[known], minlength=size)
        return np.asarray(np.divide(total, count, out=np.full(size, np.nan), where=count > 0))

    def last(self, values: Array) -> Array:
        """Take the last known value of each grid point: ``[T]`` to ``[L]``, NaN where there is none."""
        ordered, grid = values[self.order], np.full(len(self.time), np.nan)
        known = np.isfinite(ordered)
        grid[self.point[known]] = ordered[known]
        return grid


def on_grid(rows: Rows, schema: Schema) -> dict[str, Any]:
    """Put rows on a grid; return the fields of a ``Table``.

    Raises:
        InputError: as ``grid_of``, or a static column varies within an agent.
    """
    import pandas as pd

    grid = grid_of(rows, schema)
    schema = replace(schema, every=grid.every)
    code, names = pd.factorize(rows.agents)
    starts = grid.order[grid.first]
    columns = {name: grid.mean(values) for name, values in rows.values.items() if name not in schema.static}
    if schema.discrete:
        columns[schema.action[0]] = grid.last(rows.values[schema.action[0]])
    points = len(np.unique(grid.point))
    counts = {"rows": len(rows.time), "moved": grid.moved, "merged": len(rows.time) - points}
    counts |= {"inserted": len(grid.time) - points, "filled": 0}
    for name, value in schema.fill.items():
        gone = np.isnan(columns[name])
        columns[name][gone] = value
        counts["filled"] += int(gone.sum())
    if counts["merged"]:
        what = "%s: %d rows share a point of the grid (every %s) with another: their mean is taken"
        _logger.warning(what, rows.source, counts["merged"], schema.every)
    return {
        "schema": schema,
        "names": tuple(map(str, names)),
        "trajectories": tuple(map(str, rows.trajectories[starts])),
        "agent": code[starts][grid.block],
        "block": grid.block,
        "step": grid.step,
        "time": grid.time,
        "static": _stacked([one_each(rows, code, name) for name in schema.static], len(names)),
        "reward": columns[schema.reward] if schema.reward else None,
        "start": np.zeros(len(starts), dtype=np.int64),
        "counts": counts,
    } | {
        role: _stacked([columns[name] for name in getattr(schema, role)], len(grid.time))
        for role in ("state", "action", "known")
    }


def _stacked(columns: Sequence[Array], size: int) -> Array:
    return np.stack(columns, 1) if columns else np.empty((size, 0))


def one_each(rows: Rows, agent: Numbers, column: str) -> Array:
    """Return the one value ``[N]`` of a static column for each of N agents, NaN where it is unknown.

    ``agent`` ``[T]`` is the number of each row's agent.

    Raises:
        InputError: the column varies within an agent.
    """
    values = rows.values[column]
    low = np.full(int(agent.max()) + 1, np.nan)
    np.fmin.at(low, agent, values)
    for row in np.flatnonzero(np.isfinite(values) & (values != low[agent]))[:1]:
        other = int(np.flatnonzero((agent == agent[row]) & (values == low[agent[row]]))[0])
        row, other = max(row, other), min(row, other)
        what = f"{values[row]:g}, but {values[other]:g} in data row {other + 1}; a static column has one value an agent"
        raise rows.error(row, column, f"{what} (make it known if it changes in time)")
    return low


def grid_of(rows: Rows, schema: Schema) -> Grid:
    """Put each row on the nearest point of a grid that starts at the first time of its trajectory.

    Raises:
        InputError: two rows of one trajectory have one time, or the gaps are far too long for the step.
    """
    import pandas as pd

    agent, _ = pd.factorize(rows.agents)
    words, _ = pd.factorize(rows.trajectories)
    part, _ = pd.factorize(agent * (words.max() + 1) + words)
    order = np.lexsort((rows.time, part, agent))
    time, part = rows.time[order], part[order]
    new = np.append(True, part[1:] != part[:-1])
    first, block = np.flatnonzero(new), np.cumsum(new) - 1
    between = np.diff(time)
    for place in np.flatnonzero(~new[1:] & (between == 0))[:1]:
        earlier, later = sorted(order[place : place + 2])
        what = f"the time is the same as in data row {earlier + 1}; give one row per agent and time"
        raise rows.error(later, schema.time, what)
    every = schema.every
    if every is None:
        every = _common_step(between[~new[1:]], rows.stamps)
    place, moved = _places(time, first[block], every)
    _check_gaps(rows, schema, order, place, new)
    sizes = place[np.append(first[1:], len(time)) - 1] + 1
    start = np.cumsum(sizes) - sizes
    blocks = np.repeat(np.arange(len(first)), sizes)
    step = np.arange(sizes.sum()) - start[blocks]
    return Grid(order, start[block] + place, first, blocks, step, _grid_times(time[first][blocks], step, every),
                every, moved)  # fmt: skip


def _common_step(between: Array, stamps: bool) -> Span:
    """Find the most common difference ``[T]`` of times; where they jitter, a round one near the median."""
    if not len(between):
        return "1D" if stamps else 1.0
    between = np.round(between, 6) if stamps else between  # seconds since 1970 are not exacter
    scale = 10.0 ** (5 - np.floor(np.log10(between)))  # six digits tell differences apart
    _, kind, counts = np.unique(np.round(between * scale) / scale, return_inverse=True, return_counts=True)
    common = kind == counts.argmax()
    step = float(np.median(between[common])) if 2 * common.sum() >= len(between) else _rounded(between, stamps)
    short = float(f"{step:.6g}")
    step = short if abs(short - step) < 1e-9 * step else step
    if not stamps:
        return step
    if (between % step).any():  # months, quarters and years differ in length
        for key, low, high in (("MS", 28, 31), ("QS", 89, 92), ("YS", 365, 366)):
            if low <= step / _NAMED[0][0] <= high and between.min() >= low * _NAMED[0][0]:
                return key
    size, unit = next(((size, unit) for size, unit in _NAMED if step % size == 0), (1e-3, "ms"))
    return f"{step / size:g}{unit}"


def _rounded(between: Array, stamps: bool) -> float:
    """Find a round step within a twentieth of the median difference ``[T]``, or take the median."""
    step = float(np.median(between))
    size = next((size for size, _ in _NAMED if stamps and step > 0.95 * size), 1)
    found = float(f"{step / size:.1g}"), float(f"{step / size:.2g}")
    return next((one * size for one in found if abs(one * size - step) < 0.05 * step), step)


def _places(time: Array, first: Numbers, every: Span) -> tuple[Numbers, int]:
    """Find the step ``[T]`` on the grid of each ordered row, and how many rows are moved to be there."""
    if key := calendar(every):
        number = _moments(time).to_period(key).asi8
        return number - number[first], 0
    exact = np.minimum((time - time[first]) / seconds(every), 1e15)  # a gap that is refused
    place = np.floor(exact + 0.5).astype(np.int64)
    return place, int((np.abs(exact - place) > MOVED).sum())


def _grid_times(start: Array, step: Numbers, every: Span) -> Array:
    """Compute the times ``[L]`` of grid points from the times at which their blocks start."""
    if key := calendar(every):
        import pandas as pd

        number = _moments(start).to_period(key).asi8 + step
        moments = pd.PeriodIndex.from_ordinals(number, freq=key).to_timestamp()  # type: ignore[attr-defined]  # the stubs lack it
        return np.asarray((moments - pd.Timestamp(0)) / pd.Timedelta("1s"), dtype=np.float64)
    return np.asarray(start + step * seconds(every))


def _moments(time: Array) -> pd.DatetimeIndex:
    import pandas as pd

    return pd.to_datetime(time, unit="s")


def _check_gaps(rows: Rows, schema: Schema, order: Numbers, place: Numbers, new: NDArray[np.bool_]) -> None:
    jumps = np.where(new[1:], 0, np.diff(place))
    if jumps.sum() + new.sum() <= _SPARSE * len(order) + 1000:
        return
    worst = int(jumps.argmax()) + 1
    what = f"{jumps[worst - 1] - 1:,} steps are missing before this time; check the times, give a larger `every`, or"
    raise rows.error(order[worst], schema.time, f"{what} a trajectory column that tells the parts apart")
