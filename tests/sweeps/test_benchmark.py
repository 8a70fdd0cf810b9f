"""The benchmark runner, end to end on the smoke suite: results, dying drivers and workers, failing cells, bad input."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from baselines import registry
from persim import console
from persim.data import Trajectories, collect_regime
from persim.envs import get
from persim.methods.persim import BUDGETS
from persim.storage import store
from persim.storage.cells import CellStore
from sweeps import benchmark
from sweeps.grid import command
from sweeps.grid.suites import SUITES
from sweeps.tracking.mirror import default_uri
from tests.sweeps.cluster import two_nodes
from tests.sweeps.test_rank_cv import wait_for, workers_of

SCRIPT = Path(benchmark.__file__)
SMOKE = ["--suite", "smoke", "--envs", "cartpole", "--methods", "persim,true-env"]
CELLS = 6  # prediction and reward of PerSim, reward of True env+MPC, two trials


def start(folder, *more, arguments=SMOKE):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments, *more],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process, seconds=220):
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, errors


def rows(folder):
    """Finished cells by id, without timings and the place they ran from."""
    found = {}
    for path in (folder / "runs" / "cells").glob("*.json"):
        record = json.loads(path.read_text())["record"]
        found[path.stem] = json.dumps([record[name] for name in ("cell", "rows", "curves")], sort_keys=True)
    return found


def runs(folder):
    client = MlflowClient(tracking_uri=default_uri(folder / "runs"))
    return client.search_runs([client.get_experiment_by_name("smoke").experiment_id])


def children(folder):
    return [run for run in runs(folder) if "mlflow.parentRunId" in run.data.tags]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output, errors = finish(start(folder))
    assert code == 0, errors
    return folder, output


@pytest.mark.ray
def test_every_cell_is_a_row_a_run_and_a_line(undisturbed):
    folder, output = undisturbed
    assert len(rows(folder)) == CELLS
    assert "CartPole, random data, N = 6: mean reward of an episode (smoke budget)" in output
    assert "PerSim (2)" in output
    assert "True env+MPC, our planner (2)" in output
    for name in ("parts", "pieces", "checkpoints"):
        assert not list((folder / "runs" / name).glob("*"))
    found = children(folder)
    assert len(found) == CELLS
    assert {run.info.status for run in runs(folder)} == {"FINISHED"}
    learnt = [run for run in found if run.data.params["method"] == "persim"]
    for run in learnt:
        assert run.inputs.dataset_inputs[0].dataset.name == "cartpole random N=6"
        assert {"rank", "learning_rate", "batch_size", "epochs", "members"} <= set(run.data.params)
        assert "curve/train_mse" in run.data.metrics
    shown = {name for run in learnt for name in run.data.metrics}
    assert {"reward/agent_5", "prediction_rmse/agent_1", "reward/mean"} <= shown
    assert {"factor_r2_force", "factor_r2_pole_length"} <= shown  # Figures 1 and 5, as numbers


@pytest.mark.ray
def test_one_model_serves_all_that_is_measured_and_other_commands_read_it(undisturbed):
    from persim.learning.model import LowRankDynamics

    folder, _ = undisturbed
    models = sorted((folder / "runs" / "models").glob("*.safetensors"))
    assert len(models) == 2
    model, about = LowRankDynamics.load(models[0])
    assert model.settings.members == BUDGETS["smoke"]["members"]
    assert {"env", "regime", "agents", "seed"} <= set(about)


@pytest.mark.ray
def test_the_same_command_again_computes_nothing(undisturbed, monkeypatch, capsys):
    folder, output = undisturbed
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs" / "cells").iterdir()}
    assert console.run(benchmark.main, SMOKE) == 0
    again = capsys.readouterr()
    assert f"{CELLS} of {CELLS} cells are finished already" in again.err
    assert again.out.splitlines()[:8] == output.splitlines()[:8]
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "runs" / "cells").iterdir()}
    assert len(children(folder)) == CELLS
    assert console.run(benchmark.main, [*SMOKE, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("  done  ") == CELLS


def kill_group(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def files(folder):
    return sum(1 for path in (folder / "runs").rglob("*") if path.suffix in (".safetensors", ".json"))


@pytest.mark.ray
@pytest.mark.slow
def test_ten_killed_drivers_change_nothing(undisturbed, tmp_path):
    moments = random.Random(0)
    for _ in range(10):
        process = start(tmp_path)
        try:
            process.wait(timeout=moments.uniform(1, 16))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    code, _, errors = finish(start(tmp_path))
    assert code == 0, errors
    assert rows(tmp_path) == rows(undisturbed[0])
    assert len(children(tmp_path)) == CELLS


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_killed_half_way_changes_nothing(undisturbed, tmp_path):
    process = start(tmp_path)
    wait_for(lambda: rows(tmp_path) or list((tmp_path / "runs").glob("models/*")), process, seconds=150)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, _, errors = finish(start(tmp_path))
    assert code == 0, errors
    assert rows(tmp_path) == rows(undisturbed[0])
    assert len(children(tmp_path)) == CELLS
    for name in ("parts", "pieces", "checkpoints"):
        assert not list((tmp_path / "runs" / name).glob("*"))


@pytest.mark.ray
def test_killed_workers_change_nothing(undisturbed, tmp_path):
    process = start(tmp_path)
    killed = []

    def kill_one():
        for pid in workers_of(process.pid, "ray::cell_task")[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        return len(killed) >= 2

    wait_for(kill_one, process, seconds=150)
    code, _, errors = finish(process)
    assert code == 0, errors
    assert rows(tmp_path) == rows(undisturbed[0])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_node_changes_nothing(undisturbed, tmp_path):
    with two_nodes() as nodes:
        process = start(tmp_path, "--address", nodes.address)
        wait_for(lambda: list((tmp_path / "runs").glob("models/*")), process, seconds=200)
        nodes.remove(nodes.workers[0])
        code, _, errors = finish(process)
    assert code == 0, errors
    assert rows(tmp_path) == rows(undisturbed[0])
    assert len(children(tmp_path)) == CELLS


@pytest.mark.ray
def test_a_cell_that_fails_is_reported_and_stops_no_other(undisturbed, tmp_path):
    (tmp_path / "runs" / "models").mkdir(parents=True)
    for path in (undisturbed[0] / "runs" / "models").iterdir():  # one model is damaged
        (tmp_path / "runs" / "models" / path.name).write_bytes(path.read_bytes())
    victim = sorted((tmp_path / "runs" / "models").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:-40])
    code, output, errors = finish(start(tmp_path))
    assert code == 1
    assert "2 cells failed; the same command tries again" in errors  # prediction and reward of one trial
    assert "PerSim (1, 1 failed)" in output
    assert victim.name in errors
    assert "is damaged" in errors
    assert [run.info.status for run in children(tmp_path)].count("FAILED") == 2
    good = rows(tmp_path)
    assert len(good) == CELLS - 2
    assert good.items() <= rows(undisturbed[0]).items()
    victim.unlink()
    code, _, errors = finish(start(tmp_path))
    assert code == 0, errors
    assert [run.info.status for run in children(tmp_path)] == ["FINISHED"] * CELLS
    assert rows(tmp_path) == rows(undisturbed[0])


AUGMENTATION = ["--suite", "augmentation", "--envs", "cartpole", "--agents", "6", "--trials", "1", "--preset", "smoke"]


@pytest.mark.ray
def test_policies_and_the_synthetic_trajectories_behind_them(tmp_path):
    code, output, errors = finish(start(tmp_path, arguments=AUGMENTATION))
    assert code == 0, errors
    assert "CartPole, random data, N = 6: mean reward of an episode (smoke budget)" in output
    for method in SUITES["augmentation"].methods:
        assert f"{registry.METHODS[method].label} (1)" in output
    assert "d3rlpy_logs" not in os.listdir(tmp_path)
    models = [path.name.rpartition("-")[0] for path in (tmp_path / "runs" / "models").iterdir()]
    assert models.count("cartpole-persim") == 1  # both start from the same simulator
    client = MlflowClient(tracking_uri=default_uri(tmp_path / "runs"))
    found = client.search_runs([client.get_experiment_by_name("augmentation").experiment_id])
    cql = next(run for run in found if run.data.params.get("seed") == "0" and run.data.params["method"] == "cql-a")
    assert {"curve/td_loss", "curve/conservative_loss", "reward/agent_5"} <= set(cql.data.metrics)
    assert [point.step for point in client.get_metric_history(cql.info.run_id, "curve/td_loss")] == list(range(1, 11))


@pytest.mark.ray
@pytest.mark.slow
def test_a_diverged_critic_is_named_with_its_step_and_stops_no_other(tmp_path):
    first = recorded(tmp_path)
    data = Trajectories.load(first)
    replace(data, reward=np.full(len(data), 3e38, np.float32)).save(first)
    code, output, errors = finish(start(tmp_path, "--methods", "cql-p,true-env", arguments=AUGMENTATION))
    assert code == 1
    assert re.search(
        r"failed: cartpole, random, N=6, CQL-P, reward, seed 0 .*: DivergenceError: .* at step 1; lower", errors
    )
    assert "CQL-P (0, 1 failed)" in output
    assert "True env+MPC, our planner (1)" in output


def recorded(folder):
    """The dataset of the cells of ``AUGMENTATION``, where they will look for it."""
    cell = jobs(AUGMENTATION)[0].cell
    path = CellStore(folder / "runs").dataset_path(cell.env, cell.regime, cell.agents, 0)
    collect_regime(get(cell.env), cell.regime, cell.agents, 0).save(path)
    return path


def jobs(arguments):
    return command.grid_of(command.parser("").parse_args(arguments), Path("runs")).jobs()


BAD = [
    (["--suite", "rewrd"], "did you mean 'reward'"),
    (["--suite", "smoke", "--envs", "cartpol"], "did you mean 'cartpole'"),
    (["--suite", "smoke", "--methods", "persin"], "did you mean 'persim'"),
    (["--suite", "smoke", "--regimes", "rnadom"], "did you mean 'random'"),
    (["--suite", "smoke", "--preset", "papr"], "did you mean 'paper'"),
    (["--suite", "smoke", "--agents", "4"], "agents is 4"),
    (["--suite", "smoke", "--agents", "6,x"], "no list of whole numbers"),
    (["--suite", "smoke", "--trials", "0"], "trials is 0"),
    (["--suite", "smoke", "--episodes", "0"], "episodes is 0"),
    (["--suite", "smoke", "--states", "rwa"], "did you mean 'raw'"),
    (["--suite", "smoke", "--seed", "-1"], "seed is -1"),
    (["--suite", "smoke", "--rank", "few"], "rank 'few' is not a rank"),
    (["--suite", "smoke", "--rank", "²"], "rank '²' is not a rank"),
    (["--suite", "smoke", "--settings", "tuned"], "run: python sweeps/tune.py --env cartpole"),
    (["--suite", "smoke", "--settings", "absent.json"], "cannot be read"),
    (["--suite", "smoke", "--methods", "bcq-p", "--settings", "tuned"], "are PerSim's, but no method here has them"),
    (["--suite", "smoke", "--rank", "0"], "rank is 0"),
    (["--suite", "smoke", "--rank", "auto"], "run: python sweeps/rank_cv.py --env cartpole"),
    (["--suite", "smoke", "--planner", "cen"], "did you mean 'cem'"),
    (["--suite", "smoke", "--device", "cudda"], "did you mean 'cuda'"),
    (["--suite", "smoke", "--gpu-share", "2"], "gpu-share is 2.0"),
    (["--suite", "smoke", "--cpus", "0"], "cpus is 0"),
    (["--suite", "unseen", "--methods", "persim"], "method 'persim' knows only agents of the data"),
    (["--suite", "unseen", "--methods", "persim-p1"], "did you mean 'persim-p10'"),
    (["--suite", "unseen", "--agents", "10"], "p is 0.1, which leaves 1 of 10 training agents"),
    (["--suite", "smoke", "--store", "/proc/runs"], "cannot be written"),
    (["--suite", "smoke", "--tracking-uri", "http://127.0.0.1:9"], "does not answer"),
    (["--suite", "smoke", "--address", "127.0.0.1:9"], "no Ray cluster answers at address '127.0.0.1:9'"),
    ([], "the following arguments are required: --suite"),
]


@pytest.mark.parametrize(
    ("arguments", "expected"), BAD, ids=lambda value: " ".join(value) if type(value) is list else ""
)
def test_bad_input_is_one_line_status_2_and_nothing_left(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = console.run(benchmark.main, arguments)
    except SystemExit as stop:
        code = stop.code
    errors = capsys.readouterr().err.splitlines()
    assert code == 2
    assert expected in errors[0]
    assert len(errors) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.ray
def test_a_gpu_that_is_not_there_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert console.run(benchmark.main, [*SMOKE, "--device", "cuda"]) == 2
    assert "there is no GPU on this machine; give --device cpu or auto" in capsys.readouterr().err


def test_a_ray_that_does_not_start_is_one_line(tmp_path, monkeypatch, capsys):
    import ray

    def too_slow(**options):
        raise Exception("The current node timed out during startup.")  # what Ray does on a busy machine

    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.chdir(tmp_path)
    assert console.run(benchmark.main, SMOKE) == 2
    assert "Ray did not start on this machine (The current node timed out" in capsys.readouterr().err


def test_a_second_driver_on_the_store_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with benchmark.only_driver(tmp_path / "runs", benchmark.LOCK):
        assert console.run(benchmark.main, SMOKE) == 2
    assert "another process is running this sweep" in capsys.readouterr().err


def test_a_store_of_another_version_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = CellStore(tmp_path / "runs").record_path(jobs(SMOKE)[0].cell.id)
    monkeypatch.setattr(store, "FORMAT_VERSION", 99)
    store.write_record(path, "cell", {})
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert console.run(benchmark.main, SMOKE) == 2
    assert "version 99" in capsys.readouterr().err
