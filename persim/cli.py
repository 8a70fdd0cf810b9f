"""The command line ``python -m persim``: train a simulator, measure how well it predicts, train policies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from persim import console, seeding, store
from persim.data import REGIMES, check_regime, collect_regime
from persim.data.policies import load_test_policy, weights_path
from persim.ensemble import SPARE_MEMBERS, EnsembleSettings, train_ensemble
from persim.envs import EnvSpec, get, names
from persim.errors import InputError, check_at_least, check_choice
from persim.evaluation import paper
from persim.evaluation.prediction import PredictionError, prediction_errors, true_rollouts
from persim.model import LowRankDynamics
from persim.presets import EPOCHS, MEMBERS, preset
from persim.training import DivergenceError, EpochReport, TrainSettings


def parser() -> console.Parser:
    """The command line."""
    p = console.Parser(prog="persim", description=__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_train_policies(commands)
    return p


def _add_predict(commands: argparse._SubParsersAction[console.Parser]) -> None:
    p = commands.add_parser(
        "predict",
        help="50-step prediction error on the test agents, beside the paper's (Tables 6 to 8)",
        description="Trains an ensemble (or reads one) and prints its open-loop prediction error on the five test\n"
        "agents beside the paper's: mean RMSE and median R2 of 50 steps over 200 episodes.",
    )
    p.add_argument("--env", required=True, help=f"{', '.join(names())}, or module:ATTRIBUTE of an EnvSpec of yours")
    p.add_argument("--regime", default="random", help=f"how the data were recorded: {', '.join(REGIMES)} (random)")
    p.add_argument("--agents", type=int, default=500, metavar="N", help="one trajectory each (500)")
    p.add_argument("--rank", type=int, help="terms of the product (the paper's choice for --env)")
    p.add_argument("--members", type=int, default=MEMBERS, help=f"models in the ensemble ({MEMBERS})")
    p.add_argument("--candidates", type=int, help=f"models to train, of which the best are kept (+{SPARE_MEMBERS})")
    p.add_argument("--epochs", type=int, default=EPOCHS, help=f"passes over the transitions ({EPOCHS})")
    p.add_argument("--average-last", type=int, default=TrainSettings.average_last, metavar="EPOCHS",
                   help="epochs whose final weights are averaged; 0 is the paper's procedure (50)")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="everything random follows from it (0)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, or auto for a GPU if there is one (cpu)")
    p.add_argument("--model", type=Path, help="read this ensemble instead of training one")
    p.add_argument("--save-model", type=Path, metavar="PATH", help="write the trained ensemble here (*.safetensors)")
    p.set_defaults(run=_predict)


def _add_train_policies(commands: argparse._SubParsersAction[console.Parser]) -> None:
    p = commands.add_parser(
        "train-policies",
        help="train the policy whose actions the prediction test plays (needs stable-baselines3)",
        description="Trains the test policy of an environment by DQN on the default agent, until its mean reward is\n"
        "about what the paper names (Section 5.2). The package ships the result; you need this only to\n"
        "change it.",
    )
    p.add_argument("--env", required=True, help="mountaincar or cartpole")
    p.add_argument("--seed", type=int, default=0, help="everything random follows from it (0)")
    p.add_argument("--out", type=Path, metavar="PATH", help="where to write the weights (the package's own file)")
    p.set_defaults(run=_train_policies)


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


def _predict(args: argparse.Namespace) -> int:
    spec = get(args.env)
    check_regime(args.regime)
    policy = load_test_policy(spec.name, spec.action_space)
    check_at_least("seed", args.seed, 0)
    device = resolve_device(args.device)
    model = _loaded(args.model, spec, args.regime, device) if args.model else _trained(args, spec, device)
    rollouts = true_rollouts(spec, policy, seeding.generator(args.seed, "prediction"))
    print(_prediction_table(spec, args.regime, prediction_errors(model, rollouts)))
    return 0


def _trained(args: argparse.Namespace, spec: EnvSpec, device: str) -> LowRankDynamics:
    rank = preset(spec.name).rank if args.rank is None else args.rank
    check_at_least("rank", rank, 1)
    candidates = args.members + SPARE_MEMBERS if args.candidates is None else args.candidates
    size = EnsembleSettings(args.members, candidates)
    settings = TrainSettings(args.epochs, preset(spec.name).batch_size, average_last=args.average_last)
    data = collect_regime(spec, args.regime, args.agents, args.seed)
    if args.save_model:
        store.prepare_folder(args.save_model.resolve().parent, "folder of --save-model")
    with tqdm(total=args.epochs, desc=f"{spec.name}, {candidates} models", unit="epoch", dynamic_ncols=True) as bar:

        def show(report: EpochReport) -> None:
            bar.update(report.epoch - bar.n)
            bar.set_postfix_str(f"loss {report.loss:.2e}")

        model, result = train_ensemble(data, rank, size, settings, args.seed, device=device, progress=show)
    each = result.seconds / result.steps / candidates * 1e3
    print(f"trained {candidates} models of rank {rank} in {result.seconds:.0f} s ({each:.3f} ms a model and step);")
    print(f"kept the {args.members} of lowest training loss")
    if args.save_model:
        model.save(args.save_model, env=spec.name, regime=args.regime, agents=args.agents, seed=args.seed)
        print(f"saved to {args.save_model}")
    return model


def _loaded(path: Path, spec: EnvSpec, regime: str, device: str) -> LowRankDynamics:
    model, about = LowRankDynamics.load(path, device)
    if about.get("env") != spec.name:
        raise InputError(f"model {str(path)!r} is for {about.get('env')!r}, not {spec.name!r}; give one for --env")
    if about.get("regime") != regime:
        raise InputError(f"model {str(path)!r} was trained on {about.get('regime')!r} data; give that --regime")
    return model


def _prediction_table(spec: EnvSpec, regime: str, errors: Sequence[PredictionError]) -> str:
    """Ours beside the paper's, one line per test agent."""
    theirs = paper.prediction_error(spec.name, regime)
    width = max(len(_covariates(spec, error.agent)) for error in errors)
    lines = [
        f"\n{spec.title}, {regime} data: 50-step prediction error, RMSE (R2)",
        f"{'agent':>5}  {'covariates':<{width}}  {'ours':>15}  {'paper':>15}",
    ]
    for error in errors:
        known = theirs.get(error.agent)
        beside = f"{known.rmse:.4f} ({known.r2:6.3f})" if known else "-"
        ours = f"{error.rmse:.4f} ({error.r2:6.3f})"
        lines.append(f"{error.agent + 1:>5}  {_covariates(spec, error.agent):<{width}}  {ours:>15}  {beside:>15}")
    return "\n".join(lines)


def _covariates(spec: EnvSpec, agent: int) -> str:
    return ", ".join(f"{n}={v:g}" for n, v in zip(spec.covariate_names, spec.test_agents[agent], strict=True))


def _train_policies(args: argparse.Namespace) -> int:
    from persim.data.train_policies import TEST_RECIPES, train_test_policy

    check_choice("environment", args.env, TEST_RECIPES)
    check_at_least("seed", args.seed, 0)
    spec, path = get(args.env), args.out or weights_path(args.env)
    store.prepare_folder(path.resolve().parent, "folder of --out")
    with tqdm(total=TEST_RECIPES[args.env].steps, desc=f"DQN, {args.env}", unit="step", dynamic_ncols=True) as bar:

        def show(step: int, _: int, reward: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix_str(f"mean reward {reward:.0f} of {TEST_RECIPES[args.env].target:.0f}")

        policy, made = train_test_policy(spec, args.seed, show)
    policy.save(path, made)
    print(f"mean reward {made['mean_reward']:.1f} over 100 episodes after {made['steps']} steps; saved to {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    args = parser().parse_args(argv)
    torch.set_num_threads(1)  # these networks are too small for two; see docs/performance.md
    try:
        return int(args.run(args))
    except DivergenceError as error:
        print(f"error: {error}; try a lower learning rate or other data", file=sys.stderr)
        return 1
