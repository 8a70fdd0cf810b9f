"""The paper's cells for the tables that a benchmark prints."""

from __future__ import annotations

import csv
from pathlib import Path

import persim
from baselines.registry import METHODS
from persim.evaluation import paper
from persim.evaluation.paper import PaperError, PaperReward
from sweeps.suites import Suite

_FOLDER = Path(persim.__file__).parent / "paper"


def beside(suite: Suite, env: str, regime: str, count: int, metric: str, method: str) -> dict[int, str]:
    """What the paper printed, by number of the agent; empty where it has nothing.

    Args:
        suite: the smoke suite has no paper to stand beside.
        env: name of the environment.
        regime: of the data.
        count: N; 500 in the paper.
        metric: ``prediction_rmse`` or ``reward``.
        method: name of ``baselines.registry``.
    """
    entry = METHODS[method]
    if suite.name == "smoke" or (count != 500 and entry.learns):
        return {}
    if not suite.unseen:
        regime = regime if entry.learns else ""
        if metric == "prediction_rmse":
            return _errors(paper.prediction_error(env, regime, entry.title))
        return _rewards(paper.reward(env, regime, entry.title))
    title = entry.title if entry.p is None else "PerSim"
    if metric == "prediction_rmse":
        return _errors(unseen_error(env, regime, title, entry.p))
    return _rewards(unseen_reward(env, regime, title, entry.p))


def unseen_error(env: str, regime: str, title: str, p: float | None) -> dict[int, PaperError]:
    """Table 12: prediction error of unseen agents by agent id (from 0); ``p`` is None but for PerSim."""
    rows = _unseen("unseen_prediction_error.csv", env, regime, title, p)
    return {int(row["agent"]) - 1: PaperError(float(row["rmse_mean"]), float(row["r2_median"])) for row in rows}


def unseen_reward(env: str, regime: str, title: str, p: float | None) -> dict[int, PaperReward]:
    """Table 13: average reward of unseen agents by agent id (from 0); ``p`` is None but for PerSim."""
    rows = _unseen("unseen_reward.csv", env, regime, title, p)
    return {int(row["agent"]) - 1: PaperReward(float(row["reward_mean"]), float(row["reward_std"])) for row in rows}


def _unseen(table: str, env: str, regime: str, title: str, p: float | None) -> list[dict[str, str]]:
    with (_FOLDER / table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = (env, regime, title, p)
    return [r for r in rows if (r["env"], r["regime"], r["method"], float(r["p"]) if r["p"] else None) == wanted]


def _errors(known: dict[int, PaperError]) -> dict[int, str]:
    return {agent + 1: f"{error.rmse:.3f}" for agent, error in known.items()}


def _rewards(known: dict[int, PaperReward]) -> dict[int, str]:
    return {agent + 1: f"{reward.mean:.1f} ± {reward.std:.1f}" for agent, reward in known.items()}
