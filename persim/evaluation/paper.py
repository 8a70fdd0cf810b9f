"""The paper's own numbers, shipped as CSV, to stand beside ours."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "paper"


@dataclass(frozen=True)
class PaperError:
    """Prediction error in Tables 6 to 8 and 12; ``decimals`` of the RMSE as printed."""

    rmse: float
    r2: float
    decimals: int = field(default=3, compare=False)


@dataclass(frozen=True)
class PaperReward:
    """Average reward in Tables 3, 9 to 11 and 13 to 16, with its standard deviation over five trials.

    ``decimals`` are those of the mean as printed.
    """

    mean: float
    std: float
    decimals: int = field(default=2, compare=False)


@cache
def _table(name: str) -> tuple[dict[str, str], ...]:
    with (_FOLDER / name).open(newline="") as file:
        return tuple(csv.DictReader(file))


def _rows(table: str, env: str, regime: str, method: str) -> list[dict[str, str]]:
    return [row for row in _table(table) if (row["env"], row["regime"], row["method"]) == (env, regime, method)]


def _decimals(printed: str) -> int:
    return len(printed.partition(".")[2])


def _errors(rows: Iterable[dict[str, str]]) -> dict[int, PaperError]:
    return {
        int(row["agent"]) - 1: PaperError(float(row["rmse_mean"]), float(row["r2_median"]), _decimals(row["rmse_mean"]))
        for row in rows
    }


def _rewards(rows: Iterable[dict[str, str]]) -> dict[int, PaperReward]:
    return {
        int(row["agent"]) - 1: PaperReward(
            float(row["reward_mean"]), float(row["reward_std"]), _decimals(row["reward_mean"])
        )
        for row in rows
    }


def observed_data(env: str, regime: str) -> list[float]:
    """Table 5: reward of the five test agents, average reward and average length; empty where there is none."""
    for row in _table("observed_data.csv"):
        if (row["env"], row["regime"]) == (env, regime):
            return [float(value) for name, value in row.items() if name.startswith(("reward_", "average_"))]
    return []


def prediction_error(env: str, regime: str, method: str = "PerSim") -> dict[int, PaperError]:
    """The paper's prediction error by agent id (from 0); empty where the paper has none."""
    return _errors(_rows("prediction_error.csv", env, regime, method))


def reward(env: str, regime: str, method: str = "PerSim") -> dict[int, PaperReward]:
    """The paper's average reward by agent id (from 0); empty where the paper has none.

    The rows of ``True env+MPC`` have an empty regime.
    """
    return _rewards(_rows("reward.csv", env, regime, method) or _rows("augmentation.csv", env, regime, method))


def best_reward(env: str) -> dict[int, float]:
    """The highest average reward that any method that learns reached under any regime (Tables 9 to 11), by agent id."""
    rows = [row for row in _table("reward.csv") if row["env"] == env and row["regime"]]
    agents = {int(row["agent"]) for row in rows}
    return {n - 1: max(float(row["reward_mean"]) for row in rows if int(row["agent"]) == n) for n in sorted(agents)}


def scarcity(env: str, regime: str, agents: int, method: str = "PerSim") -> dict[int, PaperReward]:
    """Tables 14 to 16: the average reward by agent id (from 0) when N is ``agents``; empty where there is none."""
    rows = _rows("scarcity_reward.csv", env, regime, method)
    return _rewards(row for row in rows if int(row["n_agents"]) == agents)


def unseen_error(regime: str, method: str = "PerSim", fraction: float | None = None) -> dict[int, PaperError]:
    """Table 12: prediction error of agents that were never observed, in MountainCar, by agent id (from 0).

    Args:
        regime: of the data.
        method: the paper's name.
        fraction: p, the share of training agents that the regression is fitted on; None for the other methods.
    """
    return _errors(_of_fraction(_rows("unseen_prediction_error.csv", "mountaincar", regime, method), fraction))


def unseen_reward(regime: str, method: str = "PerSim", fraction: float | None = None) -> dict[int, PaperReward]:
    """Table 13: average reward of agents that were never observed; arguments as of ``unseen_error``."""
    return _rewards(_of_fraction(_rows("unseen_reward.csv", "mountaincar", regime, method), fraction))


def _of_fraction(rows: Iterable[dict[str, str]], fraction: float | None) -> Iterator[dict[str, str]]:
    return (row for row in rows if (float(row["p"]) if row["p"] else None) == fraction)


def test_agents(env: str) -> dict[int, str]:
    """Covariates of the test agents as the tables print them, by agent id (from 0)."""
    return {int(row["agent"]) - 1: row["covariates"] for row in _table("prediction_error.csv") if row["env"] == env}


def unseen_agents() -> dict[int, str]:
    """Covariates of the agents of Tables 12 and 13, by agent id (from 0)."""
    return {int(row["agent"]) - 1: f"gravity={row['gravity']}" for row in _table("unseen_reward.csv")}
