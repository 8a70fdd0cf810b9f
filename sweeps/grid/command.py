"""The command line of the benchmark, and the grid that it asks for."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from baselines.registry import METHODS
from persim import console
from persim.data import REGIMES, check_regime
from persim.data.policies import load_test_policy
from persim.envs import get
from persim.errors import InputError, check_at_least, check_choice
from persim.methods import PRESETS, Options
from persim.methods.tuned import read_rank, tuned_settings
from persim.planning.registry import NAMES
from persim.planning.scoring import PRECISIONS
from sweeps.grid.devices import MOST_CPUS, add_device_options, check_device_options
from sweeps.grid.suites import SUITES, DataKey, Grid, Suite, chosen

STATES = {"default": None, "raw": False, "normalised": True}


def names(text: str) -> tuple[str, ...]:
    """Split ``"a,b"`` into names."""
    return tuple(part.strip() for part in text.split(","))


def parser(about: str) -> console.Parser:
    """The command line; ``about`` is its description."""
    suites = "\n".join(f"  {suite.name:<13} {suite.about}" for suite in SUITES.values())
    presets = (
        "paper, laptop (PerSim as in paper, in HalfCheetah with a fifth of the epochs and half the rounds of planning; "
        "a tenth or less of BCQ and CQL), or quick (a tenth or less)"
    )
    p = console.Parser(
        prog="benchmark.py", description=about, epilog=f"suites:\n{suites}\n\nmethods: {', '.join(METHODS)}"
    )
    p.add_argument("--suite", required=True, help="which part of the paper, see below")
    p.add_argument("--envs", type=names, metavar="LIST", help="of the suite's environments (all), or module:ATTRIBUTE "
                   "of an EnvSpec of yours, whose data are random unless it has policy_agents")  # fmt: skip
    p.add_argument("--regimes", type=names, metavar="LIST", help=f"of {', '.join(REGIMES)} (all of the suite)")
    p.add_argument("--methods", type=names, metavar="LIST", help="of the suite's methods (all)")
    p.add_argument("--agents", type=console.numbers, metavar="LIST", help="numbers of agents N (the suite's)")
    p.add_argument("--trials", type=int, help="repetitions, each with its own data and models (the suite's)")
    p.add_argument("--preset", help=f"budget: {presets} (the suite's)")
    p.add_argument("--episodes", type=int, help="of each test agent and method that plans (the suite's)")
    p.add_argument("--rank", default="paper", help="of PerSim: a number, auto (by sweeps/rank_cv.py), or paper (paper)")
    p.add_argument("--settings", metavar="tuned|PATH", help="of PerSim: what sweeps/tune.py found for these data, or a "
                   "file of its (the paper's)")  # fmt: skip
    p.add_argument("--polish", type=int, metavar="ROUNDS", help="of alternating least squares at the end of PerSim's "
                   "training; 0 is the paper's procedure (3)")  # fmt: skip
    p.add_argument(
        "--planner", help=f"of the methods that plan: {', '.join(NAMES)} (the default of each environment); methods "
        "that are named after a planner keep it")  # fmt: skip
    p.add_argument("--precision", help=f"of the products of PerSim's training and planning: "
                   f"{' or '.join(PRECISIONS)}, half the time of wide nets (float32)")  # fmt: skip
    p.add_argument("--states", default="default", help="of BCQ and CQL: raw, normalised, or default: normalised in "
                   "MountainCar, whose velocities are tiny (default)")  # fmt: skip
    p.add_argument("--seed", type=int, help="trial t uses seed + t (0; of suite planners 101)")
    p.add_argument("--dry-run", action="store_true", help="print the cells, what is done, and how long the rest takes")
    about = "for data, models and results: a folder, or a URL such as s3://BUCKET/PREFIX (runs)"
    p.add_argument("--store", type=console.store, default=Path("runs"), help=about)
    p.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        help="MLflow server or database ($MLFLOW_TRACKING_URI, else mlflow.db in the store, in runs if that is a URL)",
    )
    p.add_argument("--in-process", action="store_true", help="one task after the other in this process, without Ray "
                   "and MLflow; the next command that has MLflow sends the cells")  # fmt: skip
    p.add_argument("--address", help="Ray cluster to run on: auto or host:port (a local Ray)")
    p.add_argument("--cpus", type=int, help="CPUs of the local Ray, one task on each (all)")
    add_device_options(p)
    return p


def grid_of(args: argparse.Namespace, choices: Path) -> Grid:
    """Read what the command line asks for; ``choices`` is the store of rank_cv.py and tune.py.

    Raises:
        InputError: something is unknown or out of range.
    """
    suite = SUITES[check_choice("suite", args.suite, SUITES)]
    data = _data(args, suite)
    envs = tuple(dict.fromkeys(env for env, _ in data))
    preset = check_choice("preset", args.preset or suite.preset, PRESETS)
    states = STATES[check_choice("states", args.states, STATES)]
    if args.precision == PRECISIONS[1] and (short := [env for env in envs if get(env).discrete]):
        raise InputError(
            f"precision {args.precision!r} is for continuous actions, not for {', '.join(short)}; "
            "leave these out by --envs"
        )
    planning = args.precision and {"precision": check_choice("precision", args.precision, PRECISIONS)}
    grid = Grid(
        suite,
        data,
        tuple(dict.fromkeys(args.methods or suite.methods)),
        tuple(dict.fromkeys(args.agents or suite.agents)),
        suite.trials if args.trials is None else args.trials,
        Options(preset, planner=args.planner, planning=planning, normalised=states, polish=args.polish),
        suite.seed if args.seed is None else args.seed,
        suite.episodes if args.episodes is None else args.episodes,
    )
    return replace(grid, special={key: _special(args, grid, key, choices) for key in grid.keys})


def _data(args: argparse.Namespace, suite: Suite) -> tuple[tuple[str, str], ...]:
    """The pairs of environment and regime that are asked for; an environment of the user's has those it can have.

    Raises:
        InputError: one is unknown, or the suite has none of them.
    """
    asked, own = args.envs, [env for env in args.envs or () if ":" in env]
    if own:
        asked = [env for env in asked if env not in own]
        if suite.unseen or suite.plannings:
            raise InputError(f"suite {suite.name} is about the paper's environments, not {own[0]!r}; use another suite")
    envs = chosen("environment", asked, [env for env, _ in suite.data]) if asked or not own else ()
    regimes = chosen("regime", args.regimes, [regime for _, regime in suite.data])
    data = [(env, regime) for env, regime in suite.data if env in envs and regime in regimes]
    for env in dict.fromkeys(own):
        able = [regime for regime in regimes if regime == "random" or get(env).policy_agents]
        data += [(env, regime) for regime in able]
    if not data:
        raise InputError(f"suite {suite.name} has none of these environments under these regimes; see --help")
    return tuple(data)


def _special(args: argparse.Namespace, grid: Grid, key: DataKey, choices: Path) -> Options:
    """The options for some data: with their own rank or tuned settings, if the command asks for these.

    Raises:
        InputError: the rank is not one, was to be chosen and has not been, or nothing was tuned.
    """
    options = grid.options
    if args.settings is not None:
        if not any(METHODS[method].ranked for method in grid.methods):
            able = ", ".join(name for name, entry in METHODS.items() if entry.ranked)
            raise InputError(
                f"settings {args.settings!r} are PerSim's, but no method here has them; add one of: {able}"
            )
        options = replace(options, tuned=tuned_settings(args.settings, choices, *key))
    if args.rank == "paper":
        return options
    if args.rank == "auto":
        return replace(options, rank=read_rank(choices, *key))
    if not args.rank.isascii() or not args.rank.isdigit():
        raise InputError(f"rank {args.rank!r} is not a rank; give a whole number, auto or paper")
    return replace(options, rank=int(args.rank))


def check(args: argparse.Namespace, grid: Grid) -> None:
    """Finds what cannot work before anything is started or written.

    Raises:
        InputError: one line that says what and what to do.
    """
    check_device_options(args)
    if args.cpus is not None:
        check_at_least("cpus", args.cpus, 1, most=MOST_CPUS)
    if str(args.store).startswith("memory://") and not args.dry_run:
        raise InputError(
            f"store {str(args.store)!r} lives in one process, but workers are others; give a folder or s3://"
        )
    if any(METHODS[method].learns for method in grid.methods):
        for env, regime in grid.data:
            check_regime(regime, get(env))
            load_test_policy(env, get(env).action_space)
    grid.jobs()
