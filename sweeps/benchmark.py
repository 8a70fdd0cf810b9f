"""The paper's grid, or any part of it: environment x regime x method x number of agents x trial.

    python sweeps/benchmark.py --suite smoke
    python sweeps/benchmark.py --suite reward --envs cartpole --regimes random,pure --trials 5

Datasets, models and measurements are made once, by tasks on the Ray that --address names (this
machine by default), and kept in --store, a folder or s3://BUCKET/PREFIX; what has finished is never computed
twice: the same command, given again, goes on where it stopped. Every finished cell is a run in MLflow.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from baselines.registry import METHODS
from persim import console
from persim.envs import get
from persim.methods.job import REWARD, TRUE_ENV_REGIME, Job
from persim.methods.planning import planning_text
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, Request, file_name
from sweeps.engine.bars import CellBar
from sweeps.engine.in_process import InProcess
from sweeps.engine.scheduler import Pool, run_jobs
from sweeps.engine.session import check_address, ray_session
from sweeps.grid import estimate
from sweeps.grid.command import check, grid_of, parser
from sweeps.grid.devices import settled
from sweeps.grid.suites import Grid
from sweeps.grid.tasks import Task, missing, plan
from sweeps.options import close, driving, only_driver
from sweeps.tracking.mirror import tracking_folder

LOCK = "benchmark"


def _todo(grid: Grid, cells: CellStore) -> tuple[list[FinishedCell], list[Job]]:
    """Holds what is finished and what is to be computed.

    Raises:
        InputError: a record in the store is damaged or of another version.
    """
    there, done, todo = cells.finished_ids(), list[FinishedCell](), list[Job]()
    for job in grid.jobs():
        found = cells.finished(job.cell) if job.cell.id in there else None
        if found is None:
            todo.append(job)
        else:
            done.append(found)
    return done, todo


def _tasks(todo: Sequence[Job], cells: CellStore, device: str) -> dict[str, Task]:
    planned = plan(todo, cells, device)
    return missing(planned.tasks, [key for keys in planned.of_cell.values() for key in keys], cells.root)


def dry_run(grid: Grid, cells: CellStore, device: str, workers: int) -> None:
    """Print every cell, what is done, and the estimates."""
    done, todo = _todo(grid, cells)
    open_ids = {job.cell.id for job in todo}
    for job in grid.jobs():
        state = "to do" if job.cell.id in open_ids else "done"
        print(f"{state:>6}  {job.cell.id}  {title(job.cell)}")
    tasks = _tasks(todo, cells, device)
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
    method, how = METHODS[cell.method].title, ""
    if cell.what == REWARD:
        method = METHODS[cell.method].label
    if "agents" in cell.measure and "planning" in cell.settings:  # of the suite that tries ways to plan
        how = f" ({planning_text(cell.settings, get(cell.env))})"
    return f"{cell.env}, {where}, {method}{how}, {cell.what}, seed {cell.seed}"


def compute(args: argparse.Namespace, todo: Sequence[Job], cells: CellStore) -> dict[str, str]:
    """Compute the cells that are missing; returns the errors of those that failed, by cell id."""

    def run_on(pool: Pool, workers: int) -> dict[str, str]:
        bar = CellBar(args.suite, _tasks(todo, cells, pool.device), len(todo), workers)
        try:
            return run_jobs(todo, cells, pool, bar)
        finally:
            bar.close()

    root = cells.root.resolve()
    asked = args.device if any(task.heavy for task in _tasks(todo, cells, "cuda").values()) else "cpu"
    if args.in_process:
        import torch

        torch.set_num_threads(1)
        return run_on(InProcess(root, settled(asked, torch.cuda.is_available())), 1)
    with ray_session(args.address, args.cpus) as cpus:  # first: it sets what Ray reads when imported
        from sweeps.engine.gpus import Workers
        from sweeps.engine.ray_pool import RayPool

        return run_on(RayPool(root, Workers.of(args, asked)), cpus)


def tidy(cells: CellStore, done: Sequence[FinishedCell]) -> None:
    """Remove measurements that a killed driver had not yet removed."""
    ids = {finished.cell.id for finished in done}
    for path in (cells.root / "pieces").glob("*.json"):
        if path.name.rpartition("-")[0] in ids:
            path.unlink(missing_ok=True)


def _plots(grid: Grid, cells: CellStore, results: Sequence[FinishedCell]) -> None:
    """Draw a bar chart of all methods for each kind of data."""
    from sweeps.reporting.draw import plot_methods

    for env, regime in grid.data:
        own = [done for done in results if done.cell.env == env and done.cell.regime in (regime, TRUE_ENV_REGIME)]
        if own:
            name = f"{file_name(grid.suite.name, env, regime)}.png"
            about = f"{get(env).title}, {regime} data, {grid.options.preset} budget"
            print(f"plot: {plot_methods(cells.root / 'plots' / name, own, about)}")


def run(args: argparse.Namespace, grid: Grid, cells: CellStore) -> dict[str, str]:
    """Compute what is missing, print the tables, draw the plots; returns the errors of cells that failed."""
    # Matplotlib takes a second to import, --help none
    from sweeps.reporting import ablations, planners, theorem
    from sweeps.reporting.text_tables import tables, written

    done, todo = _todo(grid, cells)
    tidy(cells, done)
    if done:
        print(f"{len(done)} of {len(done) + len(todo)} cells are finished already in {cells.root}", file=sys.stderr)
    console.doing(f"benchmark.py: computing {len(todo)} cells")
    failed = compute(args, todo, cells) if todo else {}
    console.doing("benchmark.py: laying out the results")
    results, _ = _todo(grid, cells)
    if grid.suite.name == theorem.SUITE:
        print(written(theorem.table(theorem.curves(results))))
    elif grid.suite.name == ablations.SUITE:
        print(written(ablations.table(results, grid.options.preset)))
    elif grid.suite.plannings:
        print(planners.summary(results))
    else:
        print(tables(grid, results, failed))
        _plots(grid, cells, results)
    for job in todo:
        if job.cell.id in failed:
            print(f"failed: {title(job.cell)} ({job.cell.id}): {failed[job.cell.id]}", file=sys.stderr)
    if failed:
        number = f"{len(failed)} cell{'s' if len(failed) > 1 else ''}"
        print(f"{number} failed; the same command tries again", file=sys.stderr)
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid; returns the exit status: 0, or 1 if a cell failed for good."""
    args = parser(__doc__ or "").parse_args(argv)
    store.reach(args.store)
    grid = grid_of(args, tracking_folder(args.store))
    check(args, grid)
    if args.address is not None:
        check_address(args.address)
    cells = CellStore(args.store)
    if args.dry_run:
        cells.check_version()
        dry_run(grid, cells, "cuda" if args.device == "cuda" else "cpu", args.cpus or os.cpu_count() or 1)
        return 0
    _todo(grid, cells)  # damaged records are found before anything is written
    preset = grid.options.preset if args.settings is None else "tuned"
    request = Request(grid.suite.name, preset, tuple(job.cell.id for job in grid.jobs()))
    if args.in_process:
        store.prepare_folder(args.store)
        with only_driver(args.store, LOCK):
            cells.ask(request)
            failed = run(args, grid, cells)
        print("MLflow was left out; the next command that has it shows these cells")
        return 1 if failed else 0
    with driving(args, LOCK, LOCK, lambda: request) as mirror:
        cells.ask(request)
        failed = run(args, grid, cells)
        for job in grid.jobs():
            if job.cell.id in failed:
                mirror.fail(request, job.cell, failed[job.cell.id])
        mirror.end(request, status="FAILED" if failed else "FINISHED")
    close(mirror, request)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(console.run(main))
