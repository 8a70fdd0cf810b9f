"""The mirror with many processes at once, with killed ones, and with real servers that get lost."""

import getpass
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from persim.learning.model import LowRankDynamics, ModelSettings
from persim.storage.cells import CellStore
from sweeps.tracking.mirror import default_uri
from tests.sweeps.mlflow_helpers import free_port, grid, history, mirror, mlflow_server, reward, runs, sweep, trial

PROCESSES, EACH = 8, 12
FORK = multiprocessing.get_context("fork")


def finish_cells(uri, root, request, done):
    """What one process does: its own mirror of the store that all share, its own cells."""
    mine = mirror(uri, root)
    for each in done:
        CellStore(root).finish(each)
    mine.end(request)
    os._exit(0 if mine.close(deadline=230) == 0 else 1)  # a fork has no business in pytest's own clean-up


def check_children(uri, root, request, number):
    client, parents, children = runs(uri)
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert sorted(run.data.tags["persim.cell_id"] for run in children) == sorted(request.cells)  # each of them once
    assert len(children) == number
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.info.status for run in children} == {"FINISHED"}
    assert all(len(run.data.metrics) == len(children[0].data.metrics) for run in children)
    for run in children[::37]:
        assert len(history(client, run, "curve/train_mse")) == 20


def mirror_at_once(uri, root, each):
    done = [trial(repeat, points=20) for repeat in range(PROCESSES * each)]
    request = sweep(root, *done)
    for path in (root / "cells").glob("*"):
        path.unlink()
    processes = [fork(uri, root, request, done[worker::PROCESSES]) for worker in range(PROCESSES)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    check_children(uri, root, request, PROCESSES * each)


def test_eight_processes_make_one_database_and_send_every_cell_once(tmp_path):
    mirror_at_once(default_uri(tmp_path), tmp_path, EACH)


def fork(uri, root, request, done):
    process = FORK.Process(target=finish_cells, args=(uri, root, request, done), daemon=True)
    process.start()
    return process


def test_killed_processes_lose_and_double_nothing(tmp_path):
    uri, done = default_uri(tmp_path), [trial(repeat, points=20) for repeat in range(40)]
    request = sweep(tmp_path, *done[:1])
    first = fork(uri, tmp_path, request, [])  # makes the database
    first.join()
    request = sweep(tmp_path, *done)
    for wanted in (4, 15, 28):
        process = fork(uri, tmp_path, request, [])
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
            while database.execute("SELECT COUNT(*) FROM runs").fetchone()[0] < wanted and process.is_alive():
                time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    last = mirror(uri, tmp_path)
    last.end(request)
    assert last.close() == 0
    check_children(uri, tmp_path, request, 40)


@pytest.mark.slow
def test_a_real_server_lost_midway_gets_everything_later(tmp_path, caplog):
    backend, port = f"sqlite:///{tmp_path}/server.db", free_port()
    with mlflow_server(backend, tmp_path, port) as (process, uri):
        first = mirror(uri, tmp_path)
        request = sweep(tmp_path, trial(points=1))
        while not first._synced:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        request = sweep(tmp_path, trial(points=1), trial(1, points=1))
        first.end(request)
        assert first.close() == 1
    assert caplog.text.count("cannot be updated") == 1
    with mlflow_server(backend, tmp_path, port):
        later = mirror(uri, tmp_path)
        later.end(request, {"chosen_rank": [(0, 5.0)]})
        assert later.close() == 0
        _, parents, children = runs(uri)
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert sorted(child.data.params["split"] for child in children) == ["0", "1"]


@pytest.mark.slow
def test_a_server_that_comes_back_during_the_sweep_gets_everything(tmp_path, caplog):
    backend, port = f"sqlite:///{tmp_path}/server.db", free_port()
    with mlflow_server(backend, tmp_path, port) as (_, uri):
        first = mirror(uri, tmp_path)
    request = sweep(tmp_path, trial())
    while first._losses < 4:
        time.sleep(0.05)
    assert caplog.text.count("cannot be updated") == 1  # one line when it is lost, not one a try
    with mlflow_server(backend, tmp_path, port):
        request = sweep(tmp_path, trial(), trial(1))
        first.end(request)
        assert first.close() == 0
        assert sorted(child.data.params["split"] for child in runs(uri)[2]) == ["0", "1"]


@pytest.fixture
def postgres():
    """URI of a real PostgreSQL on loopback, in a folder of its own; root runs it as another user.

    The driver is named, as SQLAlchemy 2.1 takes another one by default.
    """
    pytest.importorskip("psycopg2", reason="psycopg2 is missing: pip install 'persim[server]'")
    program = shutil.which("postgres")
    if program is None:
        pytest.skip("PostgreSQL's programs are missing")
    binaries = Path(program).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="persim-postgres-"))  # pytest's own is closed to other users
    port, user, become = free_port(), getpass.getuser(), []
    if os.geteuid() == 0:
        user, become = "nobody", ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        shutil.chown(folder, user)
    data, options = folder / "data", f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder}"

    def call(*words):
        log = (folder / "log").open("a") if os.geteuid() != 0 else subprocess.DEVNULL
        subprocess.run([*become, *words], check=True, cwd=folder, stdout=log, stderr=log)

    call(binaries / "initdb", "-D", data, "-A", "trust", "-U", "persim", "--no-sync")
    call(binaries / "pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://persim@127.0.0.1:{port}/postgres"
    finally:
        call(binaries / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_server_on_postgresql_takes_eight_processes_and_everything_of_a_cell(postgres, tmp_path, cartpole_data):
    with mlflow_server(postgres, tmp_path, free_port()) as (_, uri):
        mirror_at_once(uri, tmp_path, 10)
        shape = ModelSettings(n_agents=7, state_dim=3, action_dim=2, discrete=True, rank=2, members=2)
        file = tmp_path / "model.safetensors"
        LowRankDynamics(shape, np.random.SeedSequence(0).spawn(2)).save(file)
        cartpole_data.save(CellStore(tmp_path).dataset_path("cartpole", "random", 12, 0))
        again = mirror(uri, tmp_path)
        request = grid(tmp_path, reward(agents=12, model=file.name, points=2500), reward(agents=50))
        again.end(request, {"x": [(25, 1.0), (50, 2.0)]}, {"persim.best": "PerSim"}, [file])
        assert again.close() == 0
        assert len(runs(uri)[2]) == PROCESSES * 10  # they were there already
        client, (parent,), children = runs(uri, "reward")
        (run,) = (child for child in children if child.data.params["agents"] == "12")
        assert len(history(client, run, "curve/train_mse")) == 2500
        assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["cartpole random N=12"]
        assert [entry.path for entry in client.list_artifacts(parent.info.run_id)] == ["model.safetensors"]
        assert history(client, parent, "reward/random") == [(12, 100.0), (50, 100.0)]
        mlflow.set_tracking_uri(uri)
        try:
            loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/simulator")
        finally:
            mlflow.set_tracking_uri(None)
    rows = pd.DataFrame({"agent": [0], "state_0": [0.0], "state_1": [0.0], "state_2": [0.0], "action": [1]})
    assert np.isfinite(loaded.predict(rows).to_numpy()).all()
