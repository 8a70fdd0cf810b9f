"""The paper's own numbers, shipped as CSV, to stand beside ours."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "paper"


@dataclass(frozen=True)
class PaperError:
    """Prediction error in Tables 6 to 8."""

    rmse: float
    r2: float


@dataclass(frozen=True)
class PaperReward:
    """Average reward in Tables 3 and 9 to 11, with its standard deviation over five trials."""

    mean: float
    std: float


def _rows(table: str, env: str, regime: str, method: str) -> list[dict[str, str]]:
    with (_FOLDER / table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["env"], row["regime"], row["method"]) == (env, regime, method)]


def observed_data(env: str, regime: str) -> list[float]:
    """Table 5: reward of the five test agents, average reward and average length; empty where there is none."""
    with (_FOLDER / "observed_data.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if (row["env"], row["regime"]) == (env, regime):
                return [float(value) for name, value in row.items() if name.startswith(("reward_", "average_"))]
    return []


def prediction_error(env: str, regime: str, method: str = "PerSim") -> dict[int, PaperError]:
    """The paper's prediction error by agent id (from 0); empty where the paper has none."""
    rows = _rows("prediction_error.csv", env, regime, method)
    return {int(row["agent"]) - 1: PaperError(float(row["rmse_mean"]), float(row["r2_median"])) for row in rows}


def reward(env: str, regime: str, method: str = "PerSim") -> dict[int, PaperReward]:
    """The paper's average reward by agent id (from 0); empty where the paper has none.

    The rows of ``True env+MPC`` have an empty regime.
    """
    rows = _rows("reward.csv", env, regime, method) or _rows("augmentation.csv", env, regime, method)
    return {int(row["agent"]) - 1: PaperReward(float(row["reward_mean"]), float(row["reward_std"])) for row in rows}
