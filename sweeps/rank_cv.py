"""Rank cross-validation of PerSim: which rank predicts held-out transitions best (Appendix D.1).

    python sweeps/rank_cv.py --env cartpole

Every rank is trained several times, each time on another random 80 % of the transitions, and measured
on the rest; the smallest rank is chosen whose error differs from the best one's, split by split, by at most
one standard error of this difference on average (docs/rank-cv.md). Ray Tune runs the
trials, Optuna hands them out, MLflow shows them. What has finished is never computed twice: the same
command, given again, goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from persim import console
from persim.data.policies import has_test_policy, load_test_policy
from persim.errors import InputError, check_at_least, check_choice
from persim.learning.presets import EPOCHS, RANKS
from persim.methods.holdout import BLOCKS, TRANSITIONS, HoldOut
from persim.methods.job import Job
from persim.methods.protocol import MOST_RANK
from persim.methods.tuned import RANK, rank_path
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell, file_name
from sweeps.options import add_data_options, add_run_options, check_options, close, driving, incomplete
from sweeps.tuning.ranks import (
    ERRORS,
    MULTI_STEP,
    ONE_STEP,
    RankSummary,
    SweepSettings,
    choose,
    curves,
    described,
    summarise,
)
from sweeps.tuning.sweep import check_files, run_missing

if TYPE_CHECKING:
    from sweeps.tuning.tuner import Plan

MANIFEST = "sweep"
STEPS = 5  # of the multi-step error: fits into a fifth of 25 steps, which many trajectories of CartPole have


def parser() -> console.Parser:
    """The command line."""
    p = console.Parser(prog="rank_cv.py", description=__doc__)
    add_data_options(p)
    p.add_argument("--ranks", type=console.numbers, default=RANKS, help=f"candidates ({','.join(map(str, RANKS))})")
    p.add_argument("--repeats", type=int, default=3, help="trials per rank, each with its own hold-out split (3)")
    p.add_argument("--epochs", type=int, default=EPOCHS, help=f"passes over the training transitions ({EPOCHS})")
    about = f"what is held out: {TRANSITIONS} at random, or {BLOCKS} of time, one of each trajectory ({TRANSITIONS})"
    p.add_argument("--holdout-by", default=TRANSITIONS, help=about)
    about = f"on the hold-out: {ONE_STEP}, or {MULTI_STEP}: open loop inside the blocks ({ONE_STEP})"
    p.add_argument("--error", default=ONE_STEP, help=about)
    p.add_argument("--steps", type=int, metavar="H", help=f"of the multi-step error, at least 2 ({STEPS})")
    add_run_options(p)
    about = "go on with the last unfinished sweep of --env in the store, with the settings it was started with"
    p.add_argument("--resume", action="store_true", help=about)
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
        check_at_least("rank", rank, 1, most=MOST_RANK)
    if len(set(args.ranks)) < len(args.ranks):
        raise InputError(f"ranks {','.join(map(str, args.ranks))} name one twice; give each once")
    check_at_least("repeats", args.repeats, 1, most=1000)
    check_at_least("epochs", args.epochs, 1, most=10**6)
    check_choice("error", args.error, ERRORS)
    if args.error == ONE_STEP and args.steps is not None:
        raise InputError(
            f"steps is {args.steps}, but the error is one-step; add --error multi-step, or leave --steps out"
        )
    if args.error == MULTI_STEP:
        args.steps = check_at_least("steps", STEPS if args.steps is None else args.steps, 2)
    else:
        args.steps = 1
    HoldOut(args.holdout, 0, args.holdout_by, args.steps)
    return SweepSettings(**{field.name: getattr(args, field.name) for field in fields(SweepSettings)})


def _manifest_path(root: Path, settings: SweepSettings) -> Path:
    return root / "sweeps" / f"{file_name(settings.env)}-{settings.id}.json"


def unfinished_settings(args: argparse.Namespace, given: Sequence[str]) -> SweepSettings:
    """Settings of the sweep of ``--env`` that was started last and has not finished.

    Raises:
        InputError: there is none, or an option of the command line, ``given``, says otherwise.
    """
    paths = sorted((args.store / "sweeps").glob(f"{file_name(args.env)}-*.json"), key=lambda path: path.stat().st_mtime)
    records = (store.read_record(path, MANIFEST) for path in reversed(paths))
    saved = next((record.get("settings") for record in records if not record.get("finished")), None)
    if saved is None:
        why = f"store {str(args.store)!r} has no unfinished sweep of {args.env}"
        raise InputError(f"{why}; leave --resume out to start one, or give its --store")
    with store.contents_of(args.store / "sweeps"):
        settings = store.build(SweepSettings, saved)
    options = {word.partition("=")[0] for word in given}
    for name, value in asdict(settings).items():
        option = f"--{name.replace('_', '-')}"
        if option in options and (said := getattr(args, name)) != value:
            raise InputError(
                f"{option} {said} differs from the unfinished sweep's {value}; leave it out, or leave --resume out"
            )
    return settings


def table(summaries: Sequence[RankSummary], chosen: RankSummary) -> str:
    """The result as text for a terminal."""
    agents = "".join(f" {f'agent {place + 1}':>8}" for place in range(len(chosen.prediction_rmse)))
    lines = [f"{'':>20}  {'its difference to the':>21}    50-step prediction RMSE, one model"]
    lines.append(f"{'rank':>5}  {'hold-out error':>14} {'lowest ± s.e.':>21} {agents}  {'seconds':>7}")
    for s in summaries:
        rmse = " ".join(f"{value:8.4f}" if value < 100 else f"{value:8.1e}" for value in s.prediction_rmse)
        mark = "  <- chosen" if s is chosen else ""
        paired = f"{s.difference:>11.2e} ± {s.standard_error:.1e}"
        lines.append(f"{s.rank:>5}  {s.error:>14.3e} {paired:>21}  {rmse}  {s.seconds:7.1f}{mark}")
    return "\n".join(lines)


def _report(
    settings: SweepSettings, root: Path, trials: Sequence[FinishedCell]
) -> tuple[RankSummary, list[RankSummary], Path]:
    """Print the table, draw the plot, record the choice with the evidence; a later sweep on the data replaces it.

    Raises:
        InputError: every rank diverged.
    """
    from sweeps.reporting.draw import rank_figure, save_png

    summaries = summarise(trials)
    chosen = choose(summaries)
    plot = root / "plots" / f"{file_name('rank', settings.env, settings.regime, settings.agents)}.png"
    finite = [summary for summary in summaries if math.isfinite(summary.error)]
    save_png(plot, lambda: rank_figure(settings.title, trials, finite, chosen))
    path = rank_path(root, settings.env, settings.regime, settings.agents)
    evidence = [summary.as_json() for summary in summaries]
    store.write_record(path, RANK, {"rank": chosen.rank, "settings": settings.as_json(), "table": evidence})
    trained = f"{settings.repeats} trials a rank, {settings.epochs} epochs, hold-out {settings.holdout:.0%}"
    trained += described(settings.holdout_by, settings.steps)
    print(f"\n{settings.title}: {trained}\n\n{table(summaries, chosen)}")
    why = "the smallest within one standard error of the difference to the best"
    if settings.repeats == 1:
        why = "the one of lowest error, as a single repeat has no standard error"
    print(f"\nchosen rank {chosen.rank}: {why}; written to {path}")
    print(f"plot: {plot}")
    return chosen, summaries, plot


def _plan(todo: Sequence[Job]) -> Plan:
    from sweeps.tuning.tuner import each_of

    return each_of([{"rank": job.cell.settings["rank"], "repeat": job.cell.measure["split"] + 1} for job in todo])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep; returns the exit status: 0, or 1 if a trial failed for good."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(given)
    settings = checked_settings(args)
    if args.resume:
        settings = unfinished_settings(args, given)
    cells, jobs = CellStore(args.store), settings.jobs()
    check_files(jobs, cells)
    request, manifest = settings.request(jobs), _manifest_path(args.store, settings)
    with driving(args, settings.suite, settings.id, lambda: request) as mirror:
        if not manifest.exists():
            store.write_record(manifest, MANIFEST, {"settings": settings.as_json(), "finished": False})
        cells.ask(request)
        finished = cells.finished_ids()
        todo = [job for job in jobs if job.cell.id not in finished]
        there = len(jobs) - len(todo)
        failures = run_missing(args, settings, jobs[0], cells, there, len(jobs), lambda: _plan(todo))
        trials = [done for job in jobs if (done := cells.finished(job.cell)) is not None]
        if len(trials) < len(jobs):
            return incomplete(mirror, request, failures, len(trials), len(jobs))
        chosen, summaries, plot = _report(settings, args.store, trials)
        tags = {"persim.chosen_rank": str(chosen.rank)}
        mirror.end(request, metrics=curves(summaries, chosen), tags=tags, files=[plot])
        sent = close(mirror, request)
        store.write_record(manifest, MANIFEST, {"settings": settings.as_json(), "finished": sent})
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
