"""Tuning of PerSim: learning rate, batch size, widths, rank, normalisation, epochs, and the planner.

    python sweeps/tune.py --env cartpole --agents 100
    python sweeps/tune.py --env cartpole --print-space > space.yaml

Optuna's TPE suggests settings, Ray Tune trains with them, ASHA stops early what is worse than the
others, MLflow shows it. What has finished is never computed twice: the same command, given again, goes
on where it stopped, and with more --trials it does the missing ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persim import console
from persim.envs import EnvSpec, get
from persim.errors import InputError, check_at_least, check_choice
from persim.learning.presets import EPOCHS, MEMBERS, preset
from persim.learning.training import TrainSettings
from persim.planning.registry import PLANNERS, default_planner
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell
from sweeps.engine.session import ray_session
from sweeps.options import add_data_options, add_run_options, check_options, dataset, only_driver
from sweeps.tuning.space import PLANNING, Choice, Fixed, Range, Space, Values, as_yaml, default_space
from sweeps.tuning.study import Entry, Journal, Ranked, ranking, write_best
from sweeps.tuning.trial import OBJECTIVES, SUITE, StudySettings

if TYPE_CHECKING:  # MLflow takes seconds to import, --help none
    from sweeps.tracking.tune_runs import StudyRuns

SOURCE = "sweeps/tune.py"
SHOWN = 10
REWARD_EPISODES = 5

Finished = list[tuple[Entry, FinishedCell]]


def parser() -> console.Parser:
    """The command line."""
    p = console.Parser(prog="tune.py", description=__doc__)
    add_data_options(p)
    p.add_argument("--space", type=Path, metavar="FILE", help="YAML file of what to tune (that of --print-space)")
    p.add_argument("--print-space", action="store_true", help="print the space that is searched, and stop")
    p.add_argument("--objective", default="holdout", help="holdout (error) or reward (of planning) (holdout)")
    p.add_argument("--trials", type=int, default=20, metavar="N", help="in total, with those finished before (20)")
    p.add_argument("--epochs", type=int, help=f"of every trial, if the space does not say ({EPOCHS})")
    p.add_argument("--members", type=int, help=f"models trained in a trial (holdout 1, reward {MEMBERS})")
    p.add_argument("--episodes", type=int, help=f"of each test agent, for reward ({REWARD_EPISODES})")
    add_run_options(p)
    return p


def _space(args: argparse.Namespace, spec: EnvSpec) -> dict[str, Any] | Path:
    """The file, or the built-in space with ``--epochs``."""
    if args.space is not None:
        return Path(args.space)
    space = default_space(spec, planning=args.objective == "reward")
    return space if args.epochs is None else {**space, "epochs": args.epochs}


def _read_space(args: argparse.Namespace, spec: EnvSpec) -> Space:
    """The space, with epochs in it, and without what does not count."""
    given = _space(args, spec)
    space = Space.read(given) if isinstance(given, Path) else Space.of(given)
    if isinstance(given, Path) and "epochs" in space.domains and args.epochs is not None:
        raise InputError(f"--epochs {args.epochs} and the epochs of space {str(given)!r} both count; give one of them")
    if "epochs" not in space.domains:
        space = Space({**space.domains, "epochs": Fixed(EPOCHS if args.epochs is None else args.epochs)})
    if args.objective == "holdout" and (idle := [name for name in PLANNING if name in space.domains]):
        print(f"{', '.join(idle)} left out: settings of the planner count with --objective reward", file=sys.stderr)
        space = space.without(PLANNING)
    if not space.tuned:
        raise InputError("the space has one value of everything; give a list or a range of what is to be tuned")
    return space


def _ends(space: Space, name: str) -> list[Values]:
    """The extreme values of one setting; one empty choice if the space does not have it."""
    domain = space.domains.get(name)
    if isinstance(domain, Range):
        return [{name: domain.low}, {name: domain.high}]
    if isinstance(domain, Choice):
        return [{name: value} for value in domain.values]
    return [{}] if domain is None else [{name: domain.value}]


def _check_planning(study: StudySettings, spec: EnvSpec) -> None:
    """Refuses planners that do not fit, settings that none of them has, and more elites than plans."""
    planners = [values.get("planner", default_planner(spec.action_space)) for values in _ends(study.space, "planner")]
    known = {field for name in planners for field in PLANNERS[name].settings_type.__dataclass_fields__}
    for name in planners:
        PLANNERS[name].check_space(spec.action_space)
    for name in PLANNING:
        if name in study.space.domains and name not in known | {"planner"}:
            raise InputError(f"{', '.join(planners)} has no {name}; leave it out of the space, or add another planner")
    for planner, plans, elites in product(planners, _ends(study.space, "plans"), _ends(study.space, "elites")):
        study.planner({"planner": planner} | plans | elites)


def checked_settings(args: argparse.Namespace) -> StudySettings:
    """Settings from the command line.

    Raises:
        InputError: one of them is out of range.
    """
    spec = check_options(args)
    check_choice("objective", args.objective, OBJECTIVES)
    check_at_least("trials", args.trials, 1)
    reward = args.objective == "reward"
    if args.episodes is not None and not reward:
        raise InputError("--episodes counts with --objective reward only; leave it out, or add that")
    if args.epochs is not None:
        check_at_least("epochs", args.epochs, 1)
    members = (MEMBERS if reward else 1) if args.members is None else args.members
    episodes = (REWARD_EPISODES if args.episodes is None else args.episodes) if reward else 0
    check_at_least("members", members, 1)
    check_at_least("episodes", episodes, int(reward))
    space = _read_space(args, spec)
    study = StudySettings(
        args.env, args.regime, args.agents, args.holdout, args.seed, args.objective, members, episodes, space
    )
    if reward:
        _check_planning(study, spec)
    return study


def first_values(study: StudySettings) -> Values:
    """What the environment comes with, to begin with and to compare with."""
    spec = get(study.env)
    own = asdict(preset(study.env, discrete=spec.discrete))
    own |= {"learning_rate": TrainSettings.learning_rate, "epochs": EPOCHS}
    fixed = {name: domain.value for name, domain in study.space.domains.items() if isinstance(domain, Fixed)}
    if study.objective == "reward":
        name, planner = study.planner({})
        own |= {"planner": name, "elites": 10, "iterations": 3} | asdict(planner)
    known = {name: list(value) if isinstance(value, tuple) else value for name, value in (own | fixed).items()}
    return {name: known[name] for name in study.space.domains if name in known}


def _study_files(study: StudySettings, cells: CellStore) -> Journal:
    """The journal; finds damaged files before anything is written."""
    if cells.dataset_path(study.env, study.regime, study.agents, study.seed).exists():
        dataset(study.env, study.regime, study.agents, study.seed, cells)
    journal = Journal(study, cells)
    for entry in journal.entries:
        path = cells.checkpoint_path(study.cell(entry.values))
        if journal.done(entry) is None and path.exists():
            store.read_arrays(path, "checkpoint")
    return journal


def _open_tracker(args: argparse.Namespace, study: StudySettings) -> StudyRuns:
    """The MLflow writer; the store is made when all else is in order."""
    from sweeps.tracking.tracker import Tracker, default_uri
    from sweeps.tracking.tune_runs import StudyRuns

    uri = args.tracking_uri or default_uri(args.store)
    if not uri.startswith("http"):  # a dead server is found before anything is written
        store.prepare_folder(args.store)
    tracker = Tracker(uri, SUITE, args.store, SOURCE)
    store.prepare_folder(args.store)
    return StudyRuns(tracker, study)


def _run(args: argparse.Namespace, study: StudySettings, journal: Journal, runs: StudyRuns) -> dict[str, str]:
    """Runs the trials that are missing; returns the errors of those that failed."""
    cells, finished = CellStore(args.store), journal.finished()
    for _, done in finished:
        runs.send(done)
    if finished:
        print(f"{len(finished)} of {args.trials} trials are finished already in {args.store}", file=sys.stderr)
    missing = args.trials - len(finished)
    if missing <= 0:
        return {}
    data = dataset(study.env, study.regime, study.agents, study.seed, cells)
    with ray_session(args.address, args.cpus) as cpus:  # first: it sets what Ray reads when imported
        from sweeps.engine.progress import SweepBar
        from sweeps.tuning.tune_run import run_trials

        def label(point: Values) -> str:
            return f"rank {study.nets(study.space.decode(point)).rank}"

        bar = SweepBar(f"{study.env} tuning", missing, study.largest_epochs, label)
        try:
            first = first_values(study)
            return run_trials(study, journal, missing, first, data, args.store, cpus, bar, runs.send)
        finally:
            bar.close()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "x".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _setting(study: StudySettings, values: Values, name: str) -> str:
    """A setting; a dash if the trial's planner does not have it."""
    idle = name in PLANNING and name != "planner" and not hasattr(study.planner(values)[1], name)
    return "-" if idle else _text(values[name])


def table(study: StudySettings, lines: Sequence[Ranked]) -> str:
    """The best trials as text for a terminal; the settings that were tuned."""
    names = list(study.space.tuned)
    head = ["trial", "hold-out error" if study.objective == "holdout" else "mean reward", *names, "seconds"]
    form = "{:.3e}" if study.objective == "holdout" else "{:.1f}"
    rows = [head]
    for line in lines:
        settings = [_setting(study, line.entry.values, name) for name in names]
        rows.append([str(line.number), form.format(line.value), *settings, f"{line.seconds:.1f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


def _report(study: StudySettings, root: Path, finished: Finished) -> Ranked:
    """Prints the table and records the best settings; returns them.

    Raises:
        InputError: every trial diverged.
    """
    lines = ranking(study, finished)
    stopped = sum(entry.stopped_at is not None for entry, _ in finished)
    if not lines:
        raise InputError("no trial ended with a finite result; give a space with lower learning rates")
    title = f"{get(study.env).title}, {study.regime} data, {study.agents} agents"
    print(f"\n{title}: {len(finished)} trials, {stopped} of them stopped early; the best that ran to the end:\n")
    print(table(study, lines[:SHOWN]))
    print(f"\nbest settings written to {write_best(root, study, lines)}")
    return lines[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study; returns the exit status: 0, or 1 if a trial failed for good."""
    args = parser().parse_args(argv)
    if args.print_space:
        check_choice("objective", args.objective, OBJECTIVES)
        given = _space(args, get(args.env))
        print(as_yaml(given) if isinstance(given, dict) else given.read_text(), end="")
        return 0
    study = checked_settings(args)
    cells = CellStore(args.store)
    journal = _study_files(study, cells)
    runs = _open_tracker(args, study)
    with only_driver(args.store, study.id):
        try:
            failed = _run(args, study, journal, runs)
            finished = journal.finished()
            if failed or len(finished) < args.trials:
                runs.fail()
                return _incomplete(failed, len(finished), args.trials)
            best = _report(study, args.store, finished)
        except BaseException:
            runs.fail()
            raise
        if runs.finish(best):
            print(f"MLflow: {runs.how_to_look()}")
        else:
            print(f"MLflow at {runs.uri} lacks some runs; the same command sends them when it answers again")
    return 0


def _incomplete(failed: dict[str, str], finished: int, trials: int) -> int:
    for name, error in failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    print(f"{finished} of {trials} trials finished; the same command tries the rest", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(console.run(main))
