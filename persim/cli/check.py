"""The command ``persim check``: what could a simulator learn from a table?"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from persim import console
from persim.cli.training import Commands

if TYPE_CHECKING:
    from persim.tables.check import Check, Column

SHOWN = 8  # agents in the second table


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "check",
        help="tell what a simulator could learn from your own table, before one is fitted",
        description="Read a table with one row per agent and time, and report agents, time span, gaps, missing\n"
        "values, actions that never vary, inputs that follow from the states or from each other, what the\n"
        "schema leaves out, and whether there is enough of each agent. The last line is the verdict; the\n"
        "exit status is 2 where no simulator can be fitted. See docs/own-data.md.",
        epilog="example:\n  persim check glucose.csv --schema glucose.yaml",
    )
    p.add_argument("data", type=Path, metavar="DATA", help="the table (.csv, .tsv, either .gz, or .parquet)")
    p.add_argument("--schema", type=Path, required=True, metavar="FILE.yaml", help="the roles of its columns")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report and the verdict."""
    from persim.tables.check import check
    from persim.tables.table import read_table

    found = check(read_table(args.data, args.schema, new=True), args.data.name)
    print(report(found, args.data.name))
    return 2 if found.error else 0


def report(found: Check, source: str) -> str:
    """Lay out what was found in a table: its size, its columns, its shortest agents, findings and the verdict."""
    table, counts = found.table, found.table.counts
    first, last = (_moment(value, table.stamps) for value in (table.time.min(), table.time.max()))
    parts = [
        f"{source}: {table.describe()}\n"
        f"{table.schema.time}: {first} to {last}\n"
        f"reading: {counts['rows']:,} rows, {counts['moved']:,} of them moved onto the grid and "
        f"{counts['merged']:,} merged with another;\n"
        f"{counts['inserted']:,} rows inserted as missing, {counts['filled']:,} missing inputs filled",
        _columns(found),
        "still: agents for which the column never varies; by states, by inputs: the share of an input's\n"
        "variance within agents that a linear fit to the states seen, or to the other inputs, explains",
        _agents(found),
        "\n".join(textwrap.fill(f"* {finding}", 100, subsequent_indent="  ") for finding in found.findings),
        f"verdict: {found.verdict}",
    ]
    return "\n\n".join(filter(None, parts))


def _columns(found: Check) -> str:
    def shown(one: Column, value: float) -> str:
        if np.isnan(value):
            return "-"
        discrete = found.table.schema.discrete and one.role == "action"
        return found.table.labels[int(value)] if discrete else f"{value:.4g}"

    heads = ["column", "role", "missing", "least", "median", "greatest", "still", "by states", "by inputs"]
    rows = [
        [one.name, one.role, _percent(one.missing), *(shown(one, value) for value in one.spread),
         str(len(one.still)), _percent(one.by_state), _percent(one.by_inputs)]
        for one in found.columns
    ]  # fmt: skip
    return console.table(heads, rows, left=2)


def _agents(found: Check) -> str:
    names, order = found.table.names, np.argsort(found.steps, kind="stable")[:SHOWN]
    columns = (found.rows, found.steps, found.gaps, found.longest)
    rows = [[names[agent], *(f"{column[agent]:,}" for column in columns)] for agent in order]
    of = f"the {len(order)} of {len(names)} agents with the fewest known steps" if len(names) > SHOWN else "agents"
    return (
        f"known steps per agent: {found.steps.min():,} to {found.steps.max():,}, median {np.median(found.steps):,.0f};"
        f" a linear model of one agent has {found.coefficients} coefficients for each state\n"
        f"{of}:\n{console.table(['agent', 'rows', 'known steps', 'gaps', 'longest gap'], rows)}"
    )


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


def _moment(time: float, stamps: bool) -> str:
    return str(np.datetime64(round(time * 1e3), "ms").astype("datetime64[s]")) if stamps else f"{time:g}"
