"""Rank selection: the hold-out error of every rank, and which one the rule chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from persim.methods.holdout import HoldOut
from persim.methods.job import HOLDOUT
from persim.storage import store
from persim.storage.cells import FinishedCell, file_name
from sweeps.reporting.compare import number
from sweeps.reporting.draw import drawn, rank_figure
from sweeps.reporting.page import Entry, Figure, Section, Table, text
from sweeps.reporting.results import ENV_TITLES, Results
from sweeps.tuning.ranks import choose, described, summarise

SUITE = "rank_cv"


def ranks(results: Results) -> list[Section]:
    """A table and a picture for each sweep."""
    rule = (
        "Appendix D.1: PerSim is trained on 80 % of the transitions and measured on the rest, as a share of their "
        "variance. All ranks have the same splits, so each is compared split by split with the rank of lowest mean. "
        "The smallest rank whose mean difference to it is at most one standard error of this difference is chosen."
    )
    groups = _sweeps(results.cells)
    if not groups:
        return [Section("Choosing the rank", "ranks", (rule, "No sweep of ranks is here yet."))]
    return [Section("Choosing the rank", "ranks", (rule,)), *(_section(name, groups[name]) for name in sorted(groups))]


def _sweeps(cells: Sequence[FinishedCell]) -> dict[str, list[FinishedCell]]:
    """Group the trials that differ in rank and split only, each group by a name of its own."""
    groups: dict[str, list[FinishedCell]] = {}
    for done in cells:
        cell = done.cell
        if SUITE in done.labels and cell.what == HOLDOUT:
            shared = [{**cell.settings, "rank": None}, {**cell.measure, "split": None}, cell.seed]
            name = store.settings_hash({"sweep": shared})[:6]
            groups.setdefault(file_name(cell.env, cell.regime, cell.agents, name), []).append(done)
    return groups


def _section(name: str, trials: Sequence[FinishedCell]) -> Section:
    cell = trials[0].cell
    test = HoldOut.of(cell.measure)
    title = f"{ENV_TITLES.get(cell.env, cell.env)}, {cell.regime} data, N = {cell.agents}"
    title += described(test.by, test.steps)
    summaries = summarise(trials)
    finite = [summary for summary in summaries if math.isfinite(summary.error)]
    if not finite:
        return Section(title, f"rank-{name}", ("Every rank diverged.",), level=3)
    chosen = choose(finite)
    svg = drawn(f"rank-{name}", lambda: rank_figure(title, trials, finite, chosen))
    epochs = cell.settings["train"]["epochs"]
    caption = f"{title}: hold-out error, with the standard error of the difference to the lowest, {epochs} epochs."
    rows = tuple(
        (
            Entry((f"rank {s.rank}" + (" (chosen)" if s is chosen else ""),)),
            text(f"{s.error:.2e}" if s in finite else "diverged"),
            text(f"{s.difference:.1e} ± {s.standard_error:.0e}" if math.isfinite(s.difference) else "–"),
            *(text(number(value, 4)) for value in s.prediction_rmse),
            text(str(s.repeats)),
            text(f"{s.seconds:.0f} s"),
        )
        for s in summaries
    )
    agents = (f"agent {agent}" for agent in range(1, len(summaries[0].prediction_rmse) + 1))
    columns = ("rank", "hold-out error", "difference to the lowest ± s.e.", *agents, "trials", "time of a trial")
    table = Table(f"{title}: chosen rank {chosen.rank} (by agent: 50-step prediction RMSE of one model)", columns, rows)
    return Section(title, f"rank-{name}", tables=(table,), figures=(Figure(f"rank-{name}", svg, caption),), level=3)
