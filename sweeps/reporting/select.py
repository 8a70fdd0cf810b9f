"""Which finished cells stand behind a number: of several budgets the best, and what differs from the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.registry import METHODS, make_method
from persim.envs.registry import recorded
from persim.methods.job import PREDICTION, REWARD
from persim.methods.planning import planning_text
from persim.storage import store
from persim.storage.cells import FinishedCell, plain
from sweeps.grid.suites import ENVS, belongs, paper_episodes
from sweeps.reporting.rows import fullest

Rows = Sequence[Sequence[float]]
DAGGER = "†"
_SHOWN = ("paper", "laptop", "quick")  # best first; the smoke budget's numbers mean nothing
_WORST = {"prediction_rmse": np.inf, "prediction_r2": -np.inf, "reward": -np.inf}


@dataclass(frozen=True)
class Measured:
    """The trials of one method on one kind of data, all with the same settings.

    Attributes:
        cells: one per seed, in order.
        budget: name of the preset.
        changes: what differs from the preset ``paper``, such as ``"episodes 5 (20)"``.
        others: one line for each configuration that is there and not shown.
    """

    cells: tuple[FinishedCell, ...]
    budget: str
    changes: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def reduced(self) -> bool:
        """Whether this is anything but the preset ``paper``."""
        return self.budget != "paper" or bool(self.changes)

    @property
    def dagger(self) -> str:
        """The mark of a reduced budget, or nothing."""
        return f" {DAGGER}" if self.reduced else ""

    @property
    def brief(self) -> str:
        """Trials and budget in a few words."""
        return f"{len(self.cells)} trial{'s' if len(self.cells) > 1 else ''}, {self.budget}"

    @property
    def described(self) -> str:
        """Trials, budget and changes in a few words."""
        return self.brief + (f" ({', '.join(self.changes)})" if self.changes else "")

    @property
    def planning(self) -> str:
        """Planner, plans, horizon and shaping in words; empty of a method that does not plan at every step."""
        cell = self.cells[0].cell
        return planning_text(cell.settings, recorded(cell.env)) if "planning" in cell.settings else ""

    def values(self, metric: str, agent: int) -> NDArray[np.float64]:
        """The metric of an agent ``[trials that measured it]``; what was not finite counts as the worst."""
        rows = [row for done in self.cells for row in done.rows if (row["metric"], row["agent"]) == (metric, agent)]
        return np.array([_WORST[metric] if row["value"] is None else row["value"] for row in rows])


def find(
    cells: Iterable[FinishedCell], metric: str, env: str, regime: str, method: str, n_agents: int, unseen: Rows = ()
) -> Measured | None:
    """Find the best of the configurations that measured this; None if nothing did.

    That is the one with the best budget, of equals that with most trials, then the one measured last. It does not
    matter which suite asked for the cells.

    Args:
        cells: all that are finished.
        metric: name of the metric.
        env: environment.
        regime: of the data; a method that looks at no data has the same cells under every regime.
        method: key in ``baselines.registry``.
        n_agents: N; a method that looks at no data has the same cells for every N.
        unseen: covariates ``[M, C]`` of the test agents if they are not in the data.
    """
    what, wanted = REWARD if metric == "reward" else PREDICTION, plain(unseen) or None
    groups: dict[str, list[FinishedCell]] = {}
    for done in cells:
        cell = done.cell
        if (
            (cell.what, cell.measure.get("unseen")) == (what, wanted)
            and "agents" not in cell.measure
            and belongs(cell, env, regime, n_agents, method)
            and done.has(metric)
            and budget_of(done) in _SHOWN
        ):
            groups.setdefault(store.canonical_json([cell.settings, cell.measure]), []).append(done)
    measured = sorted((_measured(groups[name]) for name in sorted(groups)), key=_preference)
    if not measured:
        return None
    return replace(measured[0], others=tuple(sorted(other.described for other in measured[1:])))


def _measured(group: Sequence[FinishedCell]) -> Measured:
    cells = tuple(sorted(group, key=lambda done: done.cell.seed))
    return Measured(cells, fullest(map(budget_of, cells)), changes(cells[0]))


def _preference(measured: Measured) -> tuple[int, bool, int, int]:
    ended = max(done.ended for done in measured.cells)
    return _SHOWN.index(measured.budget), bool(measured.changes), -len(measured.cells), -ended


def budget_of(done: FinishedCell) -> str:
    """Name the budget of a cell: ``paper`` if it differs in nothing from it, whatever preset was asked for."""
    asked = fullest(done.labels.values()) if done.labels else ""
    known = asked in _SHOWN and _paper(done.cell.method, done.cell.env, done.cell.what)
    return "paper" if known and not changes(done) else asked


def changes(done: FinishedCell) -> tuple[str, ...]:
    """Name what a cell depends on and has in another amount or form than under the preset ``paper``.

    A setting that the cell lacks is not compared: rows of before an option existed stay valid. One that only the cell
    has is a change, as of an option that is named only where it is used.
    """
    cell = done.cell
    wanted, came = _paper(cell.method, cell.env, cell.what), _flat(cell.settings)
    # A cell without polish does not name it, and then its spare members were not chosen as now either.
    came |= {name: 0 for name in wanted if name.endswith("polish.rounds") and name not in came}
    if cell.what == REWARD:
        came = {"episodes": cell.measure["episodes"]} | came
    found = []
    for name in came if wanted else ():
        if name not in wanted or came[name] != wanted[name]:
            label = name.rpartition(".")[2].replace("_", " ")  # planning.settings.plans is plans
            label = "polish rounds" if name.endswith("polish.rounds") else label
            found.append(f"{label} {_text(came[name])} ({_text(wanted.get(name))})")
    return tuple(dict.fromkeys(found))


@cache
def _paper(method: str, env: str, what: str) -> dict[str, Any]:
    """What a measurement depends on under the preset ``paper``; empty if the method cannot be made here."""
    if env not in ENVS or method not in METHODS:
        return {}
    made = make_method(method, recorded(env))
    if what != REWARD:
        return _flat(plain(made.predicts_with()))
    return {"episodes": paper_episodes(plans=made.plans)} | _flat(plain(made.about()))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested settings by dotted names, in alphabetical order."""
    found: dict[str, Any] = {}
    for name, value in sorted(settings.items()):
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def _text(value: object) -> str:
    if value is None:
        return "default"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
