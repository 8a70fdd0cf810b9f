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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persim import console
from persim.envs import EnvSpec, get
from persim.errors import InputError, check_at_least, check_choice
from persim.learning.presets import EPOCHS, MEMBERS
from persim.methods.tuned import OBJECTIVES
from persim.planning.registry import PLANNERS, default_planner
from persim.storage.cells import CellStore
from persim.storage.store import canonical_json
from sweeps.options import add_data_options, add_run_options, check_options, close, driving, incomplete
from sweeps.tuning.space import PLANNING, Space, Values, as_yaml, default_space
from sweeps.tuning.study import Journal, Ranked, StudySettings, ranking, write_best
from sweeps.tuning.sweep import check_files, run_missing

if TYPE_CHECKING:
    from sweeps.tuning.tuner import Plan

SHOWN = 10
REWARD_EPISODES = 5


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


def _built_in(args: argparse.Namespace, spec: EnvSpec) -> dict[str, Any]:
    """The space that is searched if no file is given, with ``--epochs``."""
    space = default_space(spec, planning=args.objective == "reward")
    return space if args.epochs is None else {**space, "epochs": args.epochs}


def _read_space(args: argparse.Namespace, spec: EnvSpec) -> Space:
    """Read the space, add the epochs if it lacks them, and leave out settings that the objective ignores.

    Raises:
        InputError: a setting is out of range, or nothing is tuned.
    """
    space = Space.of(_built_in(args, spec)) if args.space is None else Space.read(args.space)
    if "epochs" not in space.domains:
        epochs = EPOCHS if args.epochs is None else args.epochs
        space = Space({**space.domains, **Space.of({"epochs": epochs}).domains})
    elif args.space is not None and args.epochs is not None:
        why = f"--epochs {args.epochs} and the epochs of space {str(args.space)!r} both count"
        raise InputError(f"{why}; give one of them")
    if args.objective == "holdout" and (idle := [name for name in PLANNING if name in space.domains]):
        print(f"{', '.join(idle)} left out: settings of the planner count with --objective reward", file=sys.stderr)
        space = Space({name: domain for name, domain in space.domains.items() if name not in PLANNING})
    if not space.tuned:
        raise InputError("the space has one value of everything; give a list or a range of what is to be tuned")
    return space


def _check_planning(study: StudySettings, spec: EnvSpec) -> None:
    """Refuse planners that do not fit, settings that none of them has, and more elites than plans."""
    own = default_planner(spec.action_space, spec.name)
    planners = [values.get("planner", own) for values in study.space.ends("planner")]
    known = {field for name in planners for field in PLANNERS[name].settings_type.__dataclass_fields__}
    for name in planners:
        PLANNERS[name].check_space(spec.action_space)
    for name in PLANNING:
        if name in study.space.domains and name not in known | {"planner"}:
            raise InputError(f"{', '.join(planners)} has no {name}; leave it out of the space, or add another planner")
    for values in study.space.ends("planner", "plans", "elites"):
        study.planning(values)


def checked_settings(args: argparse.Namespace) -> StudySettings:
    """Settings from the command line.

    Raises:
        InputError: one of them is out of range.
    """
    spec = check_options(args)
    check_choice("objective", args.objective, OBJECTIVES)
    check_at_least("trials", args.trials, 1, most=10_000)
    reward = args.objective == "reward"
    if args.episodes is not None and not reward:
        raise InputError("--episodes counts with --objective reward only; leave it out, or add that")
    if args.epochs is not None:
        check_at_least("epochs", args.epochs, 1, most=10**6)
    members = (MEMBERS if reward else 1) if args.members is None else args.members
    episodes = (REWARD_EPISODES if args.episodes is None else args.episodes) if reward else 0
    check_at_least("members", members, 1, most=1000)
    check_at_least("episodes", episodes, int(reward), most=10**5)
    space = _read_space(args, spec)
    data = args.env, args.regime, args.agents, args.holdout, args.seed
    study = StudySettings(*data, args.objective, members, episodes, space)
    if reward:
        _check_planning(study, spec)
    return study


def first_values(study: StudySettings) -> Values:
    """The settings that the environment comes with, to begin with and to compare with."""
    own = study.settings({})
    known = asdict(own.nets) | {"learning_rate": own.train.learning_rate, "epochs": EPOCHS}
    if study.plays:
        known |= {"planner": own.planning.planner, "elites": 10, "iterations": 3} | asdict(own.planning.settings)
    known = {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}
    return {name: known[name] for name in study.space.domains if name in known} | study.space.fixed


def _plan(study: StudySettings, cells: CellStore, journal: Journal) -> Plan:
    from sweeps.tuning.search import plan

    return plan(study, cells, journal, first_values(study))


def _setting(study: StudySettings, values: Values, name: str) -> str:
    """A setting as text; a dash if the trial's planner does not have it."""
    value = values[name]
    if name in PLANNING and name != "planner" and not hasattr(study.planning(values).settings, name):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "x".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def table(study: StudySettings, lines: Sequence[Ranked]) -> str:
    """Lay out the best trials with the settings that were tuned, for a terminal."""
    names = list(study.space.tuned)
    what, digits = ("mean reward", ".1f") if study.plays else ("hold-out error", ".3e")
    rows = []
    for line in lines:
        settings = [_setting(study, line.entry.values, name) for name in names]
        rows.append([str(line.number), f"{line.value:{digits}}", *settings, f"{line.seconds:.1f}"])
    return console.table(["trial", what, *names, "seconds"], rows, left=0)


def _report(study: StudySettings, root: Path, journal: Journal) -> Ranked:
    """Print the table and record the best settings; returns the best trial.

    Raises:
        InputError: every trial diverged.
    """
    finished = journal.finished()
    lines = ranking(study, finished)
    stopped = sum(entry.stopped_at is not None for entry, _ in finished)
    if not lines:
        raise InputError("no trial ended with a finite result; give a space with lower learning rates")
    print(f"\n{study.title}: {len(finished)} trials, {stopped} of them stopped early; the best that ran to the end:\n")
    print(table(study, lines[:SHOWN]))
    print(f"\nbest settings written to {write_best(root, study, lines)}")
    return lines[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status: 0, or 1 if a trial failed for good."""
    args = parser().parse_args(argv)
    if args.print_space:
        check_choice("objective", args.objective, OBJECTIVES)
        space = _built_in(args, get(args.env))
        Space.of(space) if args.space is None else Space.read(args.space)  # refuses what cannot be searched
        print(as_yaml(space) if args.space is None else args.space.read_text(encoding="utf-8"), end="")
        return 0
    study, cells = checked_settings(args), CellStore(args.store)
    journal = Journal(study, cells)
    journal.finished()  # reads the records of all trials
    check_files([study.job(values) for values in ({}, *(entry.values for entry in journal.entries))], cells)
    with driving(args, study.suite, study.id, journal.request) as mirror:
        cells.ask(journal.request())
        job, done = study.job(first_values(study)), len(journal.finished())
        failures = run_missing(args, study, job, cells, done, args.trials, lambda: _plan(study, cells, journal))
        finished = len(journal.finished())
        if failures or finished < args.trials:
            return incomplete(mirror, journal.request(), failures, finished, args.trials)
        best = _report(study, args.store, journal)
        tags = {"persim.best_settings": canonical_json(best.entry.values)}
        mirror.end(journal.request(), metrics={"best_value": [(0, best.value)]}, tags=tags)
        close(mirror, journal.request())
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
