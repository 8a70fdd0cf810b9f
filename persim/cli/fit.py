"""The command ``persim fit``: a table in, a personalised simulator of its agents out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from persim import console
from persim.cli.own_data import MODEL, check_output
from persim.cli.training import Commands
from persim.errors import InputError

if TYPE_CHECKING:
    from persim.tables.simulator import Simulator

SETTINGS = ("rank", "members", "steps", "terms", "holdout", "horizon", "seed")


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "fit",
        help="fit a personalised simulator to your own table",
        description="Fit a simulator of all agents of a table with one row per agent and time. How long to train and\n"
        "which terms to use is chosen on the last part of each trajectory, on which bands are calibrated, too;\n"
        "then all rows are trained on. --test keeps the last share of each trajectory out of all of that and\n"
        "compares the simulator there with what anybody would try first. See docs/own-data.md.",
        epilog="examples:\n"
        "  persim fit glucose.csv --schema glucose.yaml --out glucose.safetensors\n"
        "  persim fit glucose.csv --schema glucose.yaml --rank cv --test 0.3",
    )
    p.add_argument("data", type=Path, metavar="DATA", help="the table (.csv, .tsv, either .gz, or .parquet)")
    p.add_argument("--schema", type=Path, required=True, metavar="FILE.yaml", help="the roles of its columns")
    p.add_argument("--out", type=Path, default=Path("simulator.safetensors"), metavar="FILE.safetensors",
                   help="where to write the simulator (simulator.safetensors)")  # fmt: skip
    p.add_argument("--rank", type=_rank, metavar="N|cv", help="number of products, or cv to choose it (10)")
    p.add_argument("--members", type=int, help="members of the ensemble (5)")
    p.add_argument("--steps", type=int, help="optimiser steps (chosen)")
    p.add_argument("--terms", help="auto, both, product or linear: what each agent has weights of (auto)")
    p.add_argument("--holdout", type=float, metavar="SHARE", help="of each trajectory, at its end, to choose on (0.2)")
    p.add_argument("--horizon", type=int, help="steps that choices look ahead (50, or half of what is held out)")
    p.add_argument("--seed", type=int, help="seed of everything random (0)")
    p.add_argument("--test", type=float, metavar="SHARE", help="keep out the last share and compare there")
    p.add_argument("--horizons", type=console.numbers, metavar="H,...", help="of that comparison (1,10,50 as they fit)")
    p.set_defaults(run=run)


def _rank(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def run(args: argparse.Namespace) -> int:
    """Fit, compare if asked to, and write the simulator."""
    from persim.tables.comparison import check_horizons, fitting_horizons
    from persim.tables.fitting import FitSettings, fit_with
    from persim.tables.table import read_table

    if args.horizons is not None and args.test is None:
        raise InputError("--horizons are of the comparison on --test; give that, too, or leave them out")
    settings = FitSettings(**{name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None})
    table = read_table(args.data, args.schema)
    train, test, horizons = table, None, args.horizons
    if args.test is not None:
        train, test = table.split_last(args.test)
        horizons = check_horizons(test, args.horizons or fitting_horizons(test))
    check_output(args.out, "--out", MODEL)
    print(f"{args.data.name}: {train.describe()}" + (f"; {args.test:.0%} kept out" if test is not None else ""))
    with _Bar() as bar:
        simulator = fit_with(train, settings, bar.show)
    simulator.save(args.out)
    print(f"\n{chosen(simulator)}\n")
    if test is not None:
        print(f"{simulator.evaluate(test, horizons)}\n")
    print(f"saved to {args.out}")
    return 0


def chosen(simulator: Simulator) -> str:
    """Say what was tried on held-out time, with its error, and what was chosen."""
    about = simulator.about
    last = f"rank {about['rank']}, {about['steps']} steps, terms: {about['terms']}"
    if not about["tried"]:
        return (
            f"nothing could be held out, so that nothing was chosen and there are no bands: {last}.\n"
            "Compare it on other data before you trust it (persim compare)."
        )
    best = min(about["tried"], key=lambda one: one["error"])
    rows = [
        [str(one["rank"]), str(one["steps"]), one["terms"], f"{one['error']:.4f}" + (" *" if one is best else "  ")]
        for one in about["tried"]
    ]
    return (
        "tried on the last part of each trajectory; errors are RMSEs, in standard deviations of the states\n"
        f"{console.table(['rank', 'steps', 'terms', 'error  '], rows, left=0)}\n"
        f"chosen: {last} ({about['seconds']:.0f} s in all)"
    )


class _Bar:
    """Shows the stage of a fit and how much of it is done."""

    def __init__(self) -> None:
        self._bar = tqdm(total=100, unit="%", dynamic_ncols=True, leave=False, bar_format="{desc}: {percentage:3.0f} % "
                         "|{bar}| {elapsed}")  # fmt: skip

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, stage: str, share: float) -> None:
        """Show a stage and the share of it that is done."""
        self._bar.set_description_str(stage, refresh=False)
        self._bar.n = round(100 * share)
        self._bar.refresh()
