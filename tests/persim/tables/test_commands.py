"""``persim fit``, ``compare``, ``adapt``, ``rollout`` and ``plan``, and all that docs/own-data.md shows."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import persim
from persim import console
from persim.cli import main
from persim.cli.fit import chosen
from tests.persim.tables.systems import SCHEMA, frame

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "own-data.md").read_text()
FAST = "--steps 40 --members 1 --terms both"


@pytest.fixture
def here(tmp_path, monkeypatch, linear):
    """A folder with a table, its schema, a simulator, inputs and rewards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    frame().to_csv("houses.csv", index=False)
    SCHEMA.save("houses.yaml")
    linear.save("houses.safetensors")
    pd.DataFrame({"u": np.zeros(30), "k": np.ones(30)}).to_csv("inputs.csv", index=False)
    pd.DataFrame({"house": ["new"], "size": [2.0]}).to_csv("covariates.csv", index=False)
    Path("own_goals.py").write_text(
        "def warm(row):\n    return -abs(row.x - 2)\n\n\ndef wrong(row):\n    return row.y\n\n\nX = 3\n"
    )
    yield tmp_path
    sys.modules.pop("own_goals", None)


def run(arguments, capsys):
    try:
        code = console.run(main, shlex.split(arguments))
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_fit_compares_and_keeps_the_simulator(here, capsys):
    code, output, _ = run(f"fit houses.csv --schema houses.yaml --test 0.25 --horizons 3,10 {FAST}", capsys)
    assert code == 0
    assert "720 rows every 1 of 'hour', 0 of them with a missing state; 25% kept out" in output
    assert "chosen: rank 10, 40 steps, terms: both" in output
    assert output.splitlines()[-3].startswith("PerSim ")
    assert output.endswith("saved to simulator.safetensors\n")
    code, again, _ = run("compare simulator.safetensors houses.csv --last 0.25 --horizons 3,10 --out e.csv", capsys)
    assert code == 0
    table = [line for line in output.splitlines() if line.startswith(("PerSim", "last", "ARX", "one"))]
    assert [line for line in again.splitlines() if line.startswith(("PerSim", "last", "ARX", "one"))] == table
    errors = pd.read_csv("e.csv")
    assert errors.columns.tolist() == ["method", "horizon", "agent", "state", "rmse"]
    assert len(errors) == 5 * 2 * 8


def test_fit_says_where_nothing_was_chosen(here, capsys):
    frame(4, 3).to_csv("short.csv", index=False)
    code, output, _ = run("fit short.csv --schema houses.yaml --steps 2 --members 1", capsys)
    assert code == 0
    assert "nothing could be held out, so that nothing was chosen and there are no bands" in output
    code, _, error = run("rollout simulator.safetensors --agent h0 --inputs inputs.csv --band 0.9", capsys)
    assert code == 2
    assert "no bands were calibrated" in error


def test_fit_shows_what_it_tried_and_marks_the_best(linear):
    lines = chosen(linear).splitlines()
    assert re.fullmatch(r"  10 +1  linear  0\.0000 \*", lines[2])
    assert lines[3].startswith("chosen: rank 10, 1 steps, terms: linear (")


def test_adapt_says_how_much_there_was_and_how_unsure_it_still_is(here, capsys):
    new = pd.concat([frame(1, 60, seed=2, noise=0.5, prefix="new"), frame(1, 30, seed=3, noise=0.5)])
    new.to_csv("new.csv", index=False)
    code, output, _ = run("adapt houses.safetensors new.csv --out with-new.safetensors", capsys)
    assert code == 0
    assert re.search(r"^new0 +59 +\d+ % +new$", output, re.MULTILINE)
    assert re.search(r"^h0 +29 +\d+ % +new weights$", output, re.MULTILINE)
    assert persim.load("with-new.safetensors").names[-2:] == ("new0", "h0")
    code, output, _ = run("adapt houses.safetensors covariates.csv --out other.safetensors", capsys)
    assert code == 0
    assert re.search(r"^new +0 +100 % +new$", output, re.MULTILINE)


def test_rollout_and_plan_write_what_they_print_and_draw_it(here, capsys, linear):
    code, output, _ = run(
        "rollout houses.safetensors --agent h1 --inputs inputs.csv --band 0.9 --out a.csv --plot a.png", capsys
    )
    assert code == 0
    assert "... and 6 more; --out writes all" in output
    expected = linear.rollout("h1", pd.read_csv("inputs.csv"), band=0.9)
    pd.testing.assert_frame_equal(pd.read_csv("a.csv"), expected)
    plan = "plan houses.safetensors --agent h1 --steps 4 --known inputs.csv --reward own_goals:warm --bound u=-6:6"
    code, output, _ = run(f"{plan} --out b.csv --plot b.png", capsys)
    assert code == 0
    found = pd.read_csv("b.csv")
    np.testing.assert_allclose(found.x, 2, atol=0.2)
    assert found.k.tolist() == [1] * 4
    for name in ("a.png", "b.png"):
        assert Path(name).read_bytes().startswith(b"\x89PNG")


def test_a_plan_by_a_recorded_reward_says_how_well_it_is_known(here, capsys):
    given = frame().assign(r=lambda f: -np.square(f.x.shift(-1) - 2))
    given.to_csv("rewards.csv", index=False)
    persim.Schema(**(SCHEMA.to_mapping() | {"reward": "r"})).save("rewards.yaml")
    assert run("fit rewards.csv --schema rewards.yaml --terms linear --steps 1 --members 1", capsys)[0] == 0
    plan = "plan simulator.safetensors --agent h1 --steps 3 --known inputs.csv --reward recorded"
    code, output, _ = run(plan, capsys)
    assert code == 0
    assert "the reward learnt from the table explains 100% of the variance" in output


MODEL = "houses.safetensors"
PLAN = f"plan {MODEL} --agent h1 --steps 3 --known inputs.csv"
BAD = {
    "fit houses.csv --schema houses.yaml --rank best": "rank is 'best'",
    "fit houses.csv --schema houses.yaml --terms bth": "did you mean 'both'",
    "fit houses.csv --schema houses.yaml --test 1.5": "share is 1.5",
    "fit houses.csv --schema houses.yaml --test 0.1 --horizons 13": "longest trajectory has 12 rows",
    "fit houses.csv --schema houses.yaml --horizons 3": "--horizons are of the comparison on --test",
    "fit houses.csv --schema houses.yaml --out model.bin": "--out 'model.bin' is no .safetensors file",
    "fit houses.csv --schema houses.yaml --out folder.safetensors": "is a folder",
    "fit houses.csv --schema absent.yaml": "schema 'absent.yaml' cannot be read",
    "fit absent.csv --schema houses.yaml": "there is no file 'absent.csv'",
    "fit twice.csv --schema houses.yaml": "agent 'h0', data row 961, column 'hour': the time is the same as in",
    "fit lacks.csv --schema houses.yaml": "no column 'k' (known in the schema) (did you mean 'kk'?)",
    "fit text.csv --schema houses.yaml": "agent 'h0', data row 3, column 'x': 'high' is no number",
    "fit infinite.csv --schema houses.yaml": "agent 'h0', data row 3, column 'x': the value is infinite",
    "fit short.csv --schema houses.yaml": "agent 'z0' has 2 rows with a known state, fewer than the 3 that 1 lags need",
    "fit varies.csv --schema houses.yaml": "agent 'h0', data row 3, column 'size': 9, but",
    "fit still.csv --schema houses.yaml": "action 'u' is 0.5 in every row",
    f"adapt {MODEL} lacks.csv --out new.safetensors": "no column 'k'",
    f"adapt {MODEL} units.csv --out new.safetensors": "more than 30 times apart; give it in the same unit",
    f"adapt {MODEL} minutes.csv --out new.safetensors": "share a point of the grid",
    f"adapt {MODEL} twice.csv --out new.safetensors": "data row 961, column 'hour'",
    "adapt absent.safetensors houses.csv --out new.safetensors": "'absent.safetensors' cannot be read",
    "adapt houses.csv houses.csv --out new.safetensors": "is damaged or not PerSim's",
    f"adapt {MODEL} covariates.csv --out folder.safetensors": "is a folder",
    f"compare {MODEL} houses.csv --horizons 121 --out new.csv": "longest trajectory has 120 rows",
    f"compare {MODEL} houses.csv --horizons 0": "give numbers of steps from 1",
    f"compare {MODEL} houses.csv --horizons a": "'a' is no list of whole numbers",
    f"compare {MODEL} units.csv --out new.csv": "more than 30 times apart",
    f"compare {MODEL} houses.csv --last 2": "share is 2.0",
    f"rollout {MODEL} --agent h99 --inputs inputs.csv --out new.csv": "agent 'h99' is unknown",
    f"rollout {MODEL} --agent h1 --out new.csv": "--inputs is missing; give a file with the columns u, k",
    f"rollout {MODEL} --agent h1 --inputs covariates.csv --out new.csv": "covariates.csv has no column 'u'",
    f"rollout {MODEL} --agent h1 --inputs words.csv --out new.csv": "inputs: row 2, column 'u' is no finite number",
    f"rollout {MODEL} --agent h1 --inputs inputs.csv --steps 31": "30 rows of inputs were given for 31 steps",
    f"rollout {MODEL} --agent h1 --inputs inputs.csv --band 2 --out new.csv": "band is 2",
    f"rollout {MODEL} --agent h1 --inputs inputs.csv --plot new.jpg": "--plot 'new.jpg' is no .png file",
    f"rollout {MODEL} --agent h1 --inputs inputs.csv --start units.csv --out new.csv": "more than 30 times apart",
    f"plan {MODEL} --agent h1 --steps 3 --reward own_goals:warm": "known inputs are needed",
    f"{PLAN} --reward recorded --out new.csv": "no reward was recorded",
    f"{PLAN} --reward own_goals": "give module:function of a module in this folder, or recorded",
    f"{PLAN} --reward own_goals:wram": "has no attribute 'wram'",
    f"{PLAN} --reward own_goals:X": "is a int",
    f"{PLAN} --reward absent_module:f": "No module named 'absent_module'",
    f"{PLAN} --reward own_goals:wrong --out new.csv": "no column 'y'; there are: x, u, k",
    f"{PLAN} --reward own_goals:warm --bound u": "--bound 'u' is no bound; give ACTION=LOW:HIGH",
    f"{PLAN} --reward own_goals:warm --bound k=0:1": "bounds of 'k', which is no action",
    f"{PLAN} --reward own_goals:warm --seed -1": "seed is -1",
}  # fmt: skip


@pytest.fixture
def wrong(here):
    """The folder with tables that are wrong in one way each."""
    good = frame()
    cell = good.index == 2
    given = {
        "twice": pd.concat([good, good.iloc[[3]]]),
        "lacks": good.rename(columns={"k": "kk"}),
        "text": good.assign(x=good.x.astype(object).where(~cell, "high")),
        "infinite": good.assign(x=good.x.where(~cell, np.inf)),
        "short": pd.concat([good, frame(1, 2, prefix="z")]),
        "varies": good.assign(size=good["size"].where(~cell, 9)),
        "still": good.assign(u=0.5),
        "units": good.assign(x=100 * good.x),
        "minutes": good.assign(hour=good.hour / 60),
    }
    for name, table in given.items():
        table.to_csv(f"{name}.csv", index=False)
    Path("words.csv").write_text("u,k\n1,1\none,1\n")
    Path("folder.safetensors").mkdir()
    return here


def test_bad_input_is_one_line_and_nothing_is_written(wrong, capsys):
    before = {path: path.stat().st_mtime_ns for path in wrong.iterdir() if path.name != "__pycache__"}
    for arguments, message in BAD.items():
        code, _, error = run(arguments, capsys)
        assert code == 2, arguments
        assert error.count("\n") == 1, arguments
        assert message in error, arguments
    assert {path: path.stat().st_mtime_ns for path in wrong.iterdir() if path.name != "__pycache__"} == before


@pytest.fixture
def glucose(tmp_path, monkeypatch):
    """The files that the guide speaks of: eight patients and three days of the table that is shipped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (schema,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    (goals,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    Path("glucose.yaml").write_text(schema)
    Path("goals.py").write_text(goals)
    data = pd.read_csv(ROOT / "examples" / "glucose" / "glucose.csv")
    chosen_names = data.patient.unique()[::4]
    rows = data[data.patient.isin(chosen_names)].groupby("patient")
    rows.head(288).to_csv("glucose.csv", index=False)
    rows.head(388).groupby("patient").tail(100).to_csv("next-week.csv", index=False)
    one = data[data.patient == data.patient.unique()[1]]
    one.head(97).assign(patient="new01").to_csv("new-patient.csv", index=False)
    one[97:145][["insulin", "carbs"]].to_csv("next-day.csv", index=False)
    one[97:145][["carbs"]].to_csv("meals.csv", index=False)
    yield tmp_path
    sys.modules.pop("goals", None)


def test_the_commands_of_the_guide_run(glucose, capsys):
    commands = re.findall(r"^    persim ((?:\\\n|.)*)$", GUIDE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["check", "fit", "compare", "adapt", "rollout", "plan"]
    for command in commands:
        arguments = command.replace("\\\n", " ") + (f" {FAST}" if command.startswith("fit") else "")
        code, output, error = run(arguments, capsys)
        assert code == 0, error
        assert output
    assert {"glucose.safetensors", "with-new.safetensors", "day.png", "plan.png", "plan.csv"} <= set(
        map(str, Path().iterdir())
    )
    plan = pd.read_csv("plan.csv")
    assert len(plan) == 24
    assert plan.insulin.between(0, 5).all()


def test_the_lines_of_the_guide_run_and_persim_wins(glucose, capsys):
    (block,) = re.findall(r"(?<=\n\n)    import pandas(?:.*\n|\n(?=    ))+?(?=\n\S|\n`)", GUIDE)
    code = re.sub(r"^    ", "", block, flags=re.MULTILINE)
    assert 'rank="cv"' in code
    names = {}
    exec(compile(code.replace('rank="cv"', 'steps=250, members=1, terms="both"'), "guide", "exec"), names)
    errors = names["sim"].evaluate(names["test"], horizons=[24]).errors
    assert errors["PerSim"].mean() < min(found.mean() for name, found in errors.items() if name != "PerSim")
    assert names["sim"].names[-1] == "new01"
    assert {"cgm", "cgm_low", "cgm_high"} <= set(names["paths"].columns)
    assert (names["plan"].insulin >= 0).all()
    assert names["scores"].shape == (9, 2)
    loaded = persim.load("glucose.safetensors")
    pd.testing.assert_frame_equal(loaded.rollout("new01", pd.read_csv("next-day.csv"), band=0.9), names["paths"])
    assert "RMSE up to each horizon" in capsys.readouterr().out
