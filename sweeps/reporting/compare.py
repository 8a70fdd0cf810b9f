"""Compare our trials with a number of the paper, and write numbers as the tables show them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persim.evaluation.paper import PaperError, PaperReward

Known = PaperError | PaperReward
MARKS = {"better": "▲", "within": "≈", "worse": "▼"}


@dataclass(frozen=True)
class Comparison:
    """Our mean minus the paper's, and ``better`` (or equal), ``within`` one standard deviation, or ``worse``."""

    difference: float
    mark: str


def compare(values: NDArray[np.float64], known: Known) -> Comparison:
    """Compare the values ``[trials]`` of our trials with a number of the paper.

    ``better`` is judged at the precision that the paper prints, as some of its RMSEs are 0.000. ``within`` uses the
    paper's standard deviation, or ours for prediction errors, where the paper prints none.
    """
    average, spread = float(values.mean()), std(values)
    if isinstance(known, PaperReward):
        theirs, sign, margin = known.mean, 1, known.std
    else:
        theirs, sign, margin = known.rmse, -1, 0.0 if math.isnan(spread) else spread
    printed = round(average, known.decimals) if math.isfinite(average) else average
    if sign * printed >= sign * theirs:
        mark = "better"
    else:
        mark = "within" if sign * average >= sign * theirs - margin else "worse"
    return Comparison(average - theirs, mark)


def std(values: NDArray[np.float64]) -> float:
    """Sample standard deviation of ``[trials]``; NaN with a single value, or with one that is not finite."""
    return float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan


def number(value: float, decimals: int, sign: str = "") -> str:
    """Write a number with a true minus sign, and with an exponent from 100,000; ``sign="+"`` gives others a plus."""
    if not math.isfinite(value):
        return "diverged"
    exact = f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"  # + 0.0: no -0.0
    return (exact if abs(value) < 1e5 else f"{value:{sign}.1e}").replace("-", "−")


def decimals(value: float, *, error: bool) -> int:
    """Choose the digits after the point of a reward, or of a prediction error: one more than the paper's below 1."""
    if error:
        return 4 if abs(value) < 1 else 3
    return 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0


def with_spread(values: NDArray[np.float64], decimals: int) -> str:
    """Write ``mean ± std`` of ``[trials]``, or the mean alone if there is no deviation."""
    spread = std(values)
    return number(float(values.mean()), decimals) + ("" if math.isnan(spread) else f" ± {spread:.{decimals}f}")
