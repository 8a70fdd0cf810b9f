"""Which finished cells stand behind a number: of several budgets the best, and what is less than the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.registry import METHODS, PRESETS, make_method
from persim.envs import get
from persim.storage import store
from persim.storage.cells import FinishedCell
from sweeps.grid.suites import ENVS, TRUE_ENV_REGIME

_SHOWN = ("paper", "laptop", "quick")  # best first; the smoke budget's numbers mean nothing
_EPISODES = ("episodes", "policy_episodes")
_PER_CELL = ("seed", "measures")  # of the settings, what does not tell configurations apart
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
    def trials(self) -> int:
        """How many repetitions."""
        return len(self.cells)

    def values(self, metric: str, agent: int) -> NDArray[np.float64]:
        """The metric of an agent in every trial that measured it; what was not finite counts as the worst."""
        found = [
            row["value"] for done in self.cells for row in done.rows if (row["metric"], row["agent"]) == (metric, agent)
        ]
        return np.array([_WORST[metric] if value is None else value for value in found])


@dataclass(frozen=True)
class Library:
    """All cells, and the question that every table asks of them."""

    cells: tuple[FinishedCell, ...]

    def measured(
        self, metric: str, env: str, regime: str, method: str, n_agents: int, *, suites: Sequence[str]
    ) -> Measured | None:
        """The best configuration that measured this, or None.

        Args:
            metric: name of the metric.
            env: environment.
            regime: of the data; a method that looks at no data has its own and the same cells everywhere.
            method: name in ``baselines.registry``.
            n_agents: N; likewise.
            suites: those to look in; the earlier one gives a trial that several have.
        """
        free = method in METHODS and not METHODS[method].learns
        found = [
            done
            for done in self.cells
            if done.cell.suite in suites
            and (done.cell.env, done.cell.method) == (env, method)
            and (
                done.cell.regime == TRUE_ENV_REGIME
                if free
                else (done.cell.regime, done.cell.agents) == (regime, n_agents)
            )
            and any(row["metric"] == metric for row in done.rows)
        ]
        return pick(sorted(found, key=lambda done: suites.index(done.cell.suite)), metric)


def pick(cells: Iterable[FinishedCell], metric: str) -> Measured | None:
    """The configuration with the best budget; of equals that with most trials, then the one measured last."""
    groups: dict[str, list[FinishedCell]] = {}
    for done in cells:
        if budget_of(done) in _SHOWN:
            groups.setdefault(_configuration(done), []).append(done)
    measured = [_measured(groups[name], metric) for name in sorted(groups)]
    if not measured:
        return None
    best = min(measured, key=_preference)
    others = tuple(sorted(describe(other) for other in measured if other is not best))
    return Measured(best.cells, best.budget, best.changes, others)


def describe(measured: Measured) -> str:
    """Trials, budget and changes in a few words."""
    trials = f"{measured.trials} trial{'s' if measured.trials > 1 else ''}"
    changes = f" ({', '.join(measured.changes)})" if measured.changes else ""
    return f"{trials}, {measured.budget}{changes}"


def budget_of(done: FinishedCell) -> str:
    """The name of the preset that a cell was measured with."""
    return str(done.cell.settings.get("budget", {}).get("name", ""))


def _configuration(done: FinishedCell) -> str:
    return store.canonical_json({name: value for name, value in done.cell.settings.items() if name not in _PER_CELL})


def _measured(group: Sequence[FinishedCell], metric: str) -> Measured:
    by_seed: dict[int, FinishedCell] = {}
    for done in group:  # of the suite that comes first
        by_seed.setdefault(done.seed, done)
    cells = tuple(by_seed[seed] for seed in sorted(by_seed))
    return Measured(cells, budget_of(cells[0]), changes(cells[0], metric))


def _preference(measured: Measured) -> tuple[int, bool, int, int]:
    ended = max(done.ended for done in measured.cells)
    return _SHOWN.index(measured.budget), bool(measured.changes), -measured.trials, -ended


def changes(done: FinishedCell, metric: str) -> tuple[str, ...]:
    """What the metric depends on and was given in another amount or form than the preset ``paper`` has it.

    Only settings that the method has now and had then are compared: rows of before an option existed stay valid.
    """
    method, budget = done.cell.method, done.cell.settings.get("budget", {})
    paper = asdict(PRESETS["paper"])
    wanted, came = _flat(_paper_method(method, done.cell.env)), _flat(done.cell.settings.get("method", {}))
    if not wanted:  # a method of a later version: its budget is all that can be compared
        wanted, came = _flat(paper | {"name": budget.get("name")}), _flat(budget)
    if metric != "reward":
        came = {name: value for name, value in came.items() if not name.startswith("planning.")}
    else:
        episodes = _EPISODES[method in METHODS and not METHODS[method].plans]
        wanted, came = wanted | {episodes: paper[episodes]}, {episodes: budget.get(episodes, paper[episodes])} | came
    differ = (name for name in came if name in wanted and came[name] != wanted[name])
    return tuple(dict.fromkeys(f"{_label(name)} {_text(came[name])} ({_text(wanted[name])})" for name in differ))


@cache
def _paper_method(method: str, env: str) -> dict[str, Any]:
    """What a method says of itself under the preset ``paper``; empty if it cannot be made here."""
    if env not in ENVS or method not in METHODS:
        return {}
    return dict(make_method(method, get(env), PRESETS["paper"]).about())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, in the form that JSON gives them."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found


def _label(name: str) -> str:
    """The last part of a dotted name: ``planning.settings.plans`` is ``plans``."""
    return name.rpartition(".")[2].removeprefix("policy_").replace("_", " ")


def _text(value: object) -> str:
    if value is None:
        return "default"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
