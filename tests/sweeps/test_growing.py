"""A cluster that grows: the suite makes its autoscaler start machines, work lands on them, and they go when idle."""

import pytest

from persim import console
from persim.storage.cells import CellStore
from sweeps import benchmark, rank_cv
from sweeps.engine.session import ray_session
from tests.sweeps.cluster import growing
from tests.sweeps.test_cluster import wait_until

GRID = ["--suite", "smoke", "--envs", "cartpole", "--methods", "persim", "--trials", "1"]
RANKS = ["--env", "cartpole", "--agents", "6", "--ranks", "2", "--repeats", "1", "--epochs", "2"]
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, caplog):
    """Runs a command of sweeps/ here; returns its status and what it says on stderr, warnings included."""
    monkeypatch.chdir(tmp_path)

    def result(command, *words):
        caplog.clear()
        status = console.run(command.main, words)
        return status, capsys.readouterr().err + caplog.text

    return result


def workers():
    """The resources of the machines that are there beside the head."""
    import ray

    return [
        node["Resources"] for node in ray.nodes() if node["Alive"] and "node:__internal_head__" not in node["Resources"]
    ]


@pytest.mark.parametrize("newer", [False, True], ids=["v1", "v2"])
def test_a_gpu_machine_comes_for_the_work_and_goes_when_idle(newer, tmp_path, run):
    """Torch finds no GPU in the machine, so the worker says so and does the work on its CPU."""
    with growing({"CPU": 1, "GPU": 1}, newer=newer) as address:
        with ray_session(address):
            assert workers() == []
        status, said = run(benchmark, *GRID, "--address", address, "--device", "auto")
        assert status == 0, said
        assert "no GPU in the cluster yet; asked for one" in said
        assert said.count("torch cannot use it") == 1  # tasks that gain ran there, and nowhere else
        assert len(CellStore(tmp_path / "runs").finished_ids()) == 2
        with ray_session(address):
            wait_until(lambda: workers() == [], 120)
        status, said = run(rank_cv, *RANKS, "--address", address, "--device", "cuda")
        assert status == 0, said
        assert "asked for one" in said  # the machine came again, for Ray Tune's trials
        with ray_session(address):
            wait_until(lambda: workers() == [], 120)


def test_where_no_machine_has_a_gpu_cuda_is_refused_and_auto_goes_on(tmp_path, run):
    import ray

    with growing({"CPU": 1}, newer=True) as address:
        where = ["--address", address, "--device"]
        for command, words in ((benchmark, GRID), (rank_cv, RANKS)):
            status, said = run(command, *words, *where, "cuda")
            assert status == 2
            assert (
                "error: device 'cuda' was asked for, but there is no GPU in the cluster, and none comes; give" in said
            )
        assert CellStore(tmp_path / "runs").finished_ids() == set()
        status, said = run(benchmark, *GRID, *where, "auto", "--autoscale")
        assert status == 0, said
        assert "none comes; everything runs on CPUs" in said
        assert len(CellStore(tmp_path / "runs").finished_ids()) == 2
        with ray_session(address):
            assert len(ray.nodes()) > 1  # --autoscale asked for a worker; those that went are in the list
            wait_until(lambda: workers() == [], 120)
