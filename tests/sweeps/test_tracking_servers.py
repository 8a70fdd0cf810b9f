"""The mirror with many processes at once, killed ones, and servers that get lost, lie or are slow."""

import getpass
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from persim.errors import InputError
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.storage.cells import CellStore
from sweeps.tracking import mirror as mirror_module
from sweeps.tracking.mirror import default_uri
from tests.sweeps.mlflow_helpers import grid, history, mirror, reward, runs, sweep, trial

PROCESSES, EACH = 8, 20


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
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=finish_cells, args=(uri, root, request, done[worker::PROCESSES]), daemon=True)
        for worker in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    check_children(uri, root, request, PROCESSES * each)


def test_eight_processes_make_one_database_and_send_every_cell_once(tmp_path):
    mirror_at_once(default_uri(tmp_path), tmp_path, EACH)


def test_killed_processes_lose_and_double_nothing(tmp_path):
    assert mirror(None, tmp_path).close() == 0  # makes the database
    request = sweep(tmp_path, *(trial(repeat, points=20) for repeat in range(40)))
    program = "from pathlib import Path; from sweeps.tracking.mirror import Mirror; import sys\n"
    program += f"sys.exit(Mirror(None, Path({str(tmp_path)!r}), 'here').close())"
    for wanted in (1, 12, 25):
        process = subprocess.Popen([sys.executable, "-c", program])
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
            while database.execute("SELECT COUNT(*) FROM runs").fetchone()[0] < wanted + 1 and process.poll() is None:
                time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    last = mirror(None, tmp_path)
    last.end(request)
    assert last.close() == 0
    check_children(default_uri(tmp_path), tmp_path, request, 40)


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


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on to a real server, but every third one fails in the way that ``fault`` says."""

    backend, fault, count = "", "", 0

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        body, fault = self.rfile.read(length) or None, ""
        type(self).count += 1
        if self.fault and self.count % 3 == 0:
            fault = self.fault
        status, answer = 500, b"<html>oops</html>"
        if not fault or fault == "cut":
            headers = {name: value for name, value in self.headers.items() if name.startswith("Content-T")}
            asked = urllib.request.Request(self.backend + self.path, body, headers, method=self.command)
            try:
                with urllib.request.urlopen(asked) as answered:
                    status, answer = answered.status, answered.read()
            except urllib.error.HTTPError as error:
                status, answer = error.code, error.read()
        if fault == "cut":  # done, but nobody hears of it
            self.close_connection = True
            return
        if fault == "garbage":
            status = 200
        elif fault:
            status = int(fault)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(f"sqlite:///{folder}/server.db", folder, free_port()) as (_, uri):
        yield uri


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["400", "404", "429", "500", "garbage", "cut"])
def test_a_faulty_server_gets_everything_once_in_the_end(fault, real_server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mirror_module, "SYNC_SECONDS", 0.01)
    monkeypatch.setattr(Proxy, "backend", real_server)
    done = [reward(method, seed=seed) for method in ("persim", "bcq-p") for seed in range(3)]
    with serving(Proxy) as uri:
        first = mirror(uri, tmp_path)
        monkeypatch.setattr(Proxy, "fault", fault)
        request = grid(tmp_path, *done, suite=f"faulty-{fault}")
        first.end(request)
        time.sleep(3)
        lacks = first.close(20)
        assert lacks == 0 or fault in ("400", "404", "429", "500", "garbage", "cut")
        monkeypatch.setattr(Proxy, "fault", "")
        later = mirror(uri, tmp_path)
        later.end(request)
        assert later.close() == 0
    client, parents, children = runs(real_server, f"faulty-{fault}")
    assert sorted(run.info.run_name for run in parents) == ["CartPole BCQ-P", "CartPole PerSim"]
    assert sorted(run.data.tags["persim.cell_id"] for run in children) == sorted(request.cells)
    assert {run.info.status for run in parents + children} == {"FINISHED"}
    assert all(len(history(client, run, "curve/train_mse")) == 20 for run in children)
    assert [history(client, run, "reward/random") for run in parents] == [[(25, 100.0)]] * 2
    assert len(caplog.records) < 12, caplog.text


class Slow(BaseHTTPRequestHandler):
    """A server that takes its time; it forgets everything."""

    protocol_version, seconds = "HTTP/1.1", 0.0
    answers = {
        "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}},
        "runs/create": {"run": {"info": {"run_id": "1", "status": "RUNNING"}, "data": {}}},
    }  # fmt: skip

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.seconds)
        name = self.path.partition("/mlflow/")[2].partition("?")[0]
        answer = json.dumps(self.answers.get(name, {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PATCH = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("seconds", [0.5, 3.0, 60.0])
def test_a_slow_server_holds_up_nobody_beyond_the_deadline(seconds, tmp_path, monkeypatch):
    with serving(Slow) as uri:
        first = mirror(uri, tmp_path)
        monkeypatch.setattr(Slow, "seconds", seconds)
        request = grid(tmp_path, *(reward(seed=seed) for seed in range(20)))
        began = time.monotonic()
        first.end(request)
        lacks = first.close(deadline=4)
        assert time.monotonic() - began < 5
        assert 1 <= lacks <= 20
        if seconds < 1:
            assert lacks < 20  # it did what it could


def test_a_server_that_does_not_answer_is_one_line_and_leaves_no_store(tmp_path, monkeypatch):
    monkeypatch.setattr(Slow, "seconds", 60.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with serving(Slow) as uri, pytest.raises(InputError, match="does not answer"):
        mirror(uri, tmp_path / "store")
    assert os.listdir(tmp_path) == []


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
