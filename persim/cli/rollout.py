"""The command ``persim rollout``: what happens to an agent if these inputs are given?"""

from __future__ import annotations

import argparse
from pathlib import Path

from persim.cli.own_data import add_model, add_path_options, check_output, deliver, read_columns
from persim.cli.training import Commands
from persim.errors import InputError


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "rollout",
        help="predict what happens to an agent of your own table under given inputs",
        description="Predict the states of one agent, open loop, if its actions and known inputs are those of a file\n"
        "with a row for each step; the first row is of the present step. See docs/own-data.md.",
        epilog="example:\n  persim rollout glucose.safetensors --agent adult03 --inputs day.csv --band 0.9",
    )
    add_model(p)
    p.add_argument("--inputs", type=Path, metavar="FILE", help="actions and known inputs of the next steps")
    p.add_argument("--steps", type=int, help="how many (all rows of --inputs)")
    add_path_options(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict, print, write and draw."""
    from persim.tables.simulator import load

    simulator = load(args.model)
    schema = simulator.schema
    wanted = [*(("action", name) for name in schema.action), *(("known", name) for name in schema.known)]
    inputs = read_columns(args.inputs, wanted)
    if inputs is None and wanted:
        raise InputError(f"--inputs is missing; give a file with the columns {', '.join(schema.inputs)}")
    if inputs is None and args.steps is None:
        raise InputError("--steps is missing; the schema has no inputs, so say how many steps to predict")
    frame = simulator.rollout(args.agent, inputs, start=args.start, steps=args.steps, band=args.band)
    check_output(args.out, "--out", ".csv")
    check_output(args.plot, "--plot", ".png")
    deliver(args, f"{schema.agent} {args.agent}: predicted", schema, frame, simulator.start(args.agent, args.start))
    return 0
