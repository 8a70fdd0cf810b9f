"""Compare our trials with a number of the paper, and write numbers as the tables show them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persim.evaluation.paper import PaperError, PaperReward

Known = PaperError | PaperReward
MARKS = {"better": "▲", "within": "≈", "worse": "▼"}
SMALLEST = 0.0005  # what a printed RMSE of 0.000 counts as in a ratio
LEGEND = (
    f"{MARKS['better']} better than or equal to the paper's, at its printed precision; {MARKS['within']} not so, but "
    "within one standard deviation of the paper's (rewards only: the paper prints none for prediction errors); "
    f"{MARKS['worse']} worse than that. Beside the difference stands its size: for prediction errors the ratio of ours "
    f"to the paper's (×; a printed 0.000 counts as {SMALLEST}), for rewards the difference in standard deviations of "
    "the paper's (s.d.), as rewards may be negative or zero."
)


@dataclass(frozen=True)
class Comparison:
    """Ours beside a number of the paper.

    Attributes:
        mark: a key of ``MARKS``.
        difference: our mean minus the paper's.
        size: of a prediction error, ours as a multiple of the paper's, which counts as ``SMALLEST`` at least; of a
            reward, the difference in standard deviations of the paper's, NaN where that is 0.
    """

    mark: str
    difference: float
    size: float


def compare(values: NDArray[np.float64], known: Known) -> Comparison:
    """Compare the values ``[trials]`` of our trials with a number of the paper.

    ``better`` is judged at the precision that the paper prints, as some of its RMSEs are 0.000. ``within`` is one
    standard deviation of the paper's; where it prints none, as for prediction errors, nothing is ``within``.
    """
    average = float(values.mean())
    if isinstance(known, PaperReward):
        theirs, sign, margin = known.mean, 1, known.std
        size = (average - theirs) / known.std if known.std else math.nan
    else:
        theirs, sign, margin = known.rmse, -1, 0.0
        size = average / max(theirs, SMALLEST)
    printed = round(average, known.decimals) if math.isfinite(average) else average
    if sign * printed >= sign * theirs:
        mark = "better"
    else:
        mark = "within" if margin and sign * average >= sign * theirs - margin else "worse"
    return Comparison(mark, average - theirs, size)


def size_of(found: Comparison, known: Known) -> str:
    """Write the size of a difference, such as ``×1.30`` or ``−1.2 s.d.``; nothing if it has none."""
    if not math.isfinite(found.size):
        return ""
    return f"×{found.size:.2f}" if isinstance(known, PaperError) else f"{number(found.size, 1, '+')} s.d."


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
