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


def prediction_error(env: str, regime: str, method: str = "PerSim") -> dict[int, PaperError]:
    """The paper's prediction error by agent id (from 0); empty where the paper has none."""
    with (_FOLDER / "prediction_error.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file)]
    wanted = {"env": env, "regime": regime, "method": method}
    return {
        int(row["agent"]) - 1: PaperError(float(row["rmse_mean"]), float(row["r2_median"]))
        for row in rows
        if all(row[key] == value for key, value in wanted.items())
    }
