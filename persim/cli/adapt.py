"""The command ``persim adapt``: take new agents into a simulator, from little data or from their covariates alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from persim import console
from persim.cli.own_data import MODEL, add_model, check_output
from persim.cli.training import Commands

SHOWN = 30  # agents


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "adapt",
        help="take new agents into a simulator of your own table",
        description="Learn the own weights of new agents, in closed form; all else stays as it is. Agents that the\n"
        "simulator knows get new weights from these rows alone. A file with nothing but ids and static columns\n"
        "will do, too. For each agent the command says how many steps its rows have, and how unsure its\n"
        "weights still are: 100 % says as unsure as before any data. See docs/own-data.md.",
        epilog="example:\n  persim adapt glucose.safetensors new-patient.csv --out with-new.safetensors",
    )
    add_model(p)
    p.add_argument("data", type=Path, metavar="NEW", help="rows of the new agents, in the form of the training data")
    p.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors", help="where to write the simulator")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Adapt, report and write."""
    from persim.tables.adapting import known_steps, read_new, still_open
    from persim.tables.simulator import load

    simulator = load(args.model)
    table = read_new(args.data, simulator.schema)
    adapted = simulator.adapt(table)
    check_output(args.out, "--out", MODEL)
    steps, unsure = known_steps(simulator, table), still_open(adapted, table.names)
    rows = [
        [name, f"{count:,}", f"{100 * share:.0f} %", "new weights" if name in simulator.names else "new"]
        for name, count, share in zip(table.names, steps, unsure, strict=True)
    ]
    print(console.table(["agent", "steps", "still unsure", ""], rows[:SHOWN]))
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN} more")
    adapted.save(args.out)
    print(f"saved to {args.out}, with {len(adapted.names)} agents")
    return 0
