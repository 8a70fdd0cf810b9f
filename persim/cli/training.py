"""What the commands share: the options of data and training, and a trained or read ensemble."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from persim import console
from persim.data import REGIMES, collect_regime
from persim.envs import EnvSpec, names
from persim.errors import InputError, check_at_least, check_choice
from persim.learning.ensemble import SPARE_MEMBERS, EnsembleSettings, train_ensemble
from persim.learning.model import LowRankDynamics
from persim.learning.presets import EPOCHS, MEMBERS, VARIANTS, Preset, preset
from persim.learning.training import EpochReport, TrainSettings
from persim.storage import store

Commands: TypeAlias = "argparse._SubParsersAction[console.Parser]"


def add_options(p: console.Parser) -> None:
    """Options of the data, the training and the model."""
    p.add_argument("--env", required=True, help=f"{', '.join(names())}, or module:ATTRIBUTE of an EnvSpec of yours")
    p.add_argument("--regime", default="random", help=f"how the data were recorded: {', '.join(REGIMES)} (random)")
    p.add_argument("--agents", type=int, default=500, metavar="N", help="one trajectory each (500)")
    p.add_argument("--rank", type=int, help="terms of the product (the paper's choice for --env)")
    p.add_argument("--nets", default="paper", help="halfcheetah also has wide, those of the authors' code (paper)")
    p.add_argument("--members", type=int, default=MEMBERS, help=f"models in the ensemble ({MEMBERS})")
    p.add_argument("--candidates", type=int, help=f"models to train, of which the best are kept (+{SPARE_MEMBERS})")
    p.add_argument("--epochs", type=int, default=EPOCHS, help=f"passes over the transitions ({EPOCHS})")
    p.add_argument("--average-last", type=int, default=TrainSettings.average_last, metavar="EPOCHS",
                   help="epochs whose final weights are averaged; 0 is the paper's procedure (50)")  # fmt: skip
    p.add_argument("--device", default="cpu", help="cpu, cuda, or auto for a GPU if there is one (cpu)")
    p.add_argument("--model", type=Path, metavar="PATH", help="read this ensemble instead of training one")


def resolve_device(name: str) -> str:
    """``auto`` becomes ``cuda`` or ``cpu``; anything else is checked.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_choice("device", name, ("cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, but PyTorch finds none; use --device cpu or auto")
    return name


@dataclass(frozen=True)
class Training:
    """Everything that a trained ensemble depends on, but for the seed."""

    env: str
    regime: str
    agents: int
    rank: int
    nets: Preset
    size: EnsembleSettings
    train: TrainSettings

    @classmethod
    def of(cls, args: argparse.Namespace, spec: EnvSpec) -> Training:
        """From the options of ``add_options``.

        Raises:
            InputError: a number out of range.
        """
        nets = preset(spec.name, discrete=spec.discrete, variant=check_choice("nets", args.nets, VARIANTS))
        rank = nets.rank if args.rank is None else args.rank
        check_at_least("rank", rank, 1)
        candidates = args.members + SPARE_MEMBERS if args.candidates is None else args.candidates
        size = EnsembleSettings(args.members, candidates)
        train = TrainSettings(args.epochs, nets.batch_size, average_last=args.average_last)
        return cls(spec.name, args.regime, args.agents, rank, nets, size, train)

    def about(self, seed: int) -> dict[str, Any]:
        """What is written into the model file."""
        return {"env": self.env, "regime": self.regime, "agents": self.agents, "seed": seed}

    def path(self, folder: Path, seed: int) -> Path:
        """Where the ensemble of these settings is kept in a store."""
        name = store.settings_hash({**asdict(self), "seed": seed})
        return folder / "models" / f"{self.env.replace(':', '.')}-{self.regime}-{self.agents}-{name}.safetensors"

    def run(self, spec: EnvSpec, seed: int, device: str, checkpoint: Path | None = None) -> LowRankDynamics:
        """Collects the data and trains, with a progress bar and a line of what came out.

        With a ``checkpoint``, an interrupted training goes on where it stopped.
        """
        data = collect_regime(spec, self.regime, self.agents, seed)
        title = f"{spec.name}, {self.size.candidates} models"
        with tqdm(total=self.train.epochs, desc=title, unit="epoch", dynamic_ncols=True) as bar:

            def show(report: EpochReport) -> None:
                bar.update(report.epoch - bar.n)
                bar.set_postfix_str(f"loss {report.loss:.2e}")

            model, result = train_ensemble(
                data,
                self.rank,
                self.size,
                self.train,
                seed,
                nets=self.nets,
                device=device,
                checkpoint=checkpoint,
                progress=show,
            )
        each = result.seconds / result.steps / self.size.candidates * 1e3
        print(f"trained {self.size.candidates} models of rank {self.rank} in {result.seconds:.0f} s", end=" ")
        print(f"({each:.3f} ms a model and step);\nkept the {self.size.members} of lowest training loss")
        return model


def read_model(path: Path, spec: EnvSpec, regime: str, device: str) -> tuple[LowRankDynamics, dict[str, Any]]:
    """An ensemble from a file, and what it was trained on.

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
    """Such as ``force=2, pole_length=0.5``."""
    return ", ".join(f"{name}={value:g}" for name, value in zip(spec.covariate_names, row, strict=True))


def ensemble(
    training: Training, spec: EnvSpec, seed: int, device: str, root: Path, file: Path | None
) -> tuple[LowRankDynamics, dict[str, Any]]:
    """The ensemble in ``file``, or that of these settings: from the store, or trained and kept there.

    Returns:
        The model, and what it was trained on, with a hash of its weights.

    Raises:
        InputError: it cannot be read, or is for another environment or regime.
    """
    path = file or training.path(root, seed)
    if file is None and not path.exists():
        checkpoint = root / "checkpoints" / path.name
        training.run(spec, seed, device, checkpoint).save(path, **training.about(seed))
        checkpoint.unlink(missing_ok=True)
        print(f"seed {seed}: ensemble saved to {path}")
    elif file is None:
        print(f"seed {seed}: ensemble taken from {path}")
    model, about = read_model(path, spec, training.regime, device)
    return model, {**about, "sha256": store.content_hash(model.arrays(), about)}
