"""The mirror with servers that fail in every way, lie, or take their time."""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from persim.errors import InputError
from sweeps.tracking import mirror as mirror_module
from tests.sweeps.mlflow_helpers import free_port, grid, history, mirror, mlflow_server, reward, runs


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on to a real server, but every third one fails in the way that ``fault`` says."""

    backend, fault, count, delay = "", "", 0, 0.0

    def do_GET(self):
        time.sleep(self.delay)
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

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815

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
        first.close(20)
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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_six_cells_and_a_server_of_nine_seconds_a_request(real_server, tmp_path, monkeypatch):
    monkeypatch.setattr(Proxy, "backend", real_server)
    with serving(Proxy) as uri:
        first = mirror(uri, tmp_path)
        monkeypatch.setattr(Proxy, "delay", 9.0)
        request = grid(tmp_path, *(reward(seed=seed) for seed in range(6)), suite="nine")
        first.end(request)
        began = time.monotonic()
        assert 1 <= first.close() <= 6
        assert time.monotonic() - began < 61
        monkeypatch.setattr(Proxy, "delay", 0.0)
        later = mirror(uri, tmp_path)
        later.end(request)
        assert later.close() == 0
    _, _, children = runs(real_server, "nine")
    assert sorted(run.data.tags["persim.cell_id"] for run in children) == sorted(request.cells)


class Slow(BaseHTTPRequestHandler):
    """A server that takes its time; it forgets everything."""

    protocol_version, seconds = "HTTP/1.1", 0.0
    answers: ClassVar = {
        "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}},
        "runs/create": {"run": {"info": {"run_id": "1", "status": "RUNNING"}, "data": {}}},
    }

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.seconds)
        name = self.path.partition("/mlflow/")[2].partition("?")[0]
        answer = json.dumps(self.answers.get(name, {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PATCH = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("seconds", [0.1, 3.0, 60.0])
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
