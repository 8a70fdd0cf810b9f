"""The command ``persim diagnose``: was the rank of a simulator too small or too large?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from persim import console
from persim.cli.collect import recorded
from persim.cli.training import Commands
from persim.data import Trajectories, check_regime
from persim.envs import get
from persim.envs.registry import recorded as recorded_env
from persim.errors import InputError
from persim.evaluation.diagnosis import Diagnosis, diagnose
from persim.evaluation.factors import agent_factors, covariate_r2, tsne
from persim.evaluation.pictures import diagnosis_figure, named, save_png
from persim.learning.model import LowRankDynamics
from persim.storage import store

NEEDED = ("env", "regime", "agents", "seed")  # what a model's file has to say for its data to be recorded again


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "diagnose",
        help="tell whether the rank of a simulator was too small or too large",
        description="Print the energy of each rank-one term of a trained simulator: the mean square of its part of\n"
        "the predicted state differences, over every agent in every recorded state under every recorded\n"
        "action, with equal weight for every state dimension. Terms may overlap, cancel or share the work\n"
        "of one, so the table also has the directions (singular values), which do not depend on the split:\n"
        "no k terms can carry more than the first k directions. The rank was large enough if the last\n"
        "directions are negligible beside the model's own error. The R2 of a cross-validated regression\n"
        "says how well the agents' factors predict their covariates. See docs/diagnose.md.",
        epilog="examples:\n"
        "  persim predict --env mountaincar --save-model car.safetensors\n"
        "  persim diagnose --model car.safetensors --plot car.png\n"
        "  persim diagnose --model mine.safetensors --data mine-data.safetensors",
    )
    p.add_argument("--model", type=Path, required=True, metavar="PATH",
                   help="the simulator, as written by predict --save-model and the sweeps")  # fmt: skip
    p.add_argument("--data", type=Path, metavar="PATH", help="its training data, as written by collect (recorded "
                   "again by the agents, regime and seed in the model's file)")  # fmt: skip
    p.add_argument("--env", help="the environment of the files, if it is not built in: module:ATTRIBUTE of its EnvSpec")
    p.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the energies and maps of the agents' factors")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table, the verdict and the R2 of the covariates, and draw them."""
    if args.plot and args.plot.suffix != ".png":
        raise InputError(f"plot {str(args.plot)!r} is not a PNG file; give a name that ends in .png")
    if args.env is not None:
        get(args.env)
    model, about = LowRankDynamics.load(args.model)
    data = _data(args, about)
    spec = recorded_env(data.env)
    if args.plot:
        store.prepare_files("--plot", args.plot)
    found = diagnose(model, data)
    title = f"{spec.title}, {data.regime or 'unknown'} data, {data.n_agents} agents"
    print(f"\n{_table(title, found)}\n\n{verdict(found)}")
    factors, values = agent_factors(model), data.covariates
    labels = [named(covariate.name, covariate.unit) for covariate in spec.covariates]
    if values is None:
        print("the data have no covariates of the agents to compare the agents' factors with")
    else:
        for label, r2 in zip(labels, covariate_r2(factors, values), strict=True):
            print(f"the agents' factors predict {label} with R2 {r2:.4f}")
    if args.plot:
        maps = [] if values is None else [*zip(labels, values.T, strict=True)]
        heading = f"{title}: rank {found.terms.shape[1]}"
        save_png(diagnosis_figure(heading, found, tsne(factors[0]), maps), args.plot)  # the map of the first member
        print(f"picture saved to {args.plot}")
    return 0


def _data(args: argparse.Namespace, about: dict[str, Any]) -> Trajectories:
    """Read the file of ``--data``, or record the training data of the model again.

    Raises:
        InputError: neither is possible, or the file is of another environment.
    """
    if args.data is None:
        if not set(NEEDED) <= set(about):
            raise InputError(f"model {str(args.model)!r} does not say what it was trained on; give its data as --data")
        spec = recorded_env(about["env"])
        return recorded(spec, check_regime(about["regime"], spec), int(about["agents"]), int(about["seed"]))
    data = Trajectories.load(args.data)
    if about.get("env", data.env) != data.env:
        raise InputError(
            f"data {str(args.data)!r} are of {data.env!r}, the model of {about['env']!r}; give the model's data"
        )
    return data


def _table(title: str, found: Diagnosis) -> str:
    """Lay out the energies of the k-th term, of the k-th direction and beyond k directions, a line per k."""
    members, rank = found.terms.shape
    energies = zip(found.terms.mean(0), found.directions.mean(0), found.lost, strict=True)
    rows = [[str(k), *map(_percent, row)] for k, row in enumerate(energies, start=1)]
    return (
        f"{title}: rank {rank}" + (f", mean over {members} members" if members > 1 else "") + "\n"
        "energies, in % of the mean square of the recorded state differences\n"
        f"{console.table(['k', 'k-th term', 'k-th direction', 'beyond k directions'], rows, left=0)}\n"
        f"one-step error of the model: {_percent(found.error.mean())}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share >= 1e-12 else "0 %"


def verdict(found: Diagnosis) -> str:
    """Say what the spectrum means for the choice of the rank."""
    rank, needed, error = found.terms.shape[1], found.needed, _percent(found.error.mean())
    beyond, compare = _percent(found.lost[needed - 1]), "sweeps/rank_cv.py compares ranks on held-out data."
    if needed < rank:
        return (
            f"The rank is large enough: {needed} of {rank} directions carry all that matters; the others together "
            f"carry {beyond},\nless than a tenth of the error. A lower rank of at least {needed} may do as well;\n"
            f"{compare}"
        )
    last = _percent(found.directions.mean(0)[-1])
    return (
        f"The rank is not too large: its last direction carries {last}, more than a tenth of the error, {error}.\n"
        "It may be too small: if that error is more than the noise of your data, try higher ranks until the last\n"
        f"directions carry nothing; {compare}"
    )
