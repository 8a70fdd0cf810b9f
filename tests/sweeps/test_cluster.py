"""The small cluster that other tests stand on: its nodes work, and the loss of one is made good."""

import time

import pytest

from sweeps.engine.session import ray_session
from tests.sweeps.cluster import two_nodes


def alive():
    import ray

    return sum(node["Alive"] for node in ray.nodes())


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_tasks_survive_the_loss_of_a_node(tmp_path):
    with two_nodes() as nodes, ray_session(nodes.address) as cpus:
        import ray

        assert cpus == 2

        @ray.remote(num_cpus=1, max_retries=3)
        def work(index):
            node = ray.util.get_node_ip_address()
            (tmp_path / f"{index}-{node}").touch()
            time.sleep(1)
            return index

        tasks = [work.remote(index) for index in range(6)]
        wait_until(lambda: list(tmp_path.glob("*-127.0.0.3")))
        nodes.remove(nodes.workers[0])
        assert ray.get(tasks, timeout=60) == list(range(6))
        # The task that the lost node had begun ran once more, on the head.
        assert len(list(tmp_path.iterdir())) > 6
        wait_until(lambda: alive() == 1)

        nodes.add()
        wait_until(lambda: alive() == 2)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_an_environment_of_the_users_own_reaches_the_workers(tmp_path, monkeypatch):
    module = tmp_path / "my_poles.py"
    module.write_text("from persim.envs import get\n\nPOLE = get('cartpole')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with two_nodes() as nodes, ray_session(nodes.address, env="my_poles:POLE"):
        import ray

        module.unlink()  # other machines do not have it

        @ray.remote(num_cpus=1)
        def name():
            from persim.envs import get

            return get("my_poles:POLE").name

        assert ray.get(name.remote(), timeout=300) == "cartpole"
