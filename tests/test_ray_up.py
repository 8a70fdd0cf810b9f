"""``ray up``, a sweep by ``ray submit`` and ``ray down`` with docs/ray_cluster_local.yaml, on two machines made here.

What runs is the last commit, as on any cluster. Only addresses, key and user are filled in, and the packages come from
this environment instead of the internet.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from tests.machines import HOME, SHARED, Machine, connect, environment, install, make_key, missing

ROOT = Path(__file__).parents[1]
HEAD, WORKER = "10.77.0.6", "10.77.0.7"
STORE = f"{SHARED}/persim"
RANK_CV = "sweeps/rank_cv.py --env cartpole --agents 20 --ranks 2 --repeats 1 --epochs 20"
JOB = "sweeps/benchmark.py --suite smoke" if (ROOT / "sweeps/benchmark.py").exists() else RANK_CV
COUNT_NODES = """import ray
ray.init("auto", log_to_driver=False)
print("nodes:", sum(node["Alive"] for node in ray.nodes()))"""
COUNT_RUNS = """from mlflow import MlflowClient
client = MlflowClient()
found = [client.search_runs([experiment.experiment_id]) for experiment in client.search_experiments()]
print("runs:", sum(map(len, found)))"""

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


class Laptop(Machine):
    """Where the user sits: has the repository, Ray's token and the ssh key, and reaches the head."""

    def prepare(self):
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(self.home / "persim")], check=True)
        make_key(self.home / "key")
        token = self.home / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text("not-the-token-of-anybody-else-0123456789")
        token.chmod(0o600)

    def ray(self, *words, good=True, seconds=300):
        yes = ["-y"] if words[0] in ("up", "down") else []
        command = [sys.executable, "-m", "ray.scripts.scripts", words[0], *yes, "cluster.yaml", *words[1:]]
        line = ["env", f"--chdir={HOME}/persim", "RAY_UP_enable_autoscaler_v2=0", *command]
        done = subprocess.run(
            self.command(*line, network=self.network), env=environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == good, done.stdout
        return done.stdout

    def python(self, code):
        return self.ray("exec", f"python -c '{code}'")


def cluster_file():
    """The shipped file with its blanks filled in, less the line that needs the internet."""
    config = yaml.safe_load((ROOT / "docs/ray_cluster_local.yaml").read_text())
    config["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": f"{HOME}/key"}
    offline = [line for line in config["setup_commands"] if "pip install" not in line]
    assert len(offline) == len(config["setup_commands"]) - 1
    return yaml.safe_dump(config | {"setup_commands": offline})


@pytest.fixture
def laptop():
    if reason := missing():
        pytest.skip(reason)
    if not (ROOT / ".git").exists():
        pytest.skip("needs the git repository")
    root = Path(tempfile.mkdtemp(prefix="persim-up-"))  # a short path: Ray's sockets are below it
    head, worker, laptop = Machine(root, "head"), Machine(root, "worker"), Laptop(root, "laptop")
    try:
        laptop.prepare()
        for machine in (head, worker):
            install(machine, f"{HOME}/persim")
            machine.boot(laptop.home / "key")
        connect(head, worker, (HEAD, WORKER))
        laptop.network = head.pid
        (laptop.home / "persim" / "cluster.yaml").write_text(cluster_file())
        yield laptop
    finally:
        head.halt()
        worker.halt()
        shutil.rmtree(root, ignore_errors=True)


def wait_for_the_worker(laptop, seconds=180):
    end = time.monotonic() + seconds
    while "nodes: 2" not in (seen := laptop.python(COUNT_NODES)):
        assert time.monotonic() < end, seen
        time.sleep(2)


def test_up_submit_down(laptop):
    laptop.ray("up")
    wait_for_the_worker(laptop)
    assert "600" in laptop.ray("exec", "stat -c %a .ray/auth_token")
    refused = laptop.ray("exec", "RAY_AUTH_MODE=disabled ray status", good=False)
    assert "Authentication" in refused

    script, *options = JOB.split()
    laptop.ray("submit", script, "--", *options, "--address", "auto", "--store", STORE)
    commit = subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", "HEAD"], text=True)[:12]
    records = [json.loads(path.read_text()) for path in (laptop.shared / "persim" / "cells").rglob("*.json")]
    assert records
    assert {record["record"]["commit"] for record in records} == {commit}
    # On the head's MLflow server, which no option named.
    assert re.search(r"runs: [1-9]", laptop.python(COUNT_RUNS))

    laptop.ray("down")
    left = subprocess.check_output(
        ["nsenter", "-t", laptop.network, "-p", "-m", "--", "ps", "-A", "-o", "comm"], text=True
    )
    assert "sshd" in left
    assert "raylet" not in left
