"""A disk that is full: one line a command or cell, whatever it was doing, and after more room the same command ends."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from persim.cli import main as persim
from persim.storage import store
from sweeps import benchmark
from tests.attempts import attempt, sandbox

SMALL = ["--env", "cartpole", "--agents", "6", "--epochs", "1", "--members", "2", "--candidates", "2", "--polish", "0"]


@contextmanager
def mounted(folder, size):
    """A disk of this size on a folder, or skip where this process may not mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no right to mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def grown(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def fill(folder, leave=0):
    """Use up all room but some bytes."""
    with (folder / "filler").open("wb") as file:
        left = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - leave
        file.write(bytes(max(0, left)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    made = attempt(
        persim, ["predict", *SMALL, "--save-model", str(folder / "model")], sandbox(folder / "here"), seconds=200
    )
    assert made.status == 0, made.err
    return folder / "model"


@pytest.mark.timeout(600)
def test_every_command_on_a_full_disk_is_one_line(tmp_path, model):
    with mounted(tmp_path / "disk", "2m") as disk:
        for leave in (0, 8192):  # nothing, or enough to begin with
            fill(disk, leave)
            given = ["--env", "cartpole", "--agents", "6", "--model", str(model), "--store", f"{disk}/runs"]
            for number, words in enumerate(
                [
                    ["collect", "--env", "cartpole", "--agents", "30", "--out", f"{disk}/data"],
                    ["predict", *given, "--save-model", f"{disk}/model"],
                    ["evaluate", *given, "--plans", "4", "--horizon", "2", "--episodes", "1"],
                    [
                        "synthesise",
                        *given,
                        "--plans",
                        "4",
                        "--horizon",
                        "2",
                        "--per-agent",
                        "1",
                        "--out",
                        f"{disk}/made",
                    ],
                    ["diagnose", "--model", str(model), "--plot", f"{disk}/x.png"],
                ]
            ):
                made = attempt(persim, words, sandbox(tmp_path / f"here-{leave}-{number}"))
                assert made.faults() == [], made
                assert made.status in (0, 2), made
                assert made.status == 2 or leave, made
                if made.status == 2:
                    assert "No space left on device" in made.err
                    assert made.err.strip().splitlines()[-1].startswith("error: ")
            assert not list(disk.rglob("*.part"))
            shutil.rmtree(disk / "runs", ignore_errors=True)
            for path in disk.iterdir():
                path.unlink()


GRID = ["--suite", "smoke", "--envs", "cartpole", "--methods", "persim,true-env", "--trials", "1"]


def in_process(store_, here):
    return attempt(benchmark.main, [*GRID, "--in-process", "--store", str(store_)], here, seconds=200)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_disk_that_fills_up_in_mid_benchmark_fails_its_cells_and_the_command_ends_later(tmp_path):
    whole = in_process(tmp_path / "whole", sandbox(tmp_path / "a"))
    assert whole.status == 0, whole.err
    used = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    with mounted(tmp_path / "disk", "64m") as disk:
        root = disk / "runs"
        fill(disk, used // 2)
        made = in_process(root, sandbox(tmp_path / "b"))
        assert made.status == 1, made
        assert "Traceback" not in made.out + made.err
        failed = [line for line in made.err.splitlines() if line.startswith("failed: ")]
        assert len(failed) == len(set(failed)) > 0
        assert all("No space left on device" in line or "missing" in line for line in failed)
        (disk / "filler").unlink()
        again = in_process(root, sandbox(tmp_path / "c"))
        assert again.status == 0, again.err
        known = {path.name for path in (tmp_path / "whole" / "cells").iterdir()}
        assert {path.name for path in (root / "cells").iterdir()} == known


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_same_with_ray_and_mlflow(tmp_path):
    script = Path(benchmark.__file__)

    def run():
        words = [sys.executable, str(script), *GRID, "--store", str(root), "--cpus", "1"]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=900)

    with mounted(tmp_path / "disk", "64m") as disk:
        root = disk / "runs"
        fill(disk, 700_000)  # enough for an empty database of MLflow
        first = run()
        assert first.returncode == 1, first.stderr
        assert "Traceback" not in first.stdout + first.stderr
        failed = [line for line in first.stderr.splitlines() if line.startswith("failed: ")]
        assert len(failed) == len(set(failed)) > 0
        assert len(first.stderr.splitlines()) < 25
        (disk / "filler").unlink()
        last = run()
        assert last.returncode == 0, last.stderr
        assert store.read_record(next((root / "cells").iterdir()), "cell")
