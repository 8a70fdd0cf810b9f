"""The paper's grid, or any part of it: environment x regime x method x number of agents x trial.

    python sweeps/benchmark.py --suite smoke
    python sweeps/benchmark.py --suite reward --envs cartpole --regimes random,pure --trials 5

Datasets, models and measurements are made once, by Ray actors on whatever --address offers (this
machine by default), and kept in --store, a folder or s3://BUCKET/PREFIX; what has finished is never computed
twice: the same command, given again, goes on where it stopped. Every finished cell is a run in MLflow.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from baselines.registry import METHODS, PRESETS
from persim import console
from persim.data import REGIMES, check_regime
from persim.data.policies import load_test_policy
from persim.envs import get
from persim.errors import InputError, check_at_least, check_choice
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell
from sweeps.engine.session import check_address, ray_session
from sweeps.grid import estimate
from sweeps.grid.suites import SUITES, TRUE_ENV_REGIME, Grid, chosen
from sweeps.grid.tasks import Task, missing, plan
from sweeps.options import only_driver
from sweeps.reporting import text_tables as bench_tables
from sweeps.tracking.bench_tracking import Tracking
from sweeps.tracking.tracker import tracking_folder
from sweeps.tuning.rank_choice import read_choice

DEVICES = ("cpu", "cuda", "auto")
STATES = {"default": None, "raw": False, "normalised": True}
LOCK = "benchmark"


def names(text: str) -> tuple[str, ...]:
    """``"a,b"`` as names."""
    return tuple(part.strip() for part in text.split(","))


def parser() -> console.Parser:
    """The command line."""
    suites = "\n".join(f"  {suite.name:<13} {suite.about}" for suite in SUITES.values())
    presets = "paper, laptop (the paper's for PerSim, a tenth or less for BCQ and CQL), or quick (a tenth or less)"
    p = console.Parser(
        prog="benchmark.py",
        description=__doc__,
        epilog=f"suites:\n{suites}\n\nmethods: {', '.join(METHODS)}",
    )
    p.add_argument("--suite", required=True, help="which part of the paper, see below")
    p.add_argument("--envs", type=names, metavar="LIST", help="of the suite's environments (all)")
    p.add_argument("--regimes", type=names, metavar="LIST", help=f"of {', '.join(REGIMES)} (all of the suite)")
    p.add_argument("--methods", type=names, metavar="LIST", help="of the suite's methods (all)")
    p.add_argument("--agents", type=console.numbers, metavar="LIST", help="numbers of agents N (the suite's)")
    p.add_argument("--trials", type=int, help="repetitions, each with its own data and models (the suite's)")
    p.add_argument("--preset", help=f"budget: {presets} (the suite's)")
    p.add_argument("--episodes", type=int, help="of each test agent and method that plans (the preset's)")
    p.add_argument("--rank", default="paper", help="of PerSim: a number, auto (by sweeps/rank_cv.py), or paper (paper)")
    p.add_argument("--planner", help="of the methods that plan (the default of each environment)")
    p.add_argument("--states", default="default", help="of BCQ and CQL: raw, normalised, or default: normalised in "
                   "MountainCar, whose velocities are tiny (default)")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="trial t uses seed + t (0)")
    p.add_argument("--dry-run", action="store_true", help="print the cells, what is done, and how long the rest takes")
    about = "for data, models and results: a folder, or a URL such as s3://BUCKET/PREFIX (runs)"
    p.add_argument("--store", type=console.store, default=Path("runs"), help=about)
    p.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        help="MLflow server or database ($MLFLOW_TRACKING_URI, else mlflow.db in the store, in runs if that is a URL)",
    )
    p.add_argument("--address", help="Ray cluster to run on: auto or host:port (a local Ray)")
    p.add_argument("--cpus", type=int, help="CPUs of the local Ray, one task on each (all)")
    p.add_argument("--device", default="cpu", help="of training and planning: cpu, cuda, or auto (cpu)")
    p.add_argument("--gpu-share", type=float, default=0.2, help="of one GPU for a task; five share it (0.2)")
    p.add_argument("--autoscale", action="store_true", help="the cluster adds nodes: ask for more than it has")
    return p


def grid_of(args: argparse.Namespace) -> Grid:
    """What the command line asks for.

    Raises:
        InputError: something is unknown or out of range.
    """
    suite = SUITES[check_choice("suite", args.suite, SUITES)]
    envs = chosen("environment", args.envs, [env for env, _ in suite.data])
    for regime in args.regimes or ():
        check_choice("regime", regime, REGIMES)
    regimes = chosen("regime", args.regimes, [regime for _, regime in suite.data])
    for method in args.methods or ():
        check_choice("method", method, METHODS)
    data = tuple((env, regime) for env, regime in suite.data if env in envs and regime in regimes)
    if not data:
        raise InputError(f"suite {suite.name} has none of these environments under these regimes; see --help")
    preset = PRESETS[check_choice("preset", args.preset or suite.preset, PRESETS)]
    methods = args.methods or suite.methods
    counts = args.agents or suite.agents
    budget = replace(
        preset,
        planner=args.planner,
        normalised=STATES[check_choice("states", args.states, STATES)],
        episodes=preset.episodes if args.episodes is None else args.episodes,
    )
    trials = suite.trials if args.trials is None else args.trials
    grid = Grid(suite, data, tuple(dict.fromkeys(methods)), tuple(dict.fromkeys(counts)), trials, budget, args.seed)
    return replace(grid, ranks=_ranks(args, grid))


def _ranks(args: argparse.Namespace, grid: Grid) -> tuple[tuple[tuple[str, str, int], int], ...]:
    """The rank of each dataset, where it is not the paper's.

    Raises:
        InputError: it is no rank, or was to be chosen and has not been.
    """
    keys = [(env, regime, count) for env, regime in grid.data for count in grid.agents]
    if args.rank == "paper":
        return ()
    if args.rank == "auto":
        return tuple((key, read_choice(tracking_folder(args.store), *key)) for key in keys)
    if not args.rank.isdigit():
        raise InputError(f"rank {args.rank!r} is no rank; give a whole number, auto or paper")
    rank = check_at_least("rank", int(args.rank), 1)
    return tuple((key, rank) for key in keys)


def check(args: argparse.Namespace, grid: Grid) -> None:
    """Finds what cannot work before anything is started or written.

    Raises:
        InputError: one line that says what and what to do.
    """
    check_choice("device", args.device, DEVICES)
    if args.cpus is not None:
        check_at_least("cpus", args.cpus, 1)
    if not 0 < args.gpu_share <= 1:
        raise InputError(f"gpu-share is {args.gpu_share}, but it has to be above 0 and at most 1")
    if args.address is not None:
        check_address(args.address)
    if str(args.store).startswith("memory://") and not args.dry_run:
        raise InputError(
            f"store {str(args.store)!r} lives in one process, but workers are others; give a folder or s3://"
        )
    if any(METHODS[method].learns for method in grid.methods):
        for env, regime in grid.data:
            check_regime(regime, get(env))
            load_test_policy(env, get(env).action_space)
    grid.cells()


def _todo(grid: Grid, cells: CellStore) -> tuple[list[FinishedCell], list[Cell]]:
    """What is finished and what is to be computed.

    Raises:
        InputError: a record in the store is damaged or of another version.
    """
    all_cells = grid.cells()
    found = [cells.finished(cell) for cell in all_cells]
    done = [record for record in found if record is not None]
    return done, [cell for cell, record in zip(all_cells, found, strict=True) if record is None]


def _tasks(todo: Sequence[Cell], cells: CellStore) -> dict[str, Task]:
    planned = plan(todo, cells)
    return missing(planned.tasks, [key for keys in planned.of_cell.values() for key in keys], cells.root)


def dry_run(grid: Grid, cells: CellStore, device: str, workers: int) -> None:
    """Prints every cell, what is done, and the estimates."""
    done, todo = _todo(grid, cells)
    for cell in grid.cells():
        state = "to do" if cell in todo else "done"
        print(f"{state:>6}  {cell.id}  {title(cell)}")
    tasks = _tasks(todo, cells)
    hours = sum(map(estimate.seconds, tasks.values())) / 3600
    print(f"\n{len(done)} of {len(done) + len(todo)} cells are done; the others are {len(tasks)} tasks")
    print(f"about {_span(hours)} of one core, {_span(hours / workers)} on {workers}", end="")
    heavy = sum(estimate.seconds(task) for task in tasks.values() if task.heavy) / 3600
    print("; 0 GPU-hours" if device == "cpu" else f"; of these {_span(heavy)} go to GPUs, where they are shorter")


def _span(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.0f} h"


def title(cell: Cell) -> str:
    """One line that tells a cell from the others."""
    where = "true environment" if cell.regime == TRUE_ENV_REGIME else f"{cell.regime}, N={cell.agents}"
    return f"{cell.env}, {where}, {METHODS[cell.method].title}, trial {cell.trial + 1}"


def _device(asked: str, gpus: float, autoscale: bool) -> str:
    """Where heavy tasks run.

    Raises:
        InputError: a GPU was asked for and there is none.
    """
    if asked == "cuda" and not gpus and not autoscale:
        raise InputError(
            "device 'cuda' was asked for, but the cluster has no GPU; give --device cpu or auto, "
            "or --autoscale if it adds GPU nodes on demand"
        )
    return "cuda" if (gpus and asked != "cpu") or asked == "cuda" else "cpu"


def _compute(args: argparse.Namespace, todo: Sequence[Cell], cells: CellStore, tracking: Tracking) -> dict[str, str]:
    """Computes the cells that are missing; returns the errors of those that failed."""
    with ray_session(args.address, args.cpus) as cpus:  # first: it sets what Ray reads when imported
        import ray

        from sweeps.engine.bench_bar import CellBar
        from sweeps.engine.pool import PoolSettings
        from sweeps.engine.runner import run_cells

        device = _device(args.device, ray.cluster_resources().get("GPU", 0), args.autoscale)
        settings = PoolSettings(cells.root.resolve(), device, args.gpu_share, args.autoscale)
        bar = CellBar(args.suite, _tasks(todo, cells), len(todo), cpus)
        try:
            return run_cells(todo, cells, settings, bar, tracking.send)
        finally:
            bar.close()


def tidy(cells: CellStore, done: Sequence[FinishedCell]) -> None:
    """Removes measurements that a killed driver had not yet removed."""
    ids = {finished.cell.id for finished in done}
    for path in (cells.root / "pieces").glob("*.json"):
        if path.name.rpartition("-")[0] in ids:
            path.unlink(missing_ok=True)


def run(args: argparse.Namespace, grid: Grid, cells: CellStore, tracking: Tracking) -> dict[str, str]:
    """Computes what is missing, prints the tables; returns the errors of cells that failed."""
    done, todo = _todo(grid, cells)
    tidy(cells, done)
    for finished in done:
        tracking.send(finished)
    if done:
        print(f"{len(done)} of {len(done) + len(todo)} cells are finished already in {cells.root}", file=sys.stderr)
    try:
        failed = _compute(args, todo, cells, tracking) if todo else {}
    except BaseException:
        tracking.close([])
        raise
    for cell in todo:
        if cell.id in failed:
            tracking.send_failed(cell, failed[cell.id])
    results, _ = _todo(grid, cells)
    print(bench_tables.tables(grid, results, failed))
    print(tracking.close(results))
    return {f"{title(cell)} ({cell.id})": failed[cell.id] for cell in todo if cell.id in failed}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the grid; returns the exit status: 0, or 1 if a cell failed for good."""
    args = parser().parse_args(argv)
    store.reach(args.store)
    grid = grid_of(args)
    check(args, grid)
    cells = CellStore(args.store)
    if args.dry_run:
        dry_run(grid, cells, args.device, args.cpus or os.cpu_count() or 1)
        return 0
    _todo(grid, cells)  # damaged records are found before anything is written
    tracking = Tracking.open(args.tracking_uri, args.store, grid)
    with only_driver(args.store, LOCK):
        failed = run(args, grid, cells, tracking)
    for name, error in failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    if failed:
        number = f"{len(failed)} cell{'s' if len(failed) > 1 else ''}"
        print(f"{number} failed; the same command tries again", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(console.run(main))
