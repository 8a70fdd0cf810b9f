"""A worked case: glucose of 30 virtual patients, from a CSV to a comparison, a new patient and a plan, with pictures.

    python examples/glucose/worked_case.py [--out examples/glucose]

It takes about a minute of one core and writes comparison.png, new_patient.png and plan.png. The patients are simulated
(make_data.py); nothing here is medical advice.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import persim

HERE = Path(__file__).parent
NEW = ("child03", "child08", "teen03", "teen08", "adult03", "adult08")  # patients whom the fit never sees
HORIZONS = (4, 8, 16, 24, 36, 48)  # steps of a quarter of an hour: 1 to 12 hours
HOURS = 15 / 60
COLOURS = {
    "PerSim": "#0072b2", "ARX, one per agent": "#d55e00", "ARX, one for all": "#e69f00", "one net for all": "#009e73",
    "last value": "#777777",
}  # fmt: skip


def in_range(row: Any) -> Any:
    """Say whether glucose is between 70 and 180 mg/dl, less a tenth for each 10 mg/dl that it is below 70."""
    return 1.0 * ((row.cgm >= 70) & (row.cgm <= 180)) - 0.01 * np.maximum(70 - row.cgm, 0)


def main() -> None:
    """Run the case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the pictures (beside this script)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    table = persim.read_table(HERE / "glucose.csv", HERE / "schema.yaml")
    print(table.describe())
    known = table.of_agents([name for name in table.names if name not in NEW])
    train, test = known.split_last(2 / 9)  # the last two of nine days
    simulator = persim.fit(train)
    comparison = simulator.evaluate(test, HORIZONS)
    print(comparison)
    draw_comparison(comparison, out / "comparison.png")

    new_days, new_test = table.of_agents(NEW).split_last(2 / 9)
    draw_new_patient(simulator, new_days, new_test, out / "new_patient.png")
    draw_plan(simulator, train.of_agents(["adult05"]), out / "plan.png")


def draw_comparison(comparison: persim.Comparison, path: Path) -> None:
    """Mean error over patients against the horizon, with the middle half of the patients."""
    figure, axes = figure_of(6.4, 4.0)
    hours = np.array(comparison.horizons) * HOURS
    for name, colour in COLOURS.items():
        errors = comparison.errors[name][:, :, 0]
        axes.plot(hours, errors.mean(1), color=colour, marker="o", markersize=4, label=name, zorder=3)
        axes.fill_between(hours, *np.percentile(errors, [25, 75], axis=1), color=colour, alpha=0.12, lw=0)
        axes.annotate(
            name, (hours[-1], errors[-1].mean()), (6, 0), textcoords="offset points", color=colour, va="center"
        )
    axes.set(xlabel="hours ahead", ylabel="error up to then (RMSE, mg/dl)", ylim=(0, None), xlim=(0, hours[-1] * 1.38))
    axes.set_xticks([1, 2, 4, 6, 9, 12])
    axes.set_title(f"{len(comparison.agents)} patients, a week of data each, two later days predicted", loc="left")
    save(figure, path)


def draw_new_patient(simulator: persim.Simulator, days: persim.Table, test: persim.Table, path: Path) -> None:
    """Half a day of a new patient, predicted after 1, 6 and 24 hours and a week of data."""
    amounts = {"1 hour": 4, "6 hours": 24, "24 hours": 96, "a week": len(days)}
    who, steps = "adult03", 48
    figure, panels = figure_of(8.4, 5.6, rows=2, columns=2)
    for axes, (amount, rows) in zip(panels.flat, amounts.items(), strict=True):
        adapted = simulator.adapt(last_rows(days, rows))
        error = adapted.evaluate(test, [24]).errors["PerSim"][0, :, 0].mean()
        one = test.of_agents([who])
        first = int(np.flatnonzero(one.counted)[0]) + 32  # eight hours into the first test day
        frame = one.to_frame()
        inputs, past = frame.iloc[first : first + steps], frame.iloc[: first + 1]
        path_of = adapted.rollout(who, inputs[["insulin", "carbs"]], start=past, band=0.9)
        hours = np.arange(1, steps + 1) * HOURS
        axes.axhspan(70, 180, color="#009e73", alpha=0.08, lw=0)
        axes.fill_between(hours, path_of.cgm_low, path_of.cgm_high, color=COLOURS["PerSim"], alpha=0.2, lw=0,
                          label="90 % band")  # fmt: skip
        axes.plot(hours, path_of.cgm, color=COLOURS["PerSim"], label="predicted")
        axes.plot(hours, frame.cgm.iloc[first + 1 : first + 1 + steps], color="black", lw=1.2, label="measured")
        for hour, grams in zip(np.arange(steps) * HOURS, inputs.carbs, strict=True):
            if grams > 0:
                axes.annotate(f"{grams:.0f} g", (hour, 42), color="#d55e00", ha="center", fontsize=8)
        axes.set(xlim=(0, 12), ylim=(35, 330), xticks=[0, 3, 6, 9, 12])
        axes.set_title(f"{amount} of data: error {error:.0f} mg/dl up to 6 h", loc="left", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("hours ahead (carbohydrates of meals in orange)")
    for axes in panels[:, 0]:
        axes.set_ylabel("glucose, mg/dl")
    panels[0, 0].legend(frameon=False, fontsize=8, loc="upper left", ncols=3)
    figure.suptitle(f"A patient whom the fit never saw ({who}); errors are means over {len(NEW)} such patients", x=0.01,
                    ha="left", fontsize=10)  # fmt: skip
    save(figure, path)


def last_rows(table: persim.Table, rows: int) -> persim.Table:
    """The last rows of each agent."""
    frame = table.to_frame().groupby(table.schema.agent, sort=False).tail(rows)
    return persim.read_table(frame, table.schema, new=True)


def draw_plan(simulator: persim.Simulator, record: persim.Table, path: Path) -> None:
    """Eight hours with two meals: the insulin that this patient has between meals, and the planned one."""
    import pandas as pd

    (who,), steps = record.names, 32
    carbs = np.zeros(steps)
    carbs[4], carbs[20] = 60, 40
    meals = pd.DataFrame({"carbs": carbs})
    planned = simulator.plan(who, steps, known=meals, reward=in_range, band=0.9)
    as_usual = simulator.rollout(who, meals.assign(insulin=np.median(record.column("insulin"))))
    figure, (above, below) = figure_of(7.2, 4.8, rows=2, heights=(3, 1))
    hours = np.arange(1, steps + 1) * HOURS
    above.axhspan(70, 180, color="#009e73", alpha=0.08, lw=0)
    above.annotate("target range", (7.95, 176), color="#009e73", ha="right", va="top", fontsize=8)
    above.fill_between(hours, planned.cgm_low, planned.cgm_high, color=COLOURS["PerSim"], alpha=0.2, lw=0)
    above.plot(hours, planned.cgm, color=COLOURS["PerSim"], label="with the plan (90 % band)")
    above.plot(hours, as_usual.cgm, color="#777777", ls="--", label="with the median insulin of this patient's record")
    for step in np.flatnonzero(carbs):
        above.axvline(step * HOURS, color="#d55e00", lw=0.8)
        above.annotate(f" {carbs[step]:.0f} g of carbohydrates", (step * HOURS, 30), color="#d55e00", fontsize=8)
    above.set(ylabel="glucose, mg/dl", xlim=(0, 8), ylim=(25, None))
    above.legend(frameon=False, fontsize=8, loc="upper left")
    below.bar(hours - HOURS, planned.insulin, width=0.8 * HOURS, align="edge", color=COLOURS["PerSim"])
    below.set(ylabel="insulin, U\nper 15 min", xlabel="hours ahead", xlim=(0, 8))
    above.set_title(f"A plan for {who}: time in range over the next eight hours", loc="left")
    save(figure, path)


def figure_of(
    width: float, height: float, rows: int = 1, columns: int = 1, heights: tuple[float, ...] | None = None
) -> tuple[Any, Any]:
    """Make a figure and its axes in one style."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=rows > 1, sharey=columns > 1, height_ratios=heights)
    for one in np.atleast_1d(axes).flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", alpha=0.25, lw=0.6)
    return figure, axes


def save(figure: Any, path: Path) -> None:
    """Write the picture and say where."""
    figure.savefig(path, dpi=130)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
