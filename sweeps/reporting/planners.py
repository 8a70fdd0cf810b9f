"""Ways to plan, measured on agents and seeds that nothing else uses, and which of them is ours; and CaDM's planner.

The rule of ``choose`` was written before any of these rows was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from baselines.registry import METHODS
from persim.envs.registry import recorded
from persim.methods import PlanningSettings
from persim.methods.planning import planning_text
from persim.planning.registry import paper_planner
from persim.storage import store
from persim.storage.cells import FinishedCell, plain
from sweeps.grid.suites import SUITES
from sweeps.reporting.compare import number, with_spread
from sweeps.reporting.page import Entry, Section, Table, text
from sweeps.reporting.results import ENV_TITLES, PAPER_AGENTS, REWARD, Results
from sweeps.reporting.select import Measured, find

SUITE, SAME = "planners", "same-planner"
MODEL, TRUTH = "persim", "true-env"  # the methods whose scorers are the model and the true environment
_ABOUT = (
    "Ways to plan, on ten agents of the data that are not test agents and with seeds from 101, of which no published "
    "trial has one, 5 episodes an agent. Scorer: PerSim's ensemble, or the true environment."
)
_RULE = (
    "The choice, a rule that was fixed before these rows were measured: the best is the way with the highest reward "
    "under the model, averaged over regimes, seeds and agents. Of all ways whose shortfall against the best is at most "
    "one standard error of that shortfall (over agents and seeds, of which every way has the same), the one with the "
    "cheapest decisions is chosen, that is with the lowest product of plans and horizon; of equally cheap ones the one "
    "of highest reward, then the one with least of ours (no shaping, the paper's planner)."
)
Unit = tuple[str, int, int]  # regime, seed, agent


@dataclass
class Way:
    """A way to plan in one environment, and what it earned.

    Attributes:
        env: the environment.
        planning: as ``PlanningSettings.about`` gives it.
        rewards: of the model, by unit.
        truth: of the true environment, by unit.
        decisions: seconds of the model's decisions, one for each cell.
    """

    env: str
    planning: Mapping[str, object]
    rewards: dict[Unit, float] = field(default_factory=dict)
    truth: dict[Unit, float] = field(default_factory=dict)
    decisions: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """In words."""
        return planning_text({"planning": self.planning}, recorded(self.env))

    @property
    def cost(self) -> int:
        """Steps that a decision looks at: plans times horizon."""
        own = self.planning["settings"]
        assert isinstance(own, Mapping)
        return int(own["plans"]) * int(own["horizon"])

    @property
    def ours(self) -> int:
        """How much of it is not the paper's: shaping, and the planner."""
        own_planner = self.planning["planner"] != paper_planner(recorded(self.env).action_space)
        return 2 * bool(self.planning.get("safety")) + own_planner

    @property
    def is_default(self) -> bool:
        """Whether it is what PerSim does if nothing is said."""
        return bool(self.planning == plain(PlanningSettings.of(recorded(self.env)).about()))

    def values(self) -> NDArray[np.float64]:
        """Rewards of the model ``[agents x seeds]``, averaged over regimes."""
        found: dict[tuple[int, int], list[float]] = {}
        for (_, seed, agent), reward in sorted(self.rewards.items()):
            found.setdefault((seed, agent), []).append(reward)
        return np.array([mean(rewards) for rewards in found.values()])


def ways(cells: Iterable[FinishedCell], env: str) -> list[Way]:
    """Collect the ways to plan in an environment from the cells that act for the suite's agents, in its order."""
    acting, found = list(SUITES[SUITE].acting or ()), dict[str, Way]()
    for done in cells:
        cell = done.cell
        if cell.env != env or cell.method not in (MODEL, TRUTH) or cell.measure.get("agents") != acting:
            continue
        planning = cell.settings["planning"]
        way = found.setdefault(store.canonical_json(planning), Way(env, planning))
        earned = way.rewards if cell.method == MODEL else way.truth
        for row in done.rows:
            if row["metric"] == REWARD:
                value = -np.inf if row["value"] is None else row["value"]
                earned[cell.regime, cell.seed, row["agent"]] = value
        if cell.method == MODEL and "decision" in done.seconds:
            way.decisions.append(done.seconds["decision"])
    return sorted(found.values(), key=lambda way: (way.planning["planner"] != "random_shooting", way.cost, way.name))


def choose(tried: Sequence[Way]) -> Way | None:
    """Choose a way to plan by the rule of the report; ways that lack some of the units of others are left out.

    It is None where no way has all of them, or all that do have diverged.
    """
    units = {unit for way in tried for unit in way.rewards}
    values = {place: way.values() for place, way in enumerate(tried) if way.rewards.keys() == units}
    values = {place: earned for place, earned in values.items() if len(earned) and np.isfinite(earned).all()}
    if not values:
        return None
    best = max(values.values(), key=lambda earned: float(earned.mean()))
    near = [place for place, earned in values.items() if _near(best - earned)]
    return tried[min(near, key=lambda place: (tried[place].cost, -values[place].mean(), tried[place].ours))]


def _near(shortfall: NDArray[np.float64]) -> bool:
    """Whether a mean shortfall ``[units]`` is at most its standard error."""
    error = shortfall.std(ddof=1) / np.sqrt(len(shortfall)) if len(shortfall) > 1 else 0.0
    return bool(shortfall.mean() <= error)


def choices(cells: Sequence[FinishedCell]) -> dict[str, Way]:
    """The way that is chosen in each environment whose rows suffice."""
    return {env: way for env in ENV_TITLES if (way := choose(ways(cells, env))) is not None}


def planners(results: Results) -> list[Section]:
    """Show the table of every environment; nothing is shown where nothing was tried."""
    made = tuple(_table(env, found) for env in ENV_TITLES if (found := ways(results.cells, env)))
    return [Section("Planners", SUITE, (_ABOUT, _RULE, *_decided(results.cells)), made)] if made else []


def summary(cells: Sequence[FinishedCell]) -> str:
    """Write the tables as text, and what they choose."""
    lines = []
    for made in (_table(env, found) for env in ENV_TITLES if (found := ways(cells, env))):
        rows = [[head.replace("\n", " ") for head in made.columns], *([e.lines[0] for e in row] for row in made.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            lines.append("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    return "\n".join([*lines, "", _RULE, *_decided(cells)])


def _decided(cells: Sequence[FinishedCell]) -> list[str]:
    found = choices(cells)
    ends = {True: "This is the default.", False: "The default is another one (persim/planning/registry.py)."}
    return [f"{ENV_TITLES[env]}: chosen is {way.name}. {ends[way.is_default]}" for env, way in found.items()]


def _table(env: str, tried: Sequence[Way]) -> Table:
    regimes = list(dict.fromkeys(unit[0] for way in tried for unit in way.rewards))
    chosen = choose(tried)
    heads = (f"model,\n{regime} data" for regime in regimes)
    columns = ("way to plan", *heads, "model,\nmean", "true environment", "a decision\non the model", "")
    rows = []
    for way in tried:
        own = [[reward for unit, reward in way.rewards.items() if unit[0] == regime] for regime in regimes]
        marks = [name for name, applies in (("chosen", way is chosen), ("default", way.is_default)) if applies]
        rewards = (*map(_mean, own), _mean(list(way.values())), _mean(list(way.truth.values())))
        took = f"{1e3 * mean(way.decisions):.3g} ms" if way.decisions else "–"
        rows.append((Entry((way.name,)), *map(text, (*rewards, took, ", ".join(marks)))))
    caption = f"{ENV_TITLES[env]}, N = {PAPER_AGENTS}: mean reward over ten agents and all seeds"
    return Table(caption, columns, tuple(rows))


def _mean(values: Sequence[float]) -> str:
    return number(mean(values), 1) if values else "–"


def same_planner(results: Results) -> list[Section]:
    """Show PerSim beside CaDM under CaDM's planner, and what still differs between them."""
    tables = [_same(results.cells, env, regime) for env, regime in SUITES[SAME].data]
    made = tuple(table for table in tables if table is not None)
    about = (
        "PerSim's ensemble under exactly CaDM's planner: random shooting that starts every search anew, CaDM's reward "
        "of a plan, and no shaping but progress. What remains is the model. Where budgets or episodes differ, the last "
        "columns say so."
    )
    return [Section("PerSim and CaDM under one planner", SAME, (about,), made)] if made else []


def _same(cells: Sequence[FinishedCell], env: str, regime: str) -> Table | None:
    methods = SUITES[SAME].methods
    found = {name: find(cells, REWARD, env, regime, name, PAPER_AGENTS) for name in methods}
    measured = {name: one for name, one in found.items() if one is not None}
    if not measured:
        return None
    agents = range(1, len(recorded(env).test_agents) + 1)
    rows = tuple(_line(name, found[name], agents) for name in methods)
    columns = ("method", *(f"agent {agent}" for agent in agents), "trials", "episodes", "budget", "planner")
    plans = {one.planning for one in measured.values()}
    episodes = {one.cells[0].cell.measure["episodes"] for one in measured.values()}
    notes = [
        f"The lines differ in {what}; see the last columns."
        for what, values in (("the planner", plans), ("the number of episodes", episodes))
        if len(values) > 1
    ]
    return Table(f"{ENV_TITLES[env]}, {regime} data, N = {PAPER_AGENTS}: average reward", columns, rows, tuple(notes))


def _line(name: str, ours: Measured | None, agents: Iterable[int]) -> tuple[Entry, ...]:
    title, agents = Entry((METHODS[name].label,)), list(agents)
    if ours is None:
        return (title, *[text("–", "missing") for _ in agents], *[text("–", "missing") for _ in range(4)])
    earned = [with_spread(ours.values(REWARD, agent), 1) for agent in agents]
    columns = ("episodes", "plans", "horizon", "planner")  # of their own
    less = [change for change in ours.changes if change.split()[0] not in columns]
    episodes = str(ours.cells[0].cell.measure["episodes"])
    budget = ", ".join(less) or "the paper's"
    return (title, *map(text, earned), text(str(len(ours.cells))), text(episodes), text(budget, "wrap"),
            text(ours.planning, "wrap"))  # fmt: skip
