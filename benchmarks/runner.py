"""Measures what the benchmark runner costs: overhead of empty cells, and how much faster two nodes are than one.

    python benchmarks/runner.py [--cells 1000] [--seconds 0.5] [--equal 24]

empty   so many cells whose work is to write their file: wall time over cells, Ray's start not counted
nodes   equal cells that each keep a core busy for so many seconds of processor time, on a Ray of one node
        of one core, then on one of two nodes of one core each (ray.cluster_utils.Cluster on loopback)
"""

from __future__ import annotations

import os
import secrets

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads these when it is imported
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ray

from persim import console
from persim.envs import get
from persim.methods import PlanningSettings, TrueEnv
from persim.methods.job import Job, predictions
from persim.storage import store
from persim.storage.cells import CellStore, row
from sweeps.engine.ray_pool import RayPool
from sweeps.engine.scheduler import run_jobs
from sweeps.engine.session import ray_session
from sweeps.grid.tasks import PIECE, Task
from tests.sweeps.cluster import two_nodes


class Silent:
    def task(self, task: Task, seconds: float) -> None: ...

    def cells(self, done: int, running: int, failed: int) -> None: ...


def busy(task: Task, root: Path, device: str, seconds: float = 0.0) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    record = {"rows": [row("nothing", 0.0)], "decision_ms": None, "curves": {}, "train_seconds": 0.0}
    store.write_record(root / task.outputs[0], PIECE, {**record, "started": 0, "ended": 0})


def jobs(count: int) -> list[Job]:
    spec = get("cartpole")
    method = TrueEnv(PlanningSettings.of(spec))
    return [Job.of(method, "cartpole", "", 5, seed, predictions(spec)) for seed in range(count)]


def timed(count: int, seconds: float) -> float:
    with tempfile.TemporaryDirectory() as folder:
        root, work = Path(folder), partial(busy, seconds=seconds)
        run_jobs(jobs(2), CellStore(root), RayPool(root, work=work), Silent())
        start = time.perf_counter()
        failed = run_jobs(jobs(count), CellStore(root), RayPool(root, work=work), Silent())
        assert not failed, next(iter(failed.values()))
        return time.perf_counter() - start


def on_nodes(number: int, measure: Callable[[], float]) -> float:
    with two_nodes() as nodes:
        for node in nodes.workers[number - 1 :]:
            nodes.remove(node)
        with ray_session(nodes.address):
            while sum(node["Alive"] for node in ray.nodes()) > number:  # its loss takes seconds to notice
                time.sleep(0.5)
            return measure()


def main(argv: list[str] | None = None) -> int:
    p = console.Parser(description=__doc__)
    p.add_argument("--cells", type=int, default=1000)
    p.add_argument("--equal", type=int, default=24)
    p.add_argument("--seconds", type=float, default=0.5)
    args = p.parse_args(argv)
    with ray_session(None, 2):
        wall = timed(args.cells, 0.0)
    print(f"{args.cells} empty cells: {wall:.2f} s, {wall / args.cells * 1e3:.1f} ms a cell", flush=True)
    one, two = (on_nodes(number, lambda: timed(args.equal, args.seconds)) for number in (1, 2))
    print(f"{args.equal} cells of {args.seconds} s: {one:.2f} s on one node, {two:.2f} s on two, {one / two:.2f}x")
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(main))
