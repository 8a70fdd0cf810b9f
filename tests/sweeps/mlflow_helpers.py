"""What the tests of the mirror share: requests and finished cells by hand, and the runs that MLflow then has."""

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
from functools import cache
from pathlib import Path

from mlflow import MlflowClient

from baselines.registry import make_method
from persim.envs import get
from persim.methods import Options
from persim.methods.holdout import holdouts
from persim.methods.job import Job, predictions, rewards
from persim.storage.cells import CellStore, FinishedCell, Request, row
from sweeps.tracking.mirror import Mirror, default_uri

SPEC = get("cartpole")
SETTINGS = {"env": "cartpole", "ranks": "3,5"}


def database(root):
    """The URI of an empty database in a store: making one takes MLflow seconds, copying it none."""
    shutil.copy(_empty_database(), root)
    return default_uri(root)


@cache
def _empty_database():
    path = Path(tempfile.mkdtemp(prefix="persim-mlflow-")) / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


def mirror(uri, root, source="sweeps/rank_cv.py"):
    return Mirror(uri, root, source)


def trial(repeat=0, rank=5, error=1.5, points=1300, **changes):
    """A finished cell of a rank sweep."""
    job = Job.of(make_method("persim", SPEC, Options(rank=rank)), "cartpole", "random", 500, 0,
                 holdouts(0.2, repeat, predictions(SPEC)))  # fmt: skip
    rows = [row("holdout_error", error), *(row("prediction_rmse", 0.1 * agent, agent) for agent in range(1, 6))]
    return finished(job.cell, rows, points, **changes)


def reward(method="persim", agents=25, seed=0, mean=100.0, env="cartpole", points=20, **changes):
    """A finished cell of a grid; the agents earn from two less to two more than the mean."""
    job = Job.of(make_method(method, get(env)), env, "random", agents, seed, rewards(20))
    rows = [row("reward", mean + agent - 3, agent) for agent in range(1, 6)]
    return finished(job.cell, rows, points, **changes)


def finished(cell, rows, points, **changes):
    curves = {"train_mse": [[epoch, 1 / epoch] for epoch in range(1, points + 1)]}
    seconds = {"train": 2.0, "measure": 1.0}
    return FinishedCell(**{"cell": cell, "rows": rows, "curves": curves, "commit": "abc", "seconds": seconds,
                           "started": 1000, "ended": 5000} | changes)  # fmt: skip


def sweep(root, *done, settings=SETTINGS):
    """Ask for a rank sweep of these cells, and finish them."""
    return _asked(root, Request("rank_cv", "", tuple(each.cell.id for each in done), "cartpole random", settings), done)


def grid(root, *done, suite="reward", preset="paper", more=()):
    """Ask for a grid of these cells and of some that are not finished, and finish the first."""
    return _asked(root, Request(suite, preset, tuple(each.cell.id for each in (*done, *more))), done)


def _asked(root, request, done):
    cells = CellStore(root)
    cells.ask(request)
    for each in done:
        cells.finish(each)
    return request


def runs(uri, experiment="rank_cv"):
    """A client, the parents and the children of an experiment."""
    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], max_results=1000)
    parents = [run for run in found if run.data.tags["persim.kind"] == "sweep"]
    return client, parents, [run for run in found if run.data.tags["persim.kind"] == "trial"]


def history(client, run, metric):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]


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
