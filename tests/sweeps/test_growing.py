"""A cluster that grows: the suite makes its autoscaler start machines, work lands on them, and they go when idle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from persim.storage.cells import CellStore
from sweeps.engine.session import ray_session
from tests.sweeps.cluster import growing
from tests.sweeps.test_cluster import wait_until

ROOT = Path(__file__).parents[2]
GRID = ["--suite", "smoke", "--envs", "cartpole", "--methods", "persim", "--trials", "1"]
RANKS = ["--env", "cartpole", "--agents", "6", "--ranks", "2", "--repeats", "1", "--epochs", "2"]
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


def command(name, *words, folder, status):
    """Runs a command of sweeps/ as users do; returns what it says on stderr."""
    line = [sys.executable, str(ROOT / "sweeps" / f"{name}.py"), *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == status, done.stderr
    return done.stderr


def workers():
    """The resources of the machines that are there beside the head."""
    import ray

    return [
        node["Resources"] for node in ray.nodes() if node["Alive"] and "node:__internal_head__" not in node["Resources"]
    ]


@pytest.mark.parametrize("newer", [False, True], ids=["v1", "v2"])
def test_a_gpu_machine_comes_for_the_work_and_goes_when_idle(newer, tmp_path):
    """Torch finds no GPU in the machine, so the worker says so and does the work on its CPU."""
    with growing({"CPU": 1, "GPU": 1}, newer=newer) as address:
        with ray_session(address):
            assert workers() == []
        said = command("benchmark", *GRID, "--address", address, "--device", "auto", folder=tmp_path, status=0)
        assert "no GPU in the cluster yet; asked for one" in said
        assert said.count("torch cannot use it") == 1  # tasks that gain ran there, and nowhere else
        assert len(CellStore(tmp_path / "runs").finished_ids()) == 2
        with ray_session(address):
            wait_until(lambda: workers() == [], 120)
        said = command("rank_cv", *RANKS, "--address", address, "--device", "cuda", folder=tmp_path, status=0)
        assert "asked for one" in said  # the machine came again, for Ray Tune's trials
        with ray_session(address):
            wait_until(lambda: workers() == [], 120)


def test_where_no_machine_has_a_gpu_cuda_is_refused_and_auto_goes_on(tmp_path):
    with growing({"CPU": 1}, newer=True) as address:
        where = ["--address", address, "--device"]
        for name, words in (("benchmark", GRID), ("rank_cv", RANKS)):
            *_, last = command(name, *words, *where, "cuda", folder=tmp_path, status=2).splitlines()
            assert last.startswith("error: device 'cuda' was asked for, but there is no GPU in the cluster, and none")
            assert "give --device cpu or auto, or add a machine type" in last
        assert CellStore(tmp_path / "runs").finished_ids() == set()
        said = command("benchmark", *GRID, *where, "auto", "--autoscale", folder=tmp_path, status=0)
        assert "none comes; everything runs on CPUs" in said
        assert len(CellStore(tmp_path / "runs").finished_ids()) == 2
        with ray_session(address):
            assert workers()  # that --autoscale asked for
            wait_until(lambda: workers() == [], 120)
