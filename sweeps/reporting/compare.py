"""Ours against the paper's: mean, spread, difference, and what that amounts to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persim.evaluation.paper import PaperError, PaperReward

Known = PaperError | PaperReward
MARKS = {"better": "▲", "within": "≈", "worse": "▼"}
MINUS = "−"


@dataclass(frozen=True)
class Comparison:
    """Our trials of one cell of a table beside the paper's number.

    Attributes:
        mean: over our trials.
        std: sample standard deviation over them; not a number with one trial.
        difference: ours minus the paper's.
        mark: ``better`` (or equal), ``within`` one standard deviation, or ``worse``.
    """

    mean: float
    std: float
    difference: float
    mark: str


def compare(values: NDArray[np.float64], known: Known) -> Comparison:
    """Compares trials with a number of the paper.

    ``better`` is judged at the precision that the paper prints, which has RMSEs of 0.000. ``within``
    takes the paper's standard deviation; for prediction errors it prints none, so ours is taken.
    """
    average, spread = mean(values), std(values)
    if isinstance(known, PaperReward):
        theirs, sign, margin = known.mean, 1, known.std
    else:
        theirs, sign, margin = known.rmse, -1, 0.0 if math.isnan(spread) else spread
    printed = round(average, known.decimals) if math.isfinite(average) else average
    if sign * printed >= sign * theirs:
        mark = "better"
    else:
        mark = "within" if sign * average >= sign * theirs - margin else "worse"
    return Comparison(average, spread, average - theirs, mark)


def mean(values: NDArray[np.float64]) -> float:
    """Mean, infinite if one is."""
    return float(np.mean(values))


def std(values: NDArray[np.float64]) -> float:
    """Sample standard deviation; not a number if there is one value, or one that is not finite."""
    return float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan


def number(value: float, decimals: int) -> str:
    """A number as tables show it: a true minus sign, large ones short."""
    if not math.isfinite(value):
        return "diverged"
    text = f"{round(value, decimals) + 0.0:.{decimals}f}" if abs(value) < 1e5 else f"{value:.1e}"  # + 0.0: no -0.0
    return text.replace("-", MINUS)


def signed(value: float, decimals: int) -> str:
    """A difference, always with its sign."""
    text = number(value, decimals)
    return text if text[0] in f"{MINUS}d" else f"+{text}"


def reward_decimals(value: float) -> int:
    """Digits after the point that a reward is shown with."""
    return 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0


def error_decimals(value: float) -> int:
    """Digits after the point that a prediction error is shown with: one more than the paper's, if it is small."""
    return 4 if abs(value) < 1 else 3


def with_spread(average: float, spread: float, decimals: int) -> str:
    """``mean ± std``, without the latter if there is none."""
    return number(average, decimals) + ("" if math.isnan(spread) else f" ± {spread:.{decimals}f}")
