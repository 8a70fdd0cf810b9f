"""Statistics over few runs (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice").

Scores are given as one array per task, with an entry for each of its runs. The bootstrap is stratified: the runs of a
task are resampled among themselves, and tasks that share runs (the same name in ``strata``) get the same resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Profile = tuple[Array, Array, Array]  # the share above each threshold, its lower and its upper bound: [T] each
RESAMPLES = 2000
COVERAGE = 0.95
_LEVELS = (1 - COVERAGE) / 2, (1 + COVERAGE) / 2


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile bootstrap interval; low and high are NaN if there is none."""

    estimate: float
    low: float
    high: float


def interquartile_mean(scores: Array) -> Array:
    """Mean of the middle half of ``[..., runs]``: cut a quarter of the runs (rounded down) at each end."""
    cut = scores.shape[-1] // 4
    ordered = np.sort(scores, axis=-1)
    return np.asarray(ordered[..., cut : scores.shape[-1] - cut].mean(axis=-1))


def iqm(tasks: Sequence[Array], rng: np.random.Generator, strata: Sequence[Hashable] | None = None) -> Interval:
    """Interquartile mean over all runs of all tasks.

    Args:
        tasks: scores ``[runs]`` of each task.
        rng: generator of the bootstrap.
        strata: for each task the name of its set of runs; by default each task has its own.
    """
    draws = interquartile_mean(np.concatenate(resampled(tasks, rng, strata), axis=1))
    return interval(float(interquartile_mean(np.concatenate(tasks))), draws, tasks)


def improvement(
    ours: Sequence[Array], theirs: Sequence[Array], rng: np.random.Generator, strata: Sequence[Hashable] | None = None
) -> Interval:
    """Probability that a run of ours is better than one of theirs, averaged over tasks; ties count one half.

    Both are scores ``[runs]`` of each of the same tasks; ``rng`` and ``strata``, of their runs, are as in ``iqm``.
    """
    estimate = float(np.mean([_wins(x, y) for x, y in zip(ours, theirs, strict=True)]))
    pairs = zip(resampled(ours, rng), resampled(theirs, rng, strata), strict=True)
    draws = np.mean([_wins(x, y) for x, y in pairs], axis=0)
    return interval(estimate, draws, [*ours, *theirs])


def _wins(x: Array, y: Array) -> Array:
    """Mann-Whitney's U of ``[..., n]`` against ``[..., m]`` runs, divided by the number of pairs: ``[...]``."""
    one, other = x[..., :, None], y[..., None, :]
    return np.asarray(((one > other) + 0.5 * (one == other)).mean(axis=(-2, -1)))


def profile(tasks: Sequence[Array], thresholds: Array, rng: np.random.Generator) -> Profile:
    """Share of runs above each of the thresholds ``[T]``, averaged over tasks, with pointwise intervals.

    The scores ``[runs]`` of each task and the generator of the bootstrap are given as in ``iqm``.
    """
    above = [(scores[:, None] > thresholds).astype(float) for scores in tasks]
    share = np.mean([hits.mean(axis=0) for hits in above], axis=0)
    picks = _picks([len(scores) for scores in tasks], rng, None)
    # How often each run was drawn, as a share of all draws: [resamples, runs].
    often = [(pick[:, :, None] == np.arange(len(hits))).mean(axis=1) for pick, hits in zip(picks, above, strict=True)]
    draws = np.mean([shares @ hits for shares, hits in zip(often, above, strict=True)], axis=0)
    low, high = np.quantile(draws, _LEVELS, axis=0)
    return share, low, high


def resampled(
    tasks: Sequence[Array], rng: np.random.Generator, strata: Sequence[Hashable] | None = None
) -> list[Array]:
    """Draw bootstrap samples ``[resamples, runs]`` of each task's scores ``[runs]``; arguments as in ``iqm``."""
    picks = _picks([len(scores) for scores in tasks], rng, strata)
    return [scores[pick] for scores, pick in zip(tasks, picks, strict=True)]


def _picks(sizes: Sequence[int], rng: np.random.Generator, strata: Sequence[Hashable] | None) -> list[NDArray[np.intp]]:
    drawn: dict[Hashable, NDArray[np.intp]] = {}
    names: Sequence[Hashable] = range(len(sizes)) if strata is None else strata
    for name, size in zip(names, sizes, strict=True):
        if name not in drawn:
            drawn[name] = rng.integers(size, size=(RESAMPLES, size))
    return [drawn[name] for name in names]


def interval(estimate: float, draws: Array, tasks: Sequence[Array]) -> Interval:
    """Percentile interval of bootstrap draws ``[resamples]``; none if a task has a single run.

    A single run would be resampled as if it were certain, and the interval would be too narrow.
    """
    if any(len(scores) < 2 for scores in tasks):
        return Interval(estimate, np.nan, np.nan)
    low, high = np.quantile(draws, _LEVELS)
    return Interval(estimate, float(low), float(high))
