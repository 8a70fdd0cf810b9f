"""Kills in the first seconds of a fresh store, while Ray and MLflow's database are made: nothing is lost or doubled.

``KILLS`` (4) of them for each command, spread over the first ``KILL_SECONDS`` (those of an undisturbed run).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps import benchmark, rank_cv, tune

KILLS = int(os.environ.get("KILLS", "4"))
SMALL = ["--env", "cartpole", "--agents", "6", "--epochs", "3", "--cpus", "1"]
COMMANDS = {
    "rank_cv": (rank_cv, [*SMALL, "--ranks", "2,3", "--repeats", "1"]),
    "benchmark": (benchmark, ["--suite", "smoke", "--envs", "cartpole", "--methods", "persim,true-env", "--trials", "1",
                              "--cpus", "1"]),
    "tune": (tune, [*SMALL, "--trials", "2"]),
}  # fmt: skip


def start(name, folder):
    module, words = COMMANDS[name]
    tmp = folder / "t"
    tmp.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, module.__file__, *words], cwd=folder, env={**os.environ, "TMPDIR": str(tmp)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def rows(folder):
    """Everything that was measured, without what may differ between runs."""
    found = {}
    for path in (folder / "runs" / "cells").glob("*.json"):
        record = json.loads(path.read_text())["record"]
        found[path.stem] = json.dumps([record["cell"], record["rows"], record["curves"]], sort_keys=True)
    return found


def shown(folder):
    """How often MLflow shows each cell as finished."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/runs/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`persim.kind` = 'trial'", max_results=1000)
    return Counter(run.data.tags["persim.cell_id"] for run in runs if run.info.status == "FINISHED")


def left(folder):
    """What no finished command may leave."""
    parts = [path for path in (folder / "runs").rglob("*") if ".part" in path.name or path.suffix == ".lock"]
    return [*parts, *(folder / "t").glob("persim-*")]


@pytest.fixture(scope="module", params=COMMANDS)
def undisturbed(request, tmp_path_factory):
    folder, began = Path(tempfile.mkdtemp(prefix="k", dir="/tmp")), time.monotonic()
    process = start(request.param, folder)
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    return request.param, rows(folder), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(36_000)
def test_kills_in_the_first_seconds_of_a_fresh_store(undisturbed):
    name, known, took = undisturbed
    seconds = float(os.environ.get("KILL_SECONDS", took))
    for number in range(KILLS):
        folder = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
        process, when = start(name, folder), (number + 0.5) * seconds / KILLS
        time.sleep(when)
        if number % 2:
            os.killpg(process.pid, signal.SIGKILL)  # and all that it has started, as far as in its group
        else:
            process.kill()
        process.communicate()
        again = start(name, folder)
        out, errors = again.communicate(timeout=1200)
        what = f"{name}, killed after {when:.1f} s"
        assert again.returncode == 0, f"{what}: {out}{errors}"
        assert "Traceback" not in out + errors, what
        assert rows(folder) == known, what
        assert shown(folder) == dict.fromkeys(known, 1), what
        assert left(folder) == [], what
        print(f"{what}: resumed to the rows of an undisturbed run", flush=True)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
