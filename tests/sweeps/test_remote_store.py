"""The benchmark on an object store: its tasks, the driver's lock, bad input, and once for real on a mock of S3."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import pytest
from mlflow import MlflowClient

from persim import console
from persim.errors import InputError
from persim.storage import objects as remote
from persim.storage import store
from persim.storage.cells import CellStore, Request
from sweeps import benchmark
from sweeps.engine import lock as remote_lock
from sweeps.engine.in_process import InProcess
from sweeps.engine.scheduler import run_jobs
from sweeps.grid import command
from sweeps.options import only_driver
from sweeps.reporting.draw import plot_methods
from sweeps.tracking.mirror import Mirror
from tests.sweeps.test_scheduler import Silent

SMOKE = ["--suite", "smoke", "--envs", "cartpole", "--trials", "1"]


@pytest.fixture
def bucket():
    return store.store_path(f"memory://{uuid.uuid4().hex}/runs")


def grid_of(*arguments):
    return command.grid_of(command.parser("").parse_args([*SMOKE, *arguments]), Path("runs"))


def compute(grid, root):
    """What the runner does, without Ray."""
    todo, cells = grid.jobs(), CellStore(root)
    assert run_jobs(todo, cells, InProcess(root), Silent()) == {}
    return [cells.finished(job.cell) for job in todo]


def test_an_object_store_gives_the_rows_of_a_folder_and_mlflow_lies_here(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = grid_of()
    done, local = compute(grid, bucket), compute(grid, tmp_path / "folder")
    assert [found.rows for found in done] == [found.rows for found in local]
    benchmark.tidy(CellStore(bucket), done)
    for name in ("parts", "pieces", "checkpoints"):
        assert not list((bucket / name).glob("*"))
    mirror = Mirror(None, bucket, "tests")
    CellStore(bucket).ask(Request("smoke", "smoke", tuple(found.cell.id for found in done)))
    assert mirror.close() == 0
    assert sorted(os.listdir(tmp_path / "runs")) == ["mlartifacts", "mlflow.db"]
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("smoke").experiment_id])
    assert len(runs) == len(done) + len({found.cell.method for found in done})  # and a parent of each method
    assert list((tmp_path / "runs" / "mlartifacts").rglob("*.safetensors"))
    assert list(tmp_path.rglob("*memory*")) == []


def test_the_same_picture_in_a_folder_and_an_object_store(bucket, tmp_path):
    grid = grid_of("--methods", "true-env")
    done = compute(grid, bucket)
    plot_methods(tmp_path / "plots" / "a.png", done, "about")
    assert (
        remote.fetch(plot_methods(bucket / "plots" / "a.png", done, "about")) == (tmp_path / "plots/a.png").read_bytes()
    )


def test_a_second_driver_is_refused_until_the_first_has_ended(bucket):
    with only_driver(bucket, "x"):
        with pytest.raises(InputError, match=rf"process {os.getpid()} on .* delete 'memory://.*locks/x.lock'"):
            remote_lock._take(bucket / "locks" / "x.lock", "other")
        with only_driver(bucket, "another"):
            pass
    assert not (bucket / "locks" / "x.lock").exists()
    with only_driver(bucket, "x"):
        pass


def lock_of(path, **changes):
    remote.put(path, json.dumps(json.loads(remote_lock._content("first")) | changes).encode())


@pytest.mark.parametrize("changes", [{"time": 0.0, "place": "elsewhere"}, {"pid": 2**22 + 1}, {"time": "x"}])
def test_a_dead_drivers_lock_is_taken_over(bucket, changes):
    path = bucket / "locks" / "x.lock"
    lock_of(path, **changes)
    with only_driver(bucket, "x"):
        assert remote_lock._read(path)["pid"] == os.getpid()


def test_a_driver_elsewhere_counts_as_alive_for_two_minutes(bucket):
    lock_of(bucket / "locks" / "x.lock", place="elsewhere", pid=2**22 + 1, time=time.time() - 110)
    with pytest.raises(InputError, match=r"heard of 11. s ago"), only_driver(bucket, "x"):
        pass


def test_the_lock_is_renewed_and_its_loss_stops_the_program(bucket, monkeypatch):
    monkeypatch.setattr(remote_lock, "BEAT_SECONDS", 0.01)
    stopped = []
    monkeypatch.setattr(remote_lock._thread, "interrupt_main", lambda: stopped.append(True))
    path = bucket / "locks" / "x.lock"
    with only_driver(bucket, "x"):
        first = remote_lock._read(path)["time"]
        until(lambda: remote_lock._read(path)["time"] > first)
        assert not stopped

        def taken_over():  # again and again: a renewal that has just begun may write over it
            lock_of(path, token="other")
            return stopped

        until(taken_over)
    assert remote_lock._read(path)["token"] == "other"  # what is not ours is left alone


def test_a_lock_that_cannot_be_made_is_one_line(bucket, monkeypatch):
    def refused(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(remote_lock.remote, "put", refused)
    with pytest.raises(InputError, match=r"x.lock' cannot be made \(Access Denied\)"), only_driver(bucket, "x"):
        pass


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("url", "expected"),
    [("s3x://bucket/x", "did you mean 's3'"), ("s3://", "names no bucket"), ("memory://x/y", "lives in one process")],
)
def test_bad_urls_are_one_line_status_2_and_nothing_left(url, expected, tmp_path, monkeypatch, capsys):
    if url.startswith("s3://"):
        pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'persim[s3]'")
    monkeypatch.chdir(tmp_path)
    try:
        code = console.run(benchmark.main, [*SMOKE, "--store", url])
    except SystemExit as stop:
        code = stop.code
    errors = capsys.readouterr().err.splitlines()
    assert code == 2
    assert expected in errors[0]
    assert len(errors) == 1
    assert os.listdir(tmp_path) == []


@pytest.fixture
def s3(monkeypatch):
    """A mock of S3 on a free port of this machine, with an empty bucket ``bucket``."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'persim[s3]'")
    s3fs.S3FileSystem.clear_instance_cache()  # of an earlier server
    pytest.importorskip(
        "moto.server", reason="moto and Flask are not installed: pip install 'moto[s3]' flask flask-cors"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    settings = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "AWS_ENDPOINT_URL": url}.items():
        monkeypatch.setenv(name, value)

    def answers():
        try:
            urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=5)
        except OSError:
            return False
        return True

    try:
        until(answers, seconds=60)
        yield url
    finally:
        server.kill()
        server.wait()


def start(folder, *more):
    return subprocess.run(
        [sys.executable, benchmark.__file__, *SMOKE, *more], cwd=folder, capture_output=True, text=True, timeout=220
    )


@pytest.mark.ray
@pytest.mark.slow
def test_on_a_mock_of_s3(s3, tmp_path):
    first = start(tmp_path, "--store", "s3://bucket/persim")
    assert first.returncode == 0, first.stderr
    assert os.listdir(tmp_path) == ["runs"]
    assert not (tmp_path / "runs" / "cells").exists()
    again = start(tmp_path, "--store", "s3://bucket/persim")
    assert again.returncode == 0, again.stderr
    root = store.store_path("s3://bucket/persim")
    cells = len(list((root / "cells" / "smoke").glob("*.json")))
    assert cells > 1  # every method of the suite has one
    assert f"{cells} of {cells} cells are finished already in s3://bucket/persim" in again.stderr
    local = start(tmp_path, "--store", "folder")
    assert local.returncode == 0, local.stderr
    for path in (tmp_path / "folder" / "cells" / "smoke").glob("*.json"):
        same = store.read_record(root / "cells" / "smoke" / path.name, "cell")
        assert same["rows"] == store.read_record(path, "cell")["rows"]
    for name in ("parts", "pieces", "checkpoints", "locks"):
        assert not list((root / name).glob("*"))


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_locks_nobody_out(s3, tmp_path):
    """The same command at once, on this machine: the lock is there, its process is not."""
    root = store.store_path("s3://bucket/killed")
    arguments = [sys.executable, benchmark.__file__, *SMOKE, "--store", str(root)]
    driver = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: list((root / "pieces").glob("*")) or driver.poll() is not None, seconds=150)
    driver.kill()
    driver.wait()
    assert (root / "locks" / "benchmark.lock").exists()
    again = start(tmp_path, "--store", str(root))
    assert again.returncode == 0, again.stderr
    for name in ("parts", "pieces", "checkpoints", "locks"):
        assert not list((root / name).glob("*"))


@pytest.mark.slow
def test_one_lock_a_bucket_and_errors_of_s3(s3, tmp_path, monkeypatch):
    root = store.store_path("s3://bucket/locked")
    with only_driver(root, benchmark.LOCK):
        refused = start(tmp_path, "--store", "s3://bucket/locked")
    assert refused.returncode == 2
    assert "another process is running this sweep in store 's3://bucket/locked'" in refused.stderr
    absent = start(tmp_path / "runs", "--store", "s3://no-such-bucket/x")
    assert absent.returncode == 2
    assert "make the bucket" in absent.stderr
    assert absent.stderr.count("\n") == 1
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    dead = start(tmp_path / "runs", "--store", "s3://bucket/x")
    assert dead.returncode == 2
    assert "cannot be read" in dead.stderr
    assert dead.stderr.count("\n") == 1
