"""MLflow: every cell once, nothing lost when the server is, never in the way of the sweep."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from mlflow import MlflowClient

from persim.errors import InputError
from sweeps.tracking import Tracker, default_uri
from tests.sweeps.test_rank_choice import trial


def tracker(uri, store):
    return Tracker(uri, "rank_cv", "sweep-1", "cartpole", {"env": "cartpole", "ranks": "3,5"}, store)


def runs(uri):
    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("rank_cv").experiment_id])
    parents = [run for run in found if run.data.tags["persim.kind"] == "sweep"]
    return client, parents, [run for run in found if run.data.tags["persim.kind"] == "trial"]


def finished_trial(rank=5, repeat=0, error=1.5):
    done = trial(rank, repeat, error)
    curves = {"train_mse": [[epoch, 1 / epoch] for epoch in range(1, 1301)]}
    return type(done)(**{**done.__dict__, "curves": curves, "started": 1000, "ended": 5000})


def test_a_cell_becomes_one_run_with_everything(tmp_path):
    uri = default_uri(tmp_path)
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"png")
    first = tracker(uri, tmp_path)
    first.send(finished_trial())
    first.send(finished_trial())
    assert first.close({"by_rank/holdout_error": [(3, 2.0), (5, 1.5)]}, {"persim.chosen_rank": "5"}, [plot])
    again = tracker(uri, tmp_path)
    again.send(finished_trial())
    again.send(finished_trial(repeat=1))
    assert again.close({}, {}, [])

    client, parents, children = runs(uri)
    assert len(parents) == 1
    assert len(children) == 2
    run = next(child for child in children if child.data.params["repeat"] == "1")
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (1000, 5000)
    assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert run.data.params["rank"] == "5"
    assert run.data.params["commit"] == "abc"
    assert run.data.metrics["holdout_error"] == 1.5
    assert run.data.metrics["prediction_rmse/agent_2"] == pytest.approx(0.2)
    assert len(client.get_metric_history(run.info.run_id, "curve/train_mse")) == 1300
    history = client.get_metric_history(parents[0].info.run_id, "by_rank/holdout_error")
    assert {(point.step, point.value) for point in history} == {(3, 2.0), (5, 1.5)}
    assert [file.path for file in client.list_artifacts(parents[0].info.run_id)] == ["plot.png"]


def test_a_break_in_the_middle_of_a_run_loses_and_doubles_nothing(tmp_path, monkeypatch):
    uri = default_uri(tmp_path)
    broken = tracker(uri, tmp_path)
    real = broken._client.set_terminated

    def fail(*_, **__):
        raise ConnectionError("server lost")

    monkeypatch.setattr(broken._client, "set_terminated", fail)
    broken.send(finished_trial())
    broken.send(finished_trial(repeat=1))
    while broken._queue.qsize():
        time.sleep(0.01)
    assert not broken.close({}, {}, [])
    assert len(broken._unsent) == 2
    monkeypatch.setattr(broken._client, "set_terminated", real)

    later = tracker(uri, tmp_path)
    for repeat in range(2):
        later.send(finished_trial(repeat=repeat))
    assert later.close({}, {}, [])
    client, parents, children = runs(uri)
    assert len(parents) == 1
    assert sorted(child.data.params["repeat"] for child in children) == ["1", "2"]
    assert {child.info.status for child in children} == {"FINISHED"}
    for child in children:
        assert len(client.get_metric_history(child.info.run_id, "curve/train_mse")) == 1300


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/nowhere/mlflow.db", "nonsense://x"])
def test_an_unreachable_server_is_one_line_within_seconds(tmp_path, uri):
    started = time.monotonic()
    with pytest.raises(InputError, match="does not answer") as error:
        tracker(uri, tmp_path)
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 30


@pytest.fixture
def server(tmp_path):
    """A real MLflow server on loopback: call it to start one (again) on the same database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []

    def start():
        words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/a"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                return process, f"http://127.0.0.1:{port}"
            except OSError:
                time.sleep(0.2)
        raise AssertionError("MLflow server did not start")

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_real_server_lost_midway_gets_everything_later(server, tmp_path):
    process, uri = server()
    first = tracker(uri, tmp_path)
    first.send(finished_trial())
    while first._runs.get(finished_trial().cell.id, ("", False))[1] is False:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first.send(finished_trial(repeat=1))
    assert not first.close({}, {}, [])
    _, uri = server()
    later = tracker(uri, tmp_path)
    for repeat in range(2):
        later.send(finished_trial(repeat=repeat))
    assert later.close({"chosen_rank": [(0, 5.0)]}, {}, [])
    _, parents, children = runs(uri)
    assert len(parents) == 1
    assert sorted(child.data.params["repeat"] for child in children) == ["1", "2"]
