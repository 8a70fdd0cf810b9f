"""A question has one answer wherever it is asked: predict, evaluate and the benchmark share models, cells and rows."""

import pytest

from persim import console
from persim.cli import main
from persim.storage.cells import CellStore
from sweeps import benchmark

ASKED = ["--env", "cartpole", "--agents", "8", "--epochs", "2", "--average-last", "1", "--members", "2",
         "--candidates", "2"]  # fmt: skip
SMOKE = ["--envs", "cartpole", "--regimes", "random", "--agents", "8", "--trials", "1", "--preset", "smoke",
         "--in-process"]  # fmt: skip


def rows(root):
    found = {}
    for cell_id in CellStore(root).finished_ids():
        from persim.storage.cells import read_finished

        done = read_finished(CellStore(root).record_path(cell_id))
        for row in done.rows:
            found[done.cell.method, done.cell.what, row["metric"], row["agent"]] = row["value"]
    return found


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def numbers(output):
    return [line.split()[3] for line in output.splitlines() if "force=" in line]


def test_three_commands_train_one_ensemble_and_report_equal_numbers(store, capsys):
    evaluate = ["evaluate", *ASKED, "--plans", "20", "--horizon", "8", "--episodes", "1"]
    assert console.run(main, ["predict", *ASKED]) == 0
    assert console.run(main, evaluate) == 0
    printed = numbers(capsys.readouterr().out)
    assert len(list(store.glob("models/*"))) == 1
    before = rows(store)
    for suite in ("reward", "prediction"):
        assert console.run(benchmark.main, ["--suite", suite, "--methods", "persim", *SMOKE]) == 0
    output = capsys.readouterr()
    assert output.err.count("1 of 1 cells are finished already") == 2
    assert len(list(store.glob("models/*"))) == 1
    assert rows(store) == before
    labels = CellStore(store).labels()
    assert sorted(sorted(found) for found in labels.values()) == [["evaluate", "reward"], ["predict", "prediction"]]
    for agent in range(1, 6):
        assert f"{before['persim', 'prediction', 'prediction_rmse', agent]:.4f}" == printed[agent - 1]
        assert f"{before['persim', 'reward', 'reward', agent]:.1f}" == printed[agent + 4]


def test_the_other_way_round_predict_and_evaluate_find_what_the_benchmark_made(store, capsys):
    assert console.run(benchmark.main, ["--suite", "reward", "--methods", "persim,true-env", *SMOKE]) == 0
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}
    capsys.readouterr()
    for more in ([], ["--scorer", "true_env"]):
        assert console.run(main, ["evaluate", *ASKED, "--plans", "20", "--horizon", "8", "--episodes", "1", *more]) == 0
        assert "already measured" in capsys.readouterr().out
    assert console.run(main, ["predict", *ASKED]) == 0
    assert "ensemble taken from" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}


def test_unseen_agents_are_one_measurement_too(store, capsys):
    whom = ["--covariates", "4,0.3", "9,0.7", "--p", "0.5"]
    for _ in range(2):
        assert console.run(main, ["predict", *ASKED, *whom]) == 0
        assert console.run(main, ["evaluate", *ASKED, *whom, "--plans", "9", "--horizon", "4", "--episodes", "1"]) == 0
    assert len(list(store.glob("models/*"))) == 2  # PerSim's, and the one with the maps
    assert len(CellStore(store).finished_ids()) == 2
    assert "already measured" in capsys.readouterr().out
