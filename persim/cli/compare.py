"""The command ``persim compare``: does a simulator predict better than what anybody would try first?"""

from __future__ import annotations

import argparse
from pathlib import Path

from persim import console
from persim.cli.own_data import add_model, check_output, write_csv
from persim.cli.training import Commands


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "compare",
        help="compare a simulator of your own table with simple models on rows it has not seen",
        description="Predict open loop and compare with the last value, linear ARX models of each agent and of all,\n"
        "and one net for all. DATA are rows that the simulator was not fitted to, or with --last the whole\n"
        "table, of which the last share was kept out. The last line says whether the simulator pays.\n"
        "See docs/own-data.md.",
        epilog="examples:\n"
        "  persim compare glucose.safetensors next-week.csv --horizons 8,24,50\n"
        "  persim compare glucose.safetensors glucose.csv --last 0.3 --out errors.csv",
    )
    add_model(p)
    p.add_argument("data", type=Path, metavar="DATA", help="the table (.csv, .tsv, either .gz, or .parquet)")
    p.add_argument(
        "--last", type=float, metavar="SHARE", help="only the last share of each trajectory is to be predicted"
    )
    p.add_argument(
        "--horizons", type=console.numbers, metavar="H,...", help="steps to look ahead (1,10,50 as they fit)"
    )
    p.add_argument("--out", type=Path, metavar="FILE.csv", help="write the error of each method, agent and state here")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    from persim.tables.comparison import fitting_horizons
    from persim.tables.simulator import load
    from persim.tables.table import read_table

    simulator = load(args.model)
    test = read_table(args.data, simulator.schema, new=True)
    if args.last is not None:
        _, test = test.split_last(args.last)
    comparison = simulator.evaluate(test, args.horizons or fitting_horizons(test))
    check_output(args.out, "--out", ".csv")
    print(comparison)
    write_csv(comparison.frame(), args.out)
    return 0
