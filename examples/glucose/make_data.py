"""Makes the table of the worked case: 30 virtual patients with type 1 diabetes, one row per 15 minutes.

    pip install simglucose==0.2.11 --no-deps --target simglucose-only
    PYTHONPATH=simglucose-only python examples/glucose/make_data.py --days 9 --out examples/glucose/glucose.csv

The patients are those of simglucose 0.2.11 (the UVa/Padova simulator: 10 children, 10 adolescents, 10 adults). It is
no dependency of PerSim: its own requirements are old, so it is installed without them, and the two modules that its
package imports and that are not needed here (`gym`, `pkg_resources`) are replaced by stubs.

Columns, one row per patient and 15 minutes:

    patient          child01 ... teen10 ... adult10
    minute           since the first midnight
    cgm              reading of the glucose sensor at that minute, mg/dl, with the sensor's noise
    insulin          units given in the 15 minutes that follow, basal and bolus together
    carbs            grams of carbohydrates of a meal that begins at that minute
    weight, age      kg and years
    daily_insulin    the patient's usual insulin, units per day
    carb_ratio       grams of carbohydrates that one unit covers
    correction       mg/dl by which one unit lowers the glucose

What the patients do is in `Habits`: three meals and some snacks a day, boluses that are mostly right, sometimes late
or forgotten, corrections, rescue carbohydrates, and a basal rate that drifts. So insulin and carbohydrates do not
always come together, and a model can tell their effects apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

STEP_MINUTES = 15
DAY_MINUTES = 24 * 60
STEPS_A_DAY = DAY_MINUTES // STEP_MINUTES
SENSOR, SENSOR_MINUTES, PUMP = "Dexcom", 3, "Cozmo"
GROUPS = {"child": "child", "teen": "adolescent", "adult": "adult"}  # ours: simglucose's
PATIENTS_A_GROUP = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Meal:
    """A meal of the day: when (hours), how likely, how much (grams per kg of body weight)."""

    hour: float
    hour_deviation: float
    probability: float
    grams_per_kg: float


MEALS = (
    Meal(7.5, 0.75, 0.95, 0.7),
    Meal(10.25, 0.5, 0.35, 0.25),
    Meal(12.75, 0.75, 0.97, 1.0),
    Meal(16.0, 0.75, 0.45, 0.3),
    Meal(19.0, 0.75, 0.98, 1.1),
    Meal(21.75, 0.5, 0.3, 0.25),
)


@dataclass(frozen=True)
class Habits:
    """How a patient eats and doses. Deviations of sizes, counts and rates are of the logarithm."""

    meal_deviation: float = 0.35
    counting_deviation: float = 0.3  # of the carbohydrates as the patient counts them
    forgotten: float = 0.1  # probability that a meal gets no bolus
    late: float = 0.2  # probability that the bolus comes one to three steps after the meal
    target_mg_dl: float = 140.0
    correct_above_mg_dl: float = 160.0  # with a meal
    correct_alone_above_mg_dl: float = 230.0  # without a meal, when the last bolus is long ago
    correct_alone: float = 0.15  # probability per step
    bolus_pause_steps: int = 12
    rescue_below_mg_dl: float = 75.0
    rescue: float = 0.6  # probability per step
    rescue_grams_per_kg: float = 0.25
    rescue_pause_steps: int = 3
    basal_deviation: float = 0.2
    basal_hours: float = 8.0  # over which the basal rate drifts


@dataclass
class Person:
    """One patient's decisions, step by step; all randomness comes from `rng`."""

    weight_kg: float
    basal_units_min: float
    carb_ratio: float
    correction: float
    rng: np.random.Generator
    habits: Habits

    def __post_init__(self) -> None:
        self.drift = self.rng.normal(0.0, self.habits.basal_deviation)
        self.meals: dict[int, float] = {}
        self.boluses: dict[int, float] = {}
        self.last_bolus = self.last_rescue = -STEPS_A_DAY

    def decide(self, step: int, cgm: float) -> tuple[float, float, float]:
        """Returns the basal rate (units/min), the bolus (units) and the carbohydrates (g) of this step."""
        if step % STEPS_A_DAY == 0:
            self._plan_day(step)
        carbs = self.meals.pop(step, 0.0) + self._rescue(step, cgm)
        bolus = self._bolus(step, cgm)
        keep = math.exp(-STEP_MINUTES / 60 / self.habits.basal_hours)
        self.drift = keep * self.drift + math.sqrt(1 - keep**2) * self.rng.normal(0.0, self.habits.basal_deviation)
        return self.basal_units_min * math.exp(self.drift), bolus, carbs

    def _plan_day(self, step: int) -> None:
        """Draws the meals of the day that begins at `step`, and when and with what count each gets its bolus."""
        for meal in MEALS:
            eaten, noise, missed, delayed = self.rng.random(), self.rng.normal(size=3), *self.rng.random(2)
            delay = int(self.rng.integers(1, 4)) if delayed < self.habits.late else 0
            if eaten >= meal.probability:
                continue
            at = step + round((meal.hour + noise[0] * meal.hour_deviation) * 60 / STEP_MINUTES)
            grams = self.weight_kg * meal.grams_per_kg * math.exp(noise[1] * self.habits.meal_deviation)
            self.meals[at] = self.meals.get(at, 0.0) + float(round(grams))
            if missed >= self.habits.forgotten:
                counted = grams * math.exp(noise[2] * self.habits.counting_deviation)
                self.boluses[at + delay] = self.boluses.get(at + delay, 0.0) + counted / self.carb_ratio

    def _bolus(self, step: int, cgm: float) -> float:
        habits, units, draw = self.habits, self.boluses.pop(step, 0.0), self.rng.random()
        rested = step - self.last_bolus >= habits.bolus_pause_steps
        alone = rested and cgm > habits.correct_alone_above_mg_dl and draw < habits.correct_alone
        if alone or (units > 0 and rested and cgm > habits.correct_above_mg_dl):
            units += (cgm - habits.target_mg_dl) / self.correction
        if units > 0:
            self.last_bolus = step
        return units

    def _rescue(self, step: int, cgm: float) -> float:
        habits, draw = self.habits, self.rng.random()
        rested = step - self.last_rescue >= habits.rescue_pause_steps
        if cgm >= habits.rescue_below_mg_dl or not rested or draw >= habits.rescue:
            return 0.0
        self.last_rescue = step
        return float(round(self.weight_kg * habits.rescue_grams_per_kg))


def simglucose() -> tuple[Any, Any, Any, Path]:
    """Returns simglucose's patient, sensor and pump classes and the folder of its parameter tables.

    Raises:
        SystemExit: it is not installed.
    """
    spec = importlib.util.find_spec("simglucose")
    if spec is None or spec.origin is None:
        sys.exit("simglucose is not installed; the first lines of this file say how")
    home = Path(spec.origin).parent
    stub("pkg_resources", resource_filename=lambda _, name: str(home / name))
    stub("gym.envs.registration", register=lambda **_: None)
    from simglucose.actuator.pump import InsulinPump
    from simglucose.patient.t1dpatient import T1DPatient
    from simglucose.sensor.cgm import CGMSensor

    class Patient(T1DPatient):
        def reset(self) -> None:
            super().reset()  # one step a minute, 3.5 times faster; readings agree within 1 mg/dl
            self._odesolver.set_integrator("dopri5", rtol=1e-4, first_step=self.SAMPLE_TIME)

        @staticmethod
        def model(t: float, x: np.ndarray, *rest: Any) -> Any:
            return T1DPatient.model(t, x.tolist(), *rest)  # Python's numbers are faster here than numpy's

    return Patient, CGMSensor, InsulinPump, home / "params"


def stub(name: str, **attributes: Callable[..., object]) -> None:
    """Puts an empty module of that name, with its parents, where `import` looks first."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
    vars(sys.modules[name]).update(attributes)


def record(patient: int, days: int, seed: int) -> pd.DataFrame:
    """Simulates patient 0 ... 29 and returns the rows of `days` days, after one day that is not recorded."""
    Patient, CGMSensor, InsulinPump, tables = simglucose()
    group, number = list(GROUPS)[patient // PATIENTS_A_GROUP], patient % PATIENTS_A_GROUP + 1
    original = f"{GROUPS[group]}#{number:03d}"
    parameters = pd.read_csv(tables / "vpatient_params.csv").set_index("Name", drop=False).loc[original]
    usual = pd.read_csv(tables / "Quest.csv").set_index("Name").loc[original].to_dict()
    own = SimpleNamespace(**parameters)  # much faster than pandas
    habits_seed, sensor_seed = np.random.SeedSequence(seed).spawn(len(GROUPS) * PATIENTS_A_GROUP)[patient].spawn(2)

    body = Patient(own, init_state=parameters.iloc[2:15].to_numpy(float))
    sensor = CGMSensor.withName(SENSOR, seed=int(sensor_seed.generate_state(1)[0]))
    pump = InsulinPump.withName(PUMP)
    basal_units_min = own.u2ss * own.BW / 6000
    rng = np.random.default_rng(habits_seed)
    person = Person(own.BW, basal_units_min, usual["CR"], usual["CF"], rng, Habits())
    rows = np.array([one_step(step, body, sensor, pump, person) for step in range((days + 1) * STEPS_A_DAY)])
    cgm, insulin, carbs = rows[STEPS_A_DAY:].T
    return pd.DataFrame(
        {
            "patient": f"{group}{number:02d}",
            "minute": np.arange(len(cgm)) * STEP_MINUTES,
            "cgm": cgm.round().astype(int),
            "insulin": insulin.round(3),
            "carbs": carbs.astype(int),
            "weight": round(own.BW),
            "age": int(usual["Age"]),
            "daily_insulin": round(usual["TDI"]),
            "carb_ratio": int(usual["CR"]),
            "correction": round(usual["CF"]),
        }
    )


class Dose(NamedTuple):
    """What simglucose calls an action: grams of carbohydrates and units of insulin in one minute."""

    CHO: float
    insulin: float


def one_step(step: int, body: Any, sensor: Any, pump: Any, person: Person) -> tuple[float, float, float]:
    """Measures, decides and simulates 15 minutes; returns the reading (mg/dl), insulin (units) and carbs (g)."""
    cgm = sensor.measure(body)
    rate, bolus, carbs = person.decide(step, cgm)
    rate, bolus = pump.basal(rate), pump.bolus(bolus)
    for minute in range(STEP_MINUTES):
        if minute and minute % SENSOR_MINUTES == 0:
            sensor.measure(body)  # the noise goes on with every reading of the sensor, recorded or not
        first = minute == 0
        body.step(Dose(CHO=carbs if first else 0.0, insulin=rate + bolus if first else rate))
    return cgm, STEP_MINUTES * rate + bolus, carbs


def main() -> None:
    """Writes the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("glucose.csv"))
    parser.add_argument("--days", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.workers) as pool:
        one = partial(record, days=options.days, seed=options.seed)
        table = pd.concat(pool.map(one, range(len(GROUPS) * PATIENTS_A_GROUP)))
    table.to_csv(options.out, index=False)
    print(f"{len(table)} rows of {table['patient'].nunique()} patients in {options.out}")


if __name__ == "__main__":
    main()
