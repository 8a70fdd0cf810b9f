"""The sections of a report, in order. To add one, write a function of ``Results`` and name it here.

The function returns sections as plain data (``sweeps.reporting.page``) and needs no other section. If it reads a file
of its own, such as ``results.out / "factors.parquet"``, it returns an empty list where there is no such file.
The same folder has to give the same bytes: use no clock, no unseeded random numbers and no order of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sweeps.reporting import goal, paper_figures, planners, tables
from sweeps.reporting.ablations import ablations
from sweeps.reporting.aggregate import aggregates
from sweeps.reporting.cost import cost
from sweeps.reporting.page import Section
from sweeps.reporting.ranks import ranks
from sweeps.reporting.results import Results
from sweeps.reporting.theorem import theorem


@dataclass(frozen=True)
class Part:
    """A function that makes sections, and the suites whose report shows them; no suites stand for every report."""

    make: Callable[[Results], Sequence[Section]]
    suites: tuple[str, ...] = ()


PARTS = (
    Part(goal.overview),
    Part(goal.goal, ("prediction", "reward", "scarcity")),
    Part(ranks, ("rank_cv",)),
    Part(theorem, ("theorem1",)),
    Part(ablations, ("ablations",)),
    Part(paper_figures.factors, ("prediction",)),
    Part(partial(tables.of_suite, "prediction"), ("prediction",)),
    Part(paper_figures.rollouts, ("prediction",)),
    Part(partial(tables.of_suite, "reward"), ("reward",)),
    Part(planners.same_planner, ("reward", "same-planner")),
    Part(planners.planners, ("planners",)),
    Part(partial(tables.of_suite, "augmentation"), ("augmentation",)),
    Part(partial(tables.of_suite, "unseen"), ("unseen",)),
    Part(partial(tables.of_suite, "scarcity"), ("scarcity",)),
    Part(aggregates, ("reward",)),
    Part(cost),
)


def sections(results: Results, suite: str | None = None) -> list[Section]:
    """Make all sections, or only those of one suite."""
    parts = [part for part in PARTS if suite is None or not part.suites or suite in part.suites]
    return [section for part in parts for section in part.make(results)]
