"""Rows of the paper's figures, from the models that sweeps/benchmark.py has left in its store.

    python sweeps/figures.py
    python sweeps/figures.py --store s3://bucket/persim --out results --pictures pictures

Writes OUT/factors.parquet, where each agent is on a map (t-SNE) of the factors that PerSim has learned, with its
covariates and how well the factors give them (Figures 1 and 5), and OUT/rollouts.parquet, true and predicted states
over 50 steps, PerSim beside both CaDMs (Figures 2 and 4). What the store lacks is said and left out.
The same store gives the same files, byte for byte.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from baselines.registry import METHODS
from persim import console
from persim.envs import get
from persim.errors import InputError, check_at_least, check_seed
from persim.storage import store
from sweeps.reporting.draw import save_png
from sweeps.reporting.frames import AGENTS, StoredModel, factor_frame, rollout_frame, stored_models
from sweeps.reporting.paper_figures import curves_figure, frames_figure, latent_figure

COMPARED = ("persim", "cadm", "cadm-pets")


def parser() -> console.Parser:
    """The command line."""
    p = console.Parser(prog="figures.py", description=__doc__)
    p.add_argument("--store", type=console.store, action="append", help="of the benchmark; may be given again (runs)")
    p.add_argument("--out", type=Path, default=Path("results"), help="folder of the rows (results)")
    p.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw them too, as PNG files in this folder")
    p.add_argument("--agents", type=int, default=500, metavar="N", help="number of agents of the models (500)")
    p.add_argument("--seed", type=int, default=0, help="of the training; a benchmark's first trial has its --seed (0)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Write rows and pictures; returns the exit status."""
    args = parser().parse_args(argv)
    check_at_least("agents", args.agents, 1)
    check_seed(args.seed)
    roots = args.store or [Path("runs")]
    for root in roots:
        store.reach(root)
    models = stored_models(roots, COMPARED, args.agents, args.seed)
    ours = [model for model in models if model.job.cell.method == "persim"]
    if not ours:
        raise InputError(
            f"store {', '.join(map(str, roots))} has no trained PerSim of N={args.agents} and seed {args.seed}; "
            "run sweeps/benchmark.py --suite prediction first, or give another --store"
        )
    wanted = [(args.out, "folder --out")] + ([(args.pictures, "folder --pictures")] if args.pictures else [])
    store.prepare_folders(*wanted)
    factors = factor_frame(ours)
    _write(args.out / "factors.parquet", factors)
    where = {(model.job.cell.env, model.job.cell.regime) for model in ours if model.job.cell.env in AGENTS}
    shown = [model for model in models if (model.job.cell.env, model.job.cell.regime) in where]
    rollouts = rollout_frame(shown) if shown else None
    if rollouts is not None:
        _write(args.out / "rollouts.parquet", rollouts)
        _report_missing(shown)
    if args.pictures:
        for name, draw in _pictures(factors, rollouts):
            print(save_png(args.pictures / f"{name}.png", draw, dpi=110))
    return 0


def _report_missing(models: Sequence[StoredModel]) -> None:
    """Name the methods that are to stand beside PerSim and are not in the store."""
    there = {(model.job.cell.env, model.job.cell.regime, model.job.cell.method) for model in models}
    for env, regime in dict.fromkeys((model.job.cell.env, model.job.cell.regime) for model in models):
        lacking = [METHODS[method].title for method in COMPARED if (env, regime, method) not in there]
        if lacking:
            print(f"{get(env).title}, {regime} data: no model of {', '.join(lacking)}; left out", file=sys.stderr)


def _pictures(factors: pd.DataFrame, rollouts: pd.DataFrame | None) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Every picture, as a name and what draws it."""
    yield "factors", partial(latent_figure, factors)
    if rollouts is None:
        return
    for (env, regime), rows in rollouts.groupby(["env", "regime"], sort=False):
        yield f"rollouts-{env}-{regime}", partial(curves_figure, rows)
        for agent, own in rows.groupby("agent", sort=False):
            yield f"frames-{env}-{regime}-agent{agent}", partial(frames_figure, own)


def _write(path: Path, frame: pd.DataFrame) -> None:
    store.write_atomic(path, frame.to_parquet(index=False))
    print(f"{path}: {len(frame)} rows")


if __name__ == "__main__":
    sys.exit(console.run(main))
