"""The main command, end to end on a small sweep: results, resume, dying workers, bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from persim import console
from persim.errors import InputError
from persim.methods.tuned import read_rank
from persim.storage import store
from persim.storage.cells import CellStore, Request
from sweeps import options as common
from sweeps import rank_cv
from sweeps.options import incomplete
from sweeps.tuning.sweep import Failure, run_missing
from sweeps.tuning.tuner import each_of

SCRIPT = Path(rank_cv.__file__)
SMALL = ["--env", "cartpole", "--agents", "20", "--ranks", "2,5", "--repeats", "2", "--epochs", "600"]


def start(folder, *more, arguments=SMALL):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments, *more],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def sweep(folder, *more, arguments=SMALL):
    process = start(folder, *more, arguments=arguments)
    output, errors = process.communicate(timeout=200)
    return process.returncode, output, errors


def results(folder):
    """Rows of all finished cells by id, without what may differ between runs (timings)."""
    found = {}
    for path in (folder / "runs" / "cells").glob("*.json"):
        record = json.loads(path.read_text())["record"]
        found[path.stem] = json.dumps([record["cell"], record["rows"], record["curves"]], sort_keys=True)
    return found


def mlflow_runs(folder):
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("rank_cv")
    return client.search_runs([experiment.experiment_id])


def wait_for(condition, process, seconds=90):
    for _ in range(seconds * 20):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output, errors = sweep(folder)
    assert code == 0, errors
    return folder, output


@pytest.mark.ray
def test_the_command_ends_with_table_plot_choice_and_runs(undisturbed):
    folder, output = undisturbed
    assert re.search(r"^ +2 .*\n +5 .*", output, re.MULTILINE)
    assert output.count("<- chosen") == 1
    chosen = read_rank(folder / "runs", "cartpole", "random", 20)
    assert f"chosen rank {chosen}" in output
    assert (folder / "runs/plots/rank-cartpole-random-20.png").read_bytes().startswith(b"\x89PNG")
    cells = [json.loads(text)[0] for text in results(folder).values()]
    trials = sorted((cell["settings"]["rank"], cell["measure"]["split"]) for cell in cells)
    assert trials == [(2, 0), (2, 1), (5, 0), (5, 1)]
    (request,) = CellStore(folder / "runs").requests()
    assert (request.suite, request.title, set(request.cells)) == (
        "rank_cv",
        "cartpole random N=20",
        set(results(folder)),
    )
    assert not list((folder / "runs" / "checkpoints").glob("*"))
    runs = mlflow_runs(folder)
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if run.data.tags["persim.kind"] == "trial":
            wanted = {
                "rank",
                "split",
                "share",
                "epochs",
                "seed",
                "commit",
                "batch_size",
                "learning_rate",
                "halve_every",
            }
            assert wanted <= {name.rpartition(".")[2] for name in run.data.params}
            assert {"holdout_error", "prediction_rmse/agent_5", "curve/train_mse"} <= set(run.data.metrics)


@pytest.mark.ray
def test_the_same_command_again_computes_nothing(undisturbed):
    folder, output = undisturbed
    before = results(folder)
    code, again, errors = sweep(folder)
    assert code == 0
    assert "4 of 4 trials are finished already" in errors
    assert "rank CV" not in errors  # no bar: Ray was not even started
    assert [line for line in again.splitlines() if "±" in line] == [line for line in output.splitlines() if "±" in line]
    assert results(folder) == before
    assert len(mlflow_runs(folder)) == 5


@pytest.mark.ray
def test_killed_drivers_and_workers_change_nothing(undisturbed, tmp_path):
    process = start(tmp_path)
    wait_for(lambda: results(tmp_path), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = set(results(tmp_path))
    assert before

    process = start(tmp_path, "--resume", arguments=["--env", "cartpole"])
    killed = []

    def kill_the_workers():
        killed.extend(workers_of(process.pid))
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
        return killed

    wait_for(kill_the_workers, process)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    # An orphaned worker may have finished its trial before it noticed that its driver is gone.
    kept = re.search(r"(\d) of 4 trials are finished already", errors)
    assert kept is not None
    assert int(kept[1]) >= len(before)
    assert results(tmp_path) == results(undisturbed[0])
    assert sum(run.data.tags["persim.kind"] == "trial" for run in mlflow_runs(tmp_path)) == 4


def workers_of(driver, doing="ImplicitFunc.train"):
    """Process ids of busy Ray workers among the descendants of a driver."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])

    def descends(pid):
        while pid in parents:
            if pid == driver:
                return True
            pid = parents[pid]
        return False

    return [pid for pid, name in names.items() if doing in name and descends(pid)]


ROLLED = ["--env", "cartpole", "--holdout-by", "blocks", "--error", "multi-step"]
BAD = [
    (["--env", "cartpol"], "environment 'cartpol' is unknown (did you mean 'cartpole'?)"),
    (["--env", "cartpole", "--regime", "rnadom"], "did you mean 'random'"),
    (["--env", "cartpole", "--ranks", "3,0"], "rank is 0"),
    (["--env", "cartpole", "--ranks", "3,x"], "no list of whole numbers"),
    (["--env", "cartpole", "--ranks", "3,3"], "name one twice"),
    (["--env", "cartpole", "--repeats", "0"], "repeats is 0"),
    (["--env", "cartpole", "--device", "cudda"], "device 'cudda' is unknown (did you mean 'cuda'?)"),
    (["--env", "cartpole", "--gpu-share", "0"], "gpu-share is 0.0"),
    (["--env", "cartpole", "--epochs", "-1"], "epochs is -1"),
    (["--env", "cartpole", "--holdout", "0"], "strictly between 0 and 1"),
    (["--env", "cartpole", "--holdout", "1"], "strictly between 0 and 1"),
    (["--env", "cartpole", "--holdout-by", "block"], "holdout-by 'block' is unknown (did you mean 'blocks'?)"),
    (["--env", "cartpole", "--error", "two-step"], "error 'two-step' is unknown"),
    (["--env", "cartpole", "--error", "multi-step"], "inside blocks of time, but transitions are held out"),
    (["--env", "cartpole", "--holdout-by", "blocks", "--steps", "9"], "steps is 9, but the error is one-step"),
    ([*ROLLED, "--steps", "1"], "steps is 1; give a whole number of at least 2"),
    (["--env", "cartpole", "--agents", "4"], "agents is 4"),
    (["--env", "cartpole", "--seed", "-1"], "seed is -1"),
    (["--env", "cartpole", "--store", "/proc/runs"], "cannot be written"),
    (["--env", "cartpole", "--store", "memory://bucket/x"], "is no folder, and this command cannot do without one"),
    (["--env", "cartpole", "--tracking-uri", "http://127.0.0.1:9"], "does not answer"),
    (["--env", "cartpole", "--address", "127.0.0.1:9"], "no Ray cluster answers at address '127.0.0.1:9'"),
    (["--env", "cartpole", "--address", "nonsense"], "no Ray cluster answers at address 'nonsense'"),
    (["--env", "cartpole", "--resume"], "no unfinished sweep of cartpole"),
    (["--env", "cartpole", "--rank", "3"], "unrecognized arguments"),
    ([], "the following arguments are required: --env"),
]


@pytest.mark.parametrize(
    ("arguments", "expected"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_status_2_and_nothing_left(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = console.run(rank_cv.main, arguments)
    except SystemExit as stop:
        code = stop.code
    errors = capsys.readouterr().err
    assert code == 2
    assert expected in errors
    assert errors.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["datasets", "cells", "checkpoints"])
def test_damaged_files_in_the_store_are_named(kind, undisturbed, tmp_path, monkeypatch, capsys):
    import shutil

    shutil.copytree(undisturbed[0] / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    if kind == "checkpoints":
        record = next((tmp_path / "runs/cells").glob("*.json"))
        record.unlink()
        victim = tmp_path / "runs/checkpoints" / f"{record.stem}.safetensors"
        victim.write_bytes(b"not a checkpoint")
    else:
        victim = next((tmp_path / "runs" / kind).iterdir())
        victim.write_bytes(victim.read_bytes()[:-30])
    assert console.run(rank_cv.main, SMALL) == 2
    errors = capsys.readouterr().err
    assert "is damaged" in errors.splitlines()[-1]
    assert victim.name in errors.splitlines()[-1]
    assert "delete it" in errors.splitlines()[-1]


def test_a_second_driver_of_the_same_sweep_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = rank_cv.checked_settings(rank_cv.parser().parse_args(SMALL))
    (tmp_path / "runs").mkdir()
    with common.only_driver(tmp_path / "runs", settings.id):
        assert console.run(rank_cv.main, SMALL) == 2
    assert "another process is running this sweep" in capsys.readouterr().err


def test_a_sweep_that_lacks_trials_says_which_and_fails(capsys):
    calls = []

    class Recorder:
        def __getattr__(self, name):
            return lambda *given, **named: calls.append((name, named.get("status"))) or 0

    job = rank_cv.checked_settings(rank_cv.parser().parse_args(SMALL)).job(5, 1)
    request = Request("rank_cv", "", (job.cell.id,))
    failure = Failure("rank 5, repeat 2", job.cell, "OSError: no space left")
    assert incomplete(Recorder(), request, [failure], 3, 4) == 1
    assert calls[:3] == [("fail", None), ("end", "FAILED"), ("close", None)]
    errors = capsys.readouterr().err
    assert "failed: rank 5, repeat 2: OSError: no space left\n3 of 4 trials finished" in errors


def test_every_point_is_run_once_in_its_order():
    points = [{"rank": rank, "repeat": repeat} for repeat in (2, 1) for rank in (5, 2)]
    search = each_of(points).search
    assert [search.suggest(str(number)) for number in range(4)] == points


def test_resume_refuses_options_that_say_otherwise(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = rank_cv.checked_settings(rank_cv.parser().parse_args(SMALL))
    manifest = rank_cv._manifest_path(tmp_path / "runs", settings)
    store.write_record(manifest, rank_cv.MANIFEST, {"settings": settings.as_json(), "finished": False})
    assert console.run(rank_cv.main, ["--env", "cartpole", "--resume", "--epochs", "7"]) == 2
    assert "--epochs 7 differs from the unfinished sweep's 600" in capsys.readouterr().err
    assert console.run(rank_cv.main, ["--env", "cartpole", "--resume", "--holdout-by", "blocks"]) == 2
    assert "--holdout-by blocks differs from the unfinished sweep's transitions" in capsys.readouterr().err


def test_the_options_of_the_hold_out_reach_every_cell():
    settings = rank_cv.checked_settings(rank_cv.parser().parse_args(ROLLED))
    assert (settings.holdout_by, settings.error, settings.steps) == ("blocks", "multi-step", rank_cv.STEPS)
    assert all((job.cell.measure["by"], job.cell.measure["steps"]) == ("blocks", 5) for job in settings.jobs())
    given = rank_cv.checked_settings(rank_cv.parser().parse_args([*ROLLED, "--steps", "3"]))
    assert given.job(5, 0).cell.measure["steps"] == 3


def test_blocks_that_the_data_do_not_bear_stop_the_sweep_before_any_worker(tmp_path):
    args = rank_cv.parser().parse_args([*ROLLED, "--agents", "6", "--steps", "50"])
    settings = rank_cv.checked_settings(args)
    with pytest.raises(InputError, match="no trajectory is long enough for a block of at least 50 transitions"):
        run_missing(args, settings, settings.job(2, 0), CellStore(tmp_path), 0, 1, lambda: pytest.fail("went on"))
