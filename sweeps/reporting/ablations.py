"""What each part of PerSim's training is worth: prediction errors with one part changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from baselines.registry import make_method
from persim.envs.registry import recorded
from persim.methods import Options
from persim.methods.job import PREDICTION
from persim.storage import store
from persim.storage.cells import FinishedCell, plain
from sweeps.grid.suites import SUITES
from sweeps.reporting.compare import number
from sweeps.reporting.page import Entry, Section, Table, text
from sweeps.reporting.results import ENV_TITLES, RMSE, Results
from sweeps.reporting.rows import fullest

SUITE = "ablations"
_MEANING = (
    "PerSim with one part of its training changed and all else equal: the same data, seeds, initial weights and test. "
    "Each number is the geometric mean of the 50-step prediction RMSE over test agents and trials; the factor is the "
    "geometric mean of its ratio to PerSim as it is, over the agents and trials that both have (above 1: worse)."
)
Place = tuple[str, str, int]  # environment, regime, N
Values = Mapping[tuple[int, int], float]  # RMSE by seed and agent


def ablations(results: Results) -> list[Section]:
    """A table of all variants."""
    title = "What each part of training is worth"
    asked = [done for done in results.cells if done.labels.get(SUITE, "smoke") != "smoke"]
    if not asked:
        return [Section(title, SUITE, (_MEANING, "Nothing has measured it yet."))]
    preset = fullest(done.labels[SUITE] for done in asked)
    return [Section(title, SUITE, (_MEANING,), (table(asked, preset),))]


def table(cells: Sequence[FinishedCell], preset: str) -> Table:
    """The variants by environment and regime, of those cells that have a variant's settings under this preset."""
    found: dict[Place, dict[str, dict[tuple[int, int], float]]] = {}
    for done in cells:
        cell = done.cell
        name = _variants(cell.env, preset).get(store.canonical_json(cell.settings))
        if cell.what == PREDICTION and name is not None:
            own = found.setdefault((cell.env, cell.regime, cell.agents), {}).setdefault(name, {})
            agents = range(1, len(recorded(cell.env).test_agents) + 1)
            own |= {(cell.seed, agent): done.value(RMSE, agent) for agent in agents}
    usual = next(iter(SUITES[SUITE].variants))
    rows = tuple(
        (Entry((name,)), *(_entry(own.get(name, {}), own.get(usual, {})) for own in found.values()))
        for name in SUITES[SUITE].variants
    )
    heads = [f"{ENV_TITLES.get(env, env)}\n{regime}, N = {count}" for env, regime, count in found]
    return Table(f"50-step prediction RMSE of variants of PerSim ({preset} budget)", ("variant", *heads), rows)


@cache
def _variants(env: str, preset: str) -> dict[str, str]:
    """Names of the variants by their settings, as cells have them."""
    made = {
        name: make_method("persim", recorded(env), Options(preset, tuned=changed))
        for name, changed in SUITES[SUITE].variants.items()
    }
    return {store.canonical_json(plain(method.predicts_with())): name for name, method in made.items()}


def _entry(values: Values, usual: Values) -> Entry:
    """The geometric mean of a variant, its ratio to PerSim as it is, and the number of trials."""
    if not values:
        return text("–", "missing")
    mean, trials = _mean(list(values.values())), len({seed for seed, _ in values})
    shared = [values[key] / usual[key] for key in values if key in usual]
    factor = f", × {number(_mean(shared), 2)}" if shared and values is not usual else ""
    shown = f"{mean:.2g}" if np.isfinite(mean) else "diverged"
    return text(f"{shown}{factor} ({trials} trial{'s' * (trials > 1)})")


def _mean(values: Sequence[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.log(values).mean()))
