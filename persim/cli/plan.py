"""The command ``persim plan``: which actions serve an agent best, given the inputs that are known ahead?"""

from __future__ import annotations

import argparse
from pathlib import Path

from persim.cli.own_data import add_model, add_path_options, check_output, deliver, named_function, read_columns
from persim.cli.training import Commands
from persim.errors import InputError, check_at_least

RECORDED = "recorded"


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "plan",
        help="plan the actions of an agent of your own table",
        description="Search for the actions of the next steps that earn most on the simulator of one agent. Only\n"
        "actions are planned; known inputs are given. Actions stay within what was recorded of the agent,\n"
        "unless --bound says otherwise. The reward is a function of yours, which gets the columns after each\n"
        "step as arrays (row.cgm), or what the recorded reward column teaches. See docs/own-data.md.",
        epilog="examples:\n"
        "  persim plan glucose.safetensors --agent adult03 --steps 24 --known meals.csv --reward goals:in_range\n"
        "  persim plan house.safetensors --agent h7 --steps 48 --reward recorded --bound heating=0:2",
    )
    add_model(p)
    p.add_argument("--steps", type=int, required=True, help="how many to plan")
    p.add_argument("--reward", required=True, metavar="MODULE:FUNCTION|recorded",
                   help="a function in a Python module that can be imported from this\n"
                   "folder, which runs it, or recorded")  # fmt: skip
    p.add_argument("--known", type=Path, metavar="FILE", help="known inputs of the next steps, a row for each")
    p.add_argument("--bound", action="append", default=[], metavar="ACTION=LOW:HIGH",
                   help="lowest and highest value of an action; may be given for several")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="seed of the search (0)")
    add_path_options(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Plan, print, write and draw."""
    from persim.tables.simulator import load

    simulator = load(args.model)
    schema = simulator.schema
    check_at_least("seed", args.seed, 0)
    bounds = dict(_bound(text) for text in args.bound)
    reward = None if args.reward == RECORDED else named_function(args.reward)
    known = read_columns(args.known, [("known", name) for name in schema.known])
    frame = simulator.plan(
        args.agent, args.steps, reward=reward, start=args.start, known=known, bounds=bounds, band=args.band,
        seed=args.seed,
    )  # fmt: skip
    check_output(args.out, "--out", ".csv")
    check_output(args.plot, "--plot", ".png")
    if reward is None and simulator.rewards is not None:
        explained = simulator.rewards.explained
        print(f"the reward learnt from the table explains {explained:.0%} of the variance of the recorded ones\n")
    deliver(args, f"{schema.agent} {args.agent}: planned", schema, frame, simulator.start(args.agent, args.start))
    return 0


def _bound(text: str) -> tuple[str, tuple[float, float]]:
    name, _, limits = text.rpartition("=")
    low, _, high = limits.partition(":")
    try:
        return name, (float(low), float(high))
    except ValueError as error:
        raise InputError(f"--bound {text!r} is no bound; give ACTION=LOW:HIGH, such as insulin=0:2") from error
