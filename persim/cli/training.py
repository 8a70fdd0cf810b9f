"""Options that several commands share: of data, training and model, and the jobs that they make."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from persim import console
from persim.data import REGIMES
from persim.envs import EnvSpec, names
from persim.errors import InputError, check_at_least, check_choice
from persim.learning.ensemble import SPARE_MEMBERS, EnsembleSettings
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.polish import PolishSettings
from persim.learning.presets import EPOCHS, MEMBERS, VARIANTS, preset
from persim.learning.training import TrainSettings
from persim.methods import Options, PerSim, PerSimSettings, PlanningSettings, Weights
from persim.methods.job import Job, predictions
from persim.methods.measure import compute, trained
from persim.methods.tuned import read_rank, tuned_settings
from persim.planning.scoring import MEAN
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell

Commands: TypeAlias = "argparse._SubParsersAction[console.Parser]"


def add_options(p: console.Parser) -> None:
    """Options of the data, the training and the model."""
    p.add_argument("--env", required=True, help=f"{', '.join(names())}, or module:ATTRIBUTE of an EnvSpec of yours")
    p.add_argument("--regime", default="random", help=f"how the data were recorded: {', '.join(REGIMES)} (random)")
    p.add_argument("--agents", type=int, default=500, metavar="N", help="one trajectory each (500)")
    p.add_argument("--rank", help="terms of the product: a number, or auto: chosen by sweeps/rank_cv.py (the paper's)")
    p.add_argument("--settings", metavar="tuned|PATH", help="what sweeps/tune.py found for these data, or one of its\n"
                   "files; other options of training change it (the paper's)")  # fmt: skip
    p.add_argument("--nets", default="paper", help="halfcheetah also has wide, those of the authors' code (paper)")
    p.add_argument("--members", type=int, default=MEMBERS, help=f"models in the ensemble ({MEMBERS})")
    p.add_argument("--candidates", type=int, help=f"models to train, of which the best are kept (+{SPARE_MEMBERS})")
    p.add_argument("--epochs", type=int, help=f"passes over the transitions ({EPOCHS})")
    p.add_argument("--average-last", type=int, metavar="EPOCHS", help="epochs whose final weights are averaged; 0 is\n"
                   f"the paper's procedure ({TrainSettings.average_last})")  # fmt: skip
    p.add_argument("--train-precision", help="of the products while training: float32, or bfloat16, half the time of\n"
                   "wide nets on a CPU with instructions for it (float32)")  # fmt: skip
    p.add_argument("--polish", type=int, metavar="ROUNDS", help="of alternating least squares at the end of training;\n"
                   f"0 is the paper's procedure ({PolishSettings.rounds})")  # fmt: skip
    p.add_argument("--ridge", type=float, help=f"of these least squares, relative ({PolishSettings.ridge:g})")
    p.add_argument("--device", default="cpu", help="cpu, cuda, or auto for a GPU if there is one (cpu)")
    p.add_argument("--model", type=Path, metavar="PATH", help="read this ensemble instead of training one")
    p.add_argument("--store", type=Path, default=Path("runs"), help="folder of data, models and rows (runs)")


def resolve_device(name: str) -> str:
    """Turn ``auto`` into ``cuda`` or ``cpu``, and check anything else.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_choice("device", name, ("cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, but PyTorch finds none; use --device cpu or auto")
    return name


def chosen_persim(args: argparse.Namespace, spec: EnvSpec, planning: PlanningSettings) -> PerSim:
    """PerSim with the settings of the command line.

    Raises:
        InputError: a number out of range, or settings that cannot be read or are not for this environment.
    """
    if args.model is None:
        spec.sample_agents(args.agents, np.random.default_rng(0))  # refuses too few agents before anything is written
    check_scoring(args, args.members)
    nets = preset(spec.name, discrete=spec.discrete, variant=check_choice("nets", args.nets, VARIANTS))
    settings = PerSimSettings.of(spec, planning)
    settings = replace(settings, nets=nets, rank=nets.rank, train=replace(settings.train, batch_size=nets.batch_size))
    if args.settings is not None:
        tuned = tuned_settings(args.settings, args.store, args.env, args.regime, args.agents)
        options = Options(planner=getattr(args, "planner", None))
        settings = settings.with_tuned(spec, options, tuned)
    given = {"epochs": args.epochs, "average_last": args.average_last, "precision": args.train_precision}
    train = replace(settings.train, **{name: value for name, value in given.items() if value is not None})
    size = EnsembleSettings(args.members, args.members + SPARE_MEMBERS if args.candidates is None else args.candidates)
    ends = {"rounds": args.polish, "ridge": args.ridge}
    polish = replace(settings.polish, **{name: value for name, value in ends.items() if value is not None})
    return PerSim(replace(settings, rank=_rank(args, settings.rank), size=size, train=train, polish=polish))


def check_scoring(args: argparse.Namespace, members: int) -> None:
    """Refuses what needs members that may disagree for an ensemble of one.

    Raises:
        InputError: it is asked for.
    """
    rollout, penalty = getattr(args, "rollout", None), getattr(args, "penalty", None)  # predict does not plan
    if members == 1 and (rollout == MEAN or penalty):
        asked = f"--rollout {MEAN}" if rollout == MEAN else f"--penalty {penalty:g}"
        raise InputError(f"{asked} needs at least 2 members, but the ensemble has 1; train more, or leave it out")


def _rank(args: argparse.Namespace, own: int) -> int:
    """The rank of the command line.

    Raises:
        InputError: it is not a number from 1, or none was chosen yet.
    """
    if args.rank is None:
        return own
    if args.rank == "auto":
        return read_rank(args.store, args.env, args.regime, args.agents)
    if not args.rank.isascii() or not args.rank.isdigit():
        raise InputError(f"rank {args.rank!r} is not a rank; give a whole number of at least 1, or auto")
    return check_at_least("rank", int(args.rank), 1)


class GivenModel(PerSim):
    """An ensemble that was read from a file: nothing is left to learn.

    Args:
        model: the ensemble.
        about: what it says it was trained on.
        settings: how it plans.
    """

    def __init__(self, model: LowRankDynamics, about: dict[str, Any], settings: PerSimSettings) -> None:
        super().__init__(settings)
        self.parts, self.data_seed, self._model = 0, int(about["seed"]), model
        self._sha256 = store.content_hash(model.arrays(), about)

    def learns_with(self) -> dict[str, Any]:
        """The hash of the weights."""
        return {"weights": self._sha256}

    def about(self) -> dict[str, Any]:
        """The hash of the weights, and how it plans."""
        return {"planning": self.settings.planning.about(), **self.learns_with()}

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """Give the weights of the file."""
        return Weights(self._model.arrays(), {"model": asdict(self._model.settings), "about": {}})


def read_model(path: Path, spec: EnvSpec, regime: str, device: str) -> tuple[LowRankDynamics, dict[str, Any]]:
    """Read an ensemble from a file, and what it was trained on.

    Raises:
        InputError: it cannot be read, or is for another environment or regime.
    """
    model, about = LowRankDynamics.load(path, device)
    if about.get("env") != spec.name:
        raise InputError(f"model {str(path)!r} is for {about.get('env')!r}, not {spec.name!r}; give one for --env")
    if about.get("regime") != regime:
        raise InputError(f"model {str(path)!r} was trained on {about.get('regime')!r} data; give that --regime")
    if not {"agents", "seed"} <= set(about):
        raise InputError(
            f"model {str(path)!r} does not say on which agents it was trained; save it with agents and seed"
        )
    return model, about


def covariate_text(spec: EnvSpec, row: Any) -> str:
    """Covariates ``[C]`` in words, such as ``force=2, pole_length=0.5``."""
    return ", ".join(f"{name}={value:g}" for name, value in zip(spec.covariate_names, row, strict=True))


class StageBar:
    """A progress bar for each stage of a measurement, as ``persim.methods.measure.Progress`` tells them."""

    def __init__(self) -> None:
        self._stage, self._bar = "", tqdm(disable=True)

    def __call__(self, stage: str, share: float) -> None:
        """Show the share of a stage that is done."""
        console.doing(stage)
        if stage.partition(",")[0] != self._stage:
            self.close()
            self._stage = stage.partition(",")[0]
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
            self._bar = tqdm(total=1.0, desc=stage, dynamic_ncols=True, bar_format=form)
        self._bar.set_description_str(stage, refresh=False)
        self._bar.update(share - self._bar.n)

    def close(self) -> None:
        """End the line of the bar."""
        self._bar.close()


def ensemble(
    args: argparse.Namespace, spec: EnvSpec, method: PerSim, seed: int, device: str
) -> tuple[LowRankDynamics, dict[str, Any]]:
    """The ensemble of ``--model``, or that of the settings: from the store, or trained and kept there.

    Returns:
        The model, and what it was trained on.

    Raises:
        InputError: it cannot be read, or is for another environment or regime.
    """
    if args.model is not None:
        return read_model(args.model, spec, args.regime, device)
    cells, bar = CellStore(args.store), StageBar()
    job = Job.of(method, args.env, args.regime, args.agents, seed, predictions(spec))
    announce(job, cells, seed)
    found = trained(job, cells, device, bar)
    bar.close()
    with store.contents_of(cells.root / job.model_file):
        shape = store.build(ModelSettings, found.settings["model"])
        about = {name: found.settings["about"][name] for name in ("env", "regime", "agents", "seed")}
        model = LowRankDynamics.from_arrays(found.arrays, shape)
    return model.to(device), about


def announce(job: Job, cells: CellStore, seed: int) -> None:
    """Say whether the weights of a job are there or are to be trained, and where they are kept."""
    if job.method.parts:
        path = cells.root / (job.base or job).model_file
        print(f"seed {seed}: ensemble {'taken from' if path.exists() else 'is trained and kept in'} {path}")


def measured(job: Job, cells: CellStore, device: str) -> FinishedCell:
    """Measure a cell with progress bars, or take it from the store; says where its rows are."""
    seed, path = job.cell.seed, cells.record_path(job.cell.id)
    there = path.exists()
    announce(job, cells, seed)
    bar = StageBar()
    done = compute(job, cells, device, bar)
    bar.close()
    took = f"{1e3 * done.seconds['decision']:.1f} ms a decision; " if "decision" in done.seconds else ""
    print(f"seed {seed}: {took}{'already measured, taken from' if there else 'rows are in'} {path}")
    return done
