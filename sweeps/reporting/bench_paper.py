"""The paper's cells for the tables that a benchmark prints."""

from __future__ import annotations

from baselines.registry import METHODS
from persim.evaluation import paper
from persim.evaluation.paper import PaperError, PaperReward
from sweeps.grid.suites import Suite


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
        return _errors(paper.unseen_error(regime, title, entry.p))
    return _rewards(paper.unseen_reward(regime, title, entry.p))


def _errors(known: dict[int, PaperError]) -> dict[int, str]:
    return {agent + 1: f"{error.rmse:.3f}" for agent, error in known.items()}


def _rewards(known: dict[int, PaperReward]) -> dict[int, str]:
    return {agent + 1: f"{reward.mean:.1f} ± {reward.std:.1f}" for agent, reward in known.items()}
