"""Look up the paper's own numbers, shipped as CSV, for comparison with ours."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_FOLDER = Path(__file__).parents[1] / "paper"


@dataclass(frozen=True)
class PaperError:
    """Prediction error in Tables 6 to 8 and 12; the RMSE is printed with ``decimals`` decimals."""

    rmse: float
    r2: float
    decimals: int = field(default=3, compare=False)


@dataclass(frozen=True)
class PaperReward:
    """Average reward over five trials (Tables 3, 9 to 11, 13 to 16); the mean is printed with ``decimals`` decimals."""

    mean: float
    std: float
    decimals: int = field(default=2, compare=False)


@cache
def _table(name: str) -> tuple[dict[str, str], ...]:
    with (_FOLDER / name).open(newline="") as file:
        return tuple(csv.DictReader(file))


def _rows(table: str, env: str, regime: str, method: str, **numbers: float | None) -> list[dict[str, str]]:
    """Select rows of a table by names and by the numbers in other columns, where None is an empty field."""
    rows = [row for row in _table(table) if (row["env"], row["regime"], row["method"]) == (env, regime, method)]
    return [row for row in rows if all((float(row[key]) if row[key] else None) == x for key, x in numbers.items())]


def _by_agent(
    kind: Callable[[float, float, int], T], first: str, second: str, rows: Iterable[dict[str, str]]
) -> dict[int, T]:
    """Read two columns, and the decimals of the first, by agent id (from 0)."""
    numbers = ((int(row["agent"]) - 1, row[first], row[second]) for row in rows)
    return {agent: kind(float(x), float(y), len(x.partition(".")[2])) for agent, x, y in numbers}


_errors = partial(_by_agent, PaperError, "rmse_mean", "r2_median")
_rewards = partial(_by_agent, PaperReward, "reward_mean", "reward_std")


def observed_data(env: str, regime: str) -> list[float]:
    """List the five test agents' rewards, average reward and average length of Table 5; empty where it has none."""
    for row in _table("observed_data.csv"):
        if (row["env"], row["regime"]) == (env, regime):
            return [float(value) for name, value in row.items() if name.startswith(("reward_", "average_"))]
    return []


def prediction_error(env: str, regime: str, method: str = "PerSim") -> dict[int, PaperError]:
    """Return the paper's prediction errors by agent id (from 0); empty where it has none."""
    return _errors(_rows("prediction_error.csv", env, regime, method))


def reward(env: str, regime: str, method: str = "PerSim") -> dict[int, PaperReward]:
    """Return the paper's average rewards by agent id (from 0); empty where it has none.

    The rows of ``True env+MPC`` have an empty regime.
    """
    return _rewards(_rows("reward.csv", env, regime, method) or _rows("augmentation.csv", env, regime, method))


def best_reward(env: str, regime: str = "") -> dict[int, float]:
    """Return the highest average reward of any learning method (Tables 9 to 11) by agent id (from 0).

    It is that under one regime of the data, or under any.
    """
    rows = [row for row in _table("reward.csv") if row["env"] == env and row["regime"]]
    rows = [row for row in rows if regime in ("", row["regime"])]
    agents = {int(row["agent"]) for row in rows}
    return {n - 1: max(float(row["reward_mean"]) for row in rows if int(row["agent"]) == n) for n in sorted(agents)}


def scarcity(env: str, regime: str, agents: int, method: str = "PerSim") -> dict[int, PaperReward]:
    """Return the average rewards of Tables 14 to 16 for N = ``agents`` by agent id (from 0); empty where absent."""
    return _rewards(_rows("scarcity_reward.csv", env, regime, method, n_agents=agents))


def unseen_error(regime: str, method: str = "PerSim", fraction: float | None = None) -> dict[int, PaperError]:
    """Return the prediction errors of never observed MountainCar agents (Table 12) by agent id (from 0).

    ``fraction`` is p, the share of training agents that the regression is fitted on; None for methods without p.
    """
    return _errors(_rows("unseen_prediction_error.csv", "mountaincar", regime, method, p=fraction))


def unseen_reward(regime: str, method: str = "PerSim", fraction: float | None = None) -> dict[int, PaperReward]:
    """Return the average rewards of never observed agents (Table 13); the arguments are those of ``unseen_error``."""
    return _rewards(_rows("unseen_reward.csv", "mountaincar", regime, method, p=fraction))


def test_agents(env: str) -> dict[int, str]:
    """Return the test agents' covariates as the tables print them, by agent id (from 0)."""
    return {int(row["agent"]) - 1: row["covariates"] for row in _table("prediction_error.csv") if row["env"] == env}


def unseen_agents() -> dict[int, str]:
    """Return the covariates of the agents of Tables 12 and 13 by agent id (from 0)."""
    return {int(row["agent"]) - 1: f"gravity={row['gravity']}" for row in _table("unseen_reward.csv")}
