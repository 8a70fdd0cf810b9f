"""Rank cross-validation of PerSim: which rank predicts held-out transitions best (Appendix D.1).

    python sweeps/rank_cv.py --env cartpole

Every rank is trained several times, each time on another random 80 % of the transitions, and measured
on the rest; the smallest rank within one standard error of the best is chosen. Ray Tune runs the
trials, Optuna hands them out, MLflow shows them. What has finished is never computed twice: the same
command, given again, goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from persim import console
from persim.data import Trajectories
from persim.data.policies import has_test_policy, load_test_policy
from persim.envs import get
from persim.errors import InputError, check_at_least
from persim.learning.presets import EPOCHS, RANKS
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell
from sweeps.engine.session import ray_session
from sweeps.options import add_data_options, add_run_options, check_options, dataset, only_driver
from sweeps.tuning.rank_choice import RankSummary, choose, summarise, write_choice
from sweeps.tuning.rank_trial import SUITE, SweepSettings

if TYPE_CHECKING:  # MLflow takes seconds to import, --help none
    from sweeps.tracking.rank_runs import SweepRuns

MANIFEST = "sweep"
SOURCE = "sweeps/rank_cv.py"


def parser() -> console.Parser:
    """The command line."""
    p = console.Parser(prog="rank_cv.py", description=__doc__)
    add_data_options(p)
    p.add_argument("--ranks", type=console.numbers, default=RANKS, help=f"candidates ({','.join(map(str, RANKS))})")
    p.add_argument("--repeats", type=int, default=3, help="trials per rank, each with its own hold-out split (3)")
    p.add_argument("--epochs", type=int, default=EPOCHS, help=f"passes over the training transitions ({EPOCHS})")
    add_run_options(p)
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on with the last unfinished sweep of --env in the store, with the settings it was started with",
    )
    return p


def checked_settings(args: argparse.Namespace) -> SweepSettings:
    """Settings from the command line.

    Raises:
        InputError: one of them is out of range.
    """
    spec = check_options(args)
    load_test_policy(spec.name, spec.action_space)
    if not has_test_policy(spec.name):
        print(f"{spec.name} has no test policy: the prediction test plays random actions", file=sys.stderr)
    for rank in args.ranks:
        check_at_least("rank", rank, 1)
    if len(set(args.ranks)) < len(args.ranks):
        raise InputError(f"ranks {','.join(map(str, args.ranks))} name one twice; give each once")
    check_at_least("repeats", args.repeats, 1)
    check_at_least("epochs", args.epochs, 1)
    return SweepSettings(
        args.env, args.regime, args.agents, args.ranks, args.repeats, args.epochs, args.holdout, args.seed
    )


def _manifest_path(root: Path, settings: SweepSettings) -> Path:
    return root / "sweeps" / f"{settings.env.replace(':', '.')}-{settings.id}.json"


def unfinished_settings(root: Path, env: str) -> SweepSettings:
    """Settings of the sweep of ``env`` that was started last and has not finished.

    Raises:
        InputError: there is none.
    """
    paths = sorted((root / "sweeps").glob(f"{env.replace(':', '.')}-*.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(paths):
        record = store.read_record(path, MANIFEST)
        if not record["finished"]:
            saved = record["settings"]
            return SweepSettings(**{**saved, "ranks": tuple(saved["ranks"])})
    raise InputError(
        f"store {str(root)!r} has no unfinished sweep of {env}; leave --resume out to start one, or give its --store"
    )


def _refuse_other_options(args: argparse.Namespace, given: Sequence[str], saved: SweepSettings) -> None:
    """``--resume`` takes the saved settings; an option that says otherwise is a mistake."""
    for name, value in asdict(saved).items():
        said = getattr(args, name)
        explicit = any(word == f"--{name}" or word.startswith(f"--{name}=") for word in given)
        if explicit and said != value:
            raise InputError(
                f"--{name} {said} differs from the unfinished sweep's {value}; leave it out, or leave --resume out"
            )


def _data(settings: SweepSettings, cells: CellStore) -> Trajectories:
    return dataset(settings.env, settings.regime, settings.agents, settings.seed, cells)


def check_files(settings: SweepSettings, cells: CellStore) -> None:
    """Finds a damaged file of an earlier run before anything is written, not in a worker half-way.

    Raises:
        InputError: a dataset, record or checkpoint of this sweep is damaged.
    """
    if cells.dataset_path(settings.env, settings.regime, settings.agents, settings.seed).exists():
        _data(settings, cells)
    for cell in settings.cells():
        path = cells.checkpoint_path(cell)
        if cells.finished(cell) is None and path.exists():
            store.read_arrays(path, "checkpoint")


def table(summaries: Sequence[RankSummary], chosen: RankSummary) -> str:
    """The result as text for a terminal."""
    agents = len(summaries[0].prediction_rmse)
    head = f"{'rank':>5}  {'hold-out error ± s.e.':>23}  " + " ".join(
        f"{'agent ' + str(i + 1):>8}" for i in range(agents)
    )
    lines = [f"{'':>30}    50-step prediction RMSE, one model", f"{head}  {'seconds':>7}"]
    for s in summaries:
        rmse = " ".join(f"{value:8.4f}" if value < 100 else f"{value:8.1e}" for value in s.prediction_rmse)
        mark = "  <- chosen" if s is chosen else ""
        lines.append(f"{s.rank:>5}  {s.error:>11.3e} ± {s.standard_error:.1e}    {rmse}  {s.seconds:7.1f}{mark}")
    return "\n".join(lines)


def _report(
    settings: SweepSettings, root: Path, trials: Sequence[FinishedCell]
) -> tuple[RankSummary, list[RankSummary], Path]:
    """Prints the table, draws the plot, records the choice."""
    from sweeps.reporting.draw import plot_ranks

    summaries = summarise(trials)
    chosen = choose(summaries)
    title = f"{get(settings.env).title}, {settings.regime} data, {settings.agents} agents"
    plot = root / "plots" / f"rank-{settings.env.replace(':', '.')}-{settings.regime}-{settings.agents}.png"
    plot_ranks(plot, title, trials, summaries, chosen)
    path = write_choice(root, asdict(settings), chosen, summaries)
    print(f"\n{title}: {settings.repeats} trials a rank, {settings.epochs} epochs, hold-out {settings.holdout:.0%}\n")
    print(table(summaries, chosen))
    print(f"\nchosen rank {chosen.rank}: the smallest within one standard error of the best; written to {path}")
    print(f"plot: {plot}")
    return chosen, summaries, plot


def _open_tracker(args: argparse.Namespace, settings: SweepSettings) -> SweepRuns:
    """The MLflow writer, with the store made if all else is in order."""
    from sweeps.tracking.rank_runs import SweepRuns
    from sweeps.tracking.tracker import Tracker, default_uri

    uri = args.tracking_uri or default_uri(args.store)
    if uri.startswith("http"):  # a dead server is found before anything is written
        tracker = Tracker(uri, SUITE, args.store, SOURCE)
        store.prepare_folder(args.store)
    else:
        store.prepare_folder(args.store)
        tracker = Tracker(uri, SUITE, args.store, SOURCE)
    return SweepRuns(tracker, settings)


def _run(args: argparse.Namespace, settings: SweepSettings, cells: CellStore, runs: SweepRuns) -> dict[str, str]:
    """Computes the cells that are missing; returns the errors of those that failed."""
    data = _data(settings, cells)
    done = {cell.id: cells.finished(cell) for cell in settings.cells()}
    for finished in done.values():
        if finished is not None:
            runs.send(finished)
    todo = [cell for cell in settings.cells() if done[cell.id] is None]
    if len(todo) < len(done):
        print(f"{len(done) - len(todo)} of {len(done)} trials are finished already in {cells.root}", file=sys.stderr)
    if not todo:
        return {}
    with ray_session(args.address, args.cpus) as cpus:  # first: it sets what Ray reads when imported
        from sweeps.engine.progress import SweepBar
        from sweeps.tuning.rank_sweep import run_cells

        bar = SweepBar(f"{settings.env} rank CV", len(todo), settings.epochs)
        try:
            return run_cells(settings, todo, data, cells.root, cpus, bar, runs.send)
        finally:
            bar.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sweep; returns the exit status: 0, or 1 if a trial failed for good."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(given)
    settings = checked_settings(args)
    if args.resume:
        settings = unfinished_settings(args.store, args.env)
        _refuse_other_options(args, given, settings)
    cells = CellStore(args.store)
    check_files(settings, cells)
    runs = _open_tracker(args, settings)
    with only_driver(args.store, settings.id):
        manifest = _manifest_path(args.store, settings)
        if not manifest.exists():
            store.write_record(manifest, MANIFEST, {"settings": asdict(settings), "finished": False})
        try:
            failed = _run(args, settings, cells, runs)
        except BaseException:
            runs.fail()
            raise
        found = [cells.finished(cell) for cell in settings.cells()]
        trials = [trial for trial in found if trial is not None]
        if failed or len(trials) < len(found):
            runs.fail()
            for name, error in failed.items():
                print(f"failed: {name}: {error}", file=sys.stderr)
            print(f"{len(trials)} of {len(found)} trials finished; the same command tries the rest", file=sys.stderr)
            return 1
        chosen, summaries, plot = _report(settings, args.store, trials)
        sent = runs.finish(chosen, summaries, plot)
        if sent:
            print(f"MLflow: {runs.how_to_look()}")
        else:
            print(f"MLflow at {runs.uri} lacks some runs; the same command sends them when it answers again")
        store.write_record(manifest, MANIFEST, {"settings": asdict(settings), "finished": sent})
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
