"""The published rows of version 0.1: the cells that today's grid would name, the same values, and nothing lost."""

import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from persim import console
from persim.methods import Options
from sweeps.grid.suites import SUITES, Grid
from sweeps.reporting import rows as row_files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import convert_0_1


@pytest.fixture(scope="module")
def old():
    found = defaultdict(list)
    for path in sorted((ROOT / "results").glob("rows-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            found[row["cell"]].append(row)
    return found


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    assert console.run(convert_0_1.main, [str(ROOT / "results"), str(folder)]) == 0
    return row_files.read_all(folder)


def jobs_today(done):
    """The cells that the grid asks for now, of the method and data of a cell, by what they measure."""
    cell, ((suite, preset),) = done.cell, list(done.labels.items())[:1]
    regime = "random" if cell.regime == "true-env" else cell.regime
    grid = Grid(SUITES[suite], ((cell.env, regime),), (cell.method,), (cell.agents,), 1, Options(preset), cell.seed,
                cell.measure.get("episodes") if cell.what == "reward" else None)  # fmt: skip
    return {job.cell.what: job.cell for job in grid.jobs()}


def test_ids_are_those_that_the_grid_gives_today(new):
    seen = defaultdict(int)
    for done in new.values():
        if done.cell.what == "holdout":
            continue
        wanted = jobs_today(done)[done.cell.what]
        wanted = replace(wanted, settings=convert_0_1.today(wanted.settings))
        if "progress" not in done.cell.settings.get("acting", {"progress": 0}):  # of before CaDM had it
            del wanted.settings["acting"]["progress"]
        assert done.cell.id == wanted.id, (done.cell, wanted)
        seen[done.cell.method, done.cell.what] += 1
    assert seen.keys() >= {
        ("persim", "prediction"), ("persim", "reward"), ("true-env", "reward"), ("bcq-p", "reward"),
        ("bcq-a", "reward"), ("cql-p", "reward"), ("cql-a", "reward"), ("morel-p", "reward"), ("morel-a", "reward"),
    }  # fmt: skip


def test_every_value_is_there_once(old, new):
    def key(row, env, regime, agents, method, seed, more):
        return env, regime, agents, method.lower(), seed, row["metric"], row["agent"], row["value"], more

    before = set()
    for rows in old.values():
        settings = json.loads(rows[0]["settings"])
        more = (
            (settings.get("rank"), rows[0]["trial"]) if rows[0]["suite"] == "rank_cv" else rows[0]["suite"] == "unseen"
        )
        where = [rows[0][name] for name in ("env", "regime", "n_agents", "method", "seed")]
        before |= {key(row, *where, more) for row in rows}
    after = []
    for done in new.values():
        cell = done.cell
        more = "unseen" in cell.measure
        if cell.what == "holdout":
            more = (cell.settings["rank"], cell.measure["split"])
        where = (cell.env, cell.regime, cell.agents, cell.method, cell.seed)
        after += [key(row, *where, more) for row in done.rows]
    assert len(after) == len(set(after))
    assert set(after) == before


def test_a_cell_that_measured_two_things_is_split_and_its_time_is_counted_once(old):
    both = [rows for rows in old.values() if {row["metric"] for row in rows} >= {"reward", "prediction_rmse"}]
    assert len(both) == 9
    for rows in both:
        reward, prediction = convert_0_1.convert(rows)
        assert (reward.cell.what, prediction.cell.what) == ("reward", "prediction")
        assert reward.seconds["train"] == prediction.seconds["train"] == rows[0]["train_seconds"]
        assert reward.seconds["measure"] == rows[0]["measure_seconds"]
        assert set(prediction.seconds) == {"train"}
        assert "planning" in reward.cell.settings
        assert "planning" not in prediction.cell.settings


def test_trials_of_ranks_have_their_settings(new):
    trials = [done.cell for done in new.values() if done.cell.what == "holdout"]
    assert {cell.settings["rank"] for cell in trials} == {3, 5, 10, 15, 20, 30}
    assert {cell.measure["split"] for cell in trials} == {0, 1, 2}
    for cell in trials:
        assert cell.settings["size"] == {"members": 1, "candidates": 1}
        assert set(cell.settings["train"]) == set(convert_0_1._TRAINING)
        assert (cell.method, cell.seed, cell.measure["share"]) == ("persim", 0, 0.2)


def test_what_cannot_be_converted_is_refused(tmp_path, capsys):
    assert console.run(convert_0_1.main, [str(ROOT / "results"), str(ROOT / "results")]) == 2
    assert console.run(convert_0_1.main, [str(tmp_path), str(tmp_path / "new")]) == 2
    table = pq.read_table(ROOT / "results" / "rows-unseen.parquet")
    pq.write_table(table.set_column(4, "regime", [["pure-eps-20"] * len(table)]), tmp_path / "rows-unseen.parquet")
    assert console.run(convert_0_1.main, [str(tmp_path), str(tmp_path / "new")]) == 2
    assert "does not hold what its id says" in capsys.readouterr().err
