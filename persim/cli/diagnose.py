"""``python -m persim diagnose``: was the rank of a simulator too small, or too large?"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from persim.cli.collect import recorded
from persim.cli.training import Commands
from persim.data import Trajectories, check_regime
from persim.envs import EnvSpec, get
from persim.errors import InputError
from persim.evaluation.diagnosis import Diagnosis, diagnose
from persim.evaluation.factors import agent_factors, covariate_r2, tsne
from persim.evaluation.pictures import diagnosis_figure, with_unit
from persim.learning.model import LowRankDynamics
from persim.storage import store

NEEDED = ("env", "regime", "agents", "seed")  # of what a model says about itself, to record its data once more


def add(commands: Commands) -> None:
    """Adds the command."""
    p = commands.add_parser(
        "diagnose",
        help="what each rank-one term of a simulator carries: was the rank too small, or too large?",
        description="Prints the energy of each rank-one term of a trained simulator: the mean square of what it adds\n"
        "to the predicted state differences of every agent, in every recorded state, under every recorded\n"
        "action; every state dimension counts the same. Terms may overlap, cancel, or share the work of\n"
        "one, so beside them stand the directions: what k terms could carry at most, however it is split\n"
        "(singular values). A rank was large enough if the last directions carry next to nothing beside\n"
        "the model's own error. Then it prints how well the agents' factors give their covariates: R2 of\n"
        "a cross-validated regression. docs/diagnose.md says more.",
        epilog="examples:\n"
        "  python -m persim predict --env mountaincar --save-model car.safetensors\n"
        "  python -m persim diagnose --model car.safetensors --plot car.png\n"
        "  python -m persim diagnose --model mine.safetensors --data mine-data.safetensors",
    )
    p.add_argument("--model", type=Path, required=True, metavar="PATH",
                   help="the simulator, as predict --save-model and the sweeps write it")  # fmt: skip
    p.add_argument("--data", type=Path, metavar="PATH", help="what it was trained on, as collect writes it\n"
                   "(recorded once more: a model knows its agents, regime and seed)")  # fmt: skip
    p.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it, with a map of the agents by their factors")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table, the verdict and the R2 of the covariates."""
    if args.plot and args.plot.suffix != ".png":
        raise InputError(f"plot {str(args.plot)!r} is no PNG file; give a name that ends in .png")
    model, about = LowRankDynamics.load(args.model)
    data = _data(args, about)
    spec = get(data.env)
    found = diagnose(model, data)
    if args.plot:
        store.prepare_folder(args.plot.resolve().parent, "folder of --plot")
    title = f"{spec.title}, {data.regime or 'unknown'} data, {data.n_agents} agents"
    print(f"\n{_table(title, found)}\n\n{verdict(found)}")
    _print_r2(model, data, spec)
    if args.plot:
        _draw(args.plot, title, model, data, spec, found)
        print(f"drawn in {args.plot}")
    return 0


def _data(args: argparse.Namespace, about: dict[str, Any]) -> Trajectories:
    """The file of ``--data``, or the data of a model recorded once more.

    Raises:
        InputError: neither is possible, or the file is of another environment.
    """
    if args.data is None:
        if not set(NEEDED) <= set(about):
            raise InputError(f"model {str(args.model)!r} does not say what it was trained on; give that as --data")
        spec = get(about["env"])
        return recorded(spec, check_regime(about["regime"], spec), int(about["agents"]), int(about["seed"]))
    data = Trajectories.load(args.data)
    if about.get("env", data.env) != data.env:
        raise InputError(f"data {str(args.data)!r} are of {data.env!r}, the model of {about['env']!r}; give its own")
    return data


def _table(title: str, found: Diagnosis) -> str:
    """A line per rank: the term of that place, and the direction."""
    members, rank = found.terms.shape
    lines = [
        f"{title}: rank {rank}" + (f", mean over {members} members" if members > 1 else ""),
        "energies, in % of the mean square of the recorded state differences",
        f"{'k':>4}{'k-th term':>14}{'k-th direction':>18}{'beyond k directions':>23}",
    ]
    for k, row in enumerate(zip(found.terms.mean(0), found.directions.mean(0), found.lost, strict=True)):
        lines.append(f"{k + 1:>4}" + "".join(f"{_percent(x):>{w}}" for x, w in zip(row, (14, 18, 23), strict=True)))
    return "\n".join([*lines, f"one-step error of the model: {_percent(found.error.mean())}"])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share >= 1e-12 else "0 %"


def verdict(found: Diagnosis) -> str:
    """What the spectrum says about the rank, in words."""
    rank, needed, error = found.terms.shape[1], found.needed, _percent(found.error.mean())
    beyond, compare = _percent(found.lost[needed - 1]), "sweeps/rank_cv.py compares ranks on held-out data."
    if needed < rank:
        return (
            f"The rank is large enough: {needed} of {rank} directions carry all that matters, the others together "
            f"{beyond},\nless than a tenth of the error. A lower rank, {needed} at least, may do as well;\n{compare}"
        )
    last = _percent(found.directions.mean(0)[-1])
    return (
        f"The rank is not too large: its last direction carries {last}, more than a tenth of the error, {error}.\n"
        "It may be too small: if that error is more than the noise of your data, try higher ranks until the last\n"
        f"directions carry nothing; {compare}"
    )


def _print_r2(model: LowRankDynamics, data: Trajectories, spec: EnvSpec) -> None:
    if data.covariates is None:
        print("the data do not have the agents' covariates, to compare their factors with")
        return
    for covariate, r2 in zip(spec.covariates, covariate_r2(agent_factors(model), data.covariates), strict=True):
        print(f"the agents' factors give {with_unit(covariate)} with R2 {r2:.4f}")


def _draw(path: Path, title: str, model: LowRankDynamics, data: Trajectories, spec: EnvSpec, found: Diagnosis) -> None:
    """Writes the picture; the map is of the first member."""
    maps = [] if data.covariates is None else [*zip(map(with_unit, spec.covariates), data.covariates.T, strict=True)]
    points = tsne(agent_factors(model)[0])
    figure = diagnosis_figure(f"{title}: rank {found.terms.shape[1]}", found, points, maps)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png", metadata={"Software": None})
    store.write_atomic(path, picture.getvalue())
