"""The tracker with many processes at once, and with real servers that get lost."""

import getpass
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from persim.learning.model import LowRankDynamics, ModelSettings
from sweeps.tracking.tracker import DatasetNote, Extras, default_uri
from tests.sweeps.mlflow_helpers import GROUP, finished_trial, runs, send, tracker

PROCESSES, EACH = 8, 50


def log_cells(uri, store, worker, each):
    """What one process does: its own tracker, its own cells, one group shared by all."""
    mine = tracker(uri, store)
    for index in range(each):
        send(mine, finished_trial(repeat=worker * each + index, points=20))
    mine.close_group(GROUP, {}, {}, [])
    os._exit(0 if mine.close() else 1)  # a fork has no business in pytest's own clean-up


def log_at_once(uri, store, each):
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=log_cells, args=(uri, store, worker, each), daemon=True) for worker in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    client, parents, children = runs(uri)
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert len(children) == PROCESSES * each
    assert {int(run.data.params["trial"]) for run in children} == set(range(PROCESSES * each))
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.info.status for run in children} == {"FINISHED"}
    assert all(len(run.data.metrics) == len(children[0].data.metrics) for run in children)
    for run in children[::37]:
        assert len(client.get_metric_history(run.info.run_id, "curve/train_mse")) == 20


def test_eight_processes_make_one_database_and_lose_no_run(tmp_path):
    log_at_once(default_uri(tmp_path), tmp_path, EACH)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def mlflow_server(backend, folder, port):
    """A real MLflow server on loopback; yields its process and URI."""
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", backend, "--artifacts-destination", f"{folder}/artifacts"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, *words], stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        for _ in range(450):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.2)
        else:
            raise AssertionError("MLflow server did not start: " + (folder / "server.log").read_text()[-2000:])
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_a_real_server_lost_midway_gets_everything_later(tmp_path):
    backend, port = f"sqlite:///{tmp_path}/server.db", free_port()
    with mlflow_server(backend, tmp_path, port) as (process, uri):
        first = tracker(uri, tmp_path)
        send(first, finished_trial())
        while finished_trial().cell.id not in first._runs.finished():
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        send(first, finished_trial(repeat=1))
        first.close_group(GROUP, {}, {}, [])
        assert not first.close()
    with mlflow_server(backend, tmp_path, port):
        later = tracker(uri, tmp_path)
        for repeat in range(2):
            send(later, finished_trial(repeat=repeat))
        later.close_group(GROUP, {"chosen_rank": [(0, 5.0)]}, {}, [])
        assert later.close()
        _, parents, children = runs(uri)
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert sorted(child.data.params["trial"] for child in children) == ["0", "1"]


@pytest.mark.slow
def test_a_server_that_comes_back_during_the_sweep_gets_everything(tmp_path):
    backend, port = f"sqlite:///{tmp_path}/server.db", free_port()
    with mlflow_server(backend, tmp_path, port) as (_, uri):
        first = tracker(uri, tmp_path)
    send(first, finished_trial())
    while not first._lost:
        time.sleep(0.05)
    with mlflow_server(backend, tmp_path, port):
        send(first, finished_trial(repeat=1))
        first.close_group(GROUP, {}, {}, [])
        assert first.close()
        assert sorted(child.data.params["trial"] for child in runs(uri)[2]) == ["0", "1"]


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
def test_a_server_on_postgresql_takes_eight_processes_and_everything_of_a_cell(postgres, tmp_path):
    with mlflow_server(postgres, tmp_path, free_port()) as (_, uri):
        log_at_once(uri, tmp_path, 10)
        shape = ModelSettings(n_agents=7, state_dim=3, action_dim=2, discrete=True, rank=2, members=2)
        file = tmp_path / "model.safetensors"
        LowRankDynamics(shape, np.random.SeedSequence(0).spawn(2)).save(file)
        note = DatasetNote("cartpole-random-500", "0123456789abcdef" * 4, "/data/x.safetensors", {"agents": 500})
        again = tracker(uri, tmp_path)
        send(again, finished_trial(repeat=0, points=20))  # there already
        send(again, finished_trial(repeat=900, points=2500), Extras(note, file, (file,)))
        again.close_group(GROUP, {"reward/mean": [(25, 1.0), (50, 2.0)]}, {"persim.best": "PerSim"}, [file])
        assert again.close()
        client, parents, children = runs(uri)
        assert (len(parents), len(children)) == (1, PROCESSES * 10 + 1)
        (run,) = (child for child in children if child.data.params["trial"] == "900")
        assert len(client.get_metric_history(run.info.run_id, "curve/train_mse")) == 2500
        assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == [note.name]
        assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["model.safetensors"]
        mlflow.set_tracking_uri(uri)
        try:
            loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/simulator")
        finally:
            mlflow.set_tracking_uri(None)
    rows = pd.DataFrame({"agent": [0], "state_0": [0.0], "state_1": [0.0], "state_2": [0.0], "action": [1]})
    assert np.isfinite(loaded.predict(rows).to_numpy()).all()
