"""Prediction bands by split conformal inference: how far off predictions of a held-out time were, at each horizon.

The residuals are those of a simulator that did not see the held-out time (Lei et al. 2018). They are divided by the
agent's own typical error, shrunk towards that of all agents, so that easy agents get narrow bands and hard ones wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from persim.errors import check_between
from persim.storage.store import Arrays
from persim.tables.reading import Array
from persim.tables.windows import Windows

LEVELS = np.round(np.arange(0.02, 1.0, 0.02), 2)
SHRINK = 3.0  # windows without overlap that the error of all agents counts as, beside an agent's own


@dataclass(frozen=True)
class Bands:
    """Half-widths of the bands.

    Attributes:
        quantile: ``[H, S, levels]``: of the residuals, in units of ``scale``.
        scale: the typical error of each agent ``[N, S]``.
        typical: that of an agent without held-out time ``[S]``.
    """

    quantile: Array
    scale: Array
    typical: Array

    @classmethod
    def of(cls, late: Windows, predicted: Array, early: Windows, fitted: Array) -> Bands:
        """Calibrate on windows of held-out time, of which ``predicted`` ``[B, H, S]`` were predicted.

        Which agents are hard to predict is judged on these and on windows ``early`` of the time before, of which
        ``fitted`` were predicted by the same simulator: there is more of it, although that simulator has seen it.
        """
        horizon, weighted, weight = predicted.shape[1], 0.0, SHRINK
        for windows, found in ((late, predicted), (early, fitted)):
            squared, known = _relative(windows, found)
            independent = known / horizon**2  # windows overlap, and their steps go together
            weighted, weight = weighted + independent * squared, weight + independent
        scale = np.sqrt((weighted + SHRINK) / weight)
        scaled = np.abs(predicted - late.true) / scale[late.agent][:, None]
        count = np.isfinite(scaled).sum(0)
        levels = np.minimum(LEVELS[:, None, None] * (count + 1) / np.maximum(count, 1), 1.0)
        ordered = np.sort(scaled, axis=0)  # NaN last
        place = np.clip(np.ceil(levels * count).astype(np.int64) - 1, 0, np.maximum(count - 1, 0))
        quantile = np.take_along_axis(ordered, place, axis=0).transpose(1, 2, 0)
        return cls(np.maximum.accumulate(np.nan_to_num(quantile), axis=0), scale, np.ones(scale.shape[1]))

    def halves(self, agents: Array, horizon: int, band: float) -> Array:
        """Half-widths ``[B, horizon, S]`` of bands that cover the share ``band`` for agents with numbers ``[B]``.

        Beyond the horizon that was calibrated they grow as the square root of the steps.

        Raises:
            InputError: the share is not between 0 and 1.
        """
        check_between("band", band, 0, 1)
        scale = self.scale[agents]
        at = np.clip(band, LEVELS[0], LEVELS[-1])
        upper = int(np.clip(np.searchsorted(LEVELS, at), 1, len(LEVELS) - 1))
        share = (at - LEVELS[upper - 1]) / (LEVELS[upper] - LEVELS[upper - 1])
        found = (1 - share) * self.quantile[:, :, upper - 1] + share * self.quantile[:, :, upper]
        steps = np.arange(horizon)
        growth = np.sqrt(np.maximum(steps + 1, len(found)) / len(found))  # of a sum of independent errors
        return np.asarray(found[np.minimum(steps, len(found) - 1)] * growth[:, None] * scale[:, None])

    def of_agents(self, kept: Sequence[int], new: int) -> Bands:
        """Keep the agents with these numbers, and add ``new`` ones whose error is typical."""
        added = np.repeat(self.typical[None], new, axis=0)
        return replace(self, scale=np.concatenate([self.scale[list(kept)], added]))

    def arrays(self) -> Arrays:
        """All arrays by name."""
        return {f"bands.{name}": getattr(self, name) for name in ("quantile", "scale", "typical")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Bands | None:
        """Read what ``arrays`` gave; None where there is none."""
        names = ("quantile", "scale", "typical")
        return cls(*(np.array(arrays[f"bands.{name}"]) for name in names)) if "bands.scale" in arrays else None


def _relative(windows: Windows, predicted: Array) -> tuple[Array, Array]:
    """Each agent's mean squared error in units of that of all agents at each horizon ``[N, S]``, 1 where none is known.

    It also returns the number of values that are known ``[N, S]``.
    """
    squared = (predicted - windows.true) ** 2
    known = np.isfinite(squared)
    pooled = np.where(known, squared, 0).sum(0) / np.maximum(known.sum(0), 1)
    squared = squared / np.where(pooled > 0, pooled, 1.0)
    shape = (len(windows.table.names), squared.shape[2])
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, windows.agent, np.where(known, squared, 0).sum(1))
    np.add.at(count, windows.agent, known.sum(1))
    return np.divide(total, count, out=np.ones_like(total), where=count > 0), count
