"""``python -m persim predict``: prediction error beside the paper's."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from persim import seeding
from persim.cli.training import Commands, Training, add_options, covariate_text, read_model, resolve_device
from persim.cli.unseen import Unseen, add_unseen_options
from persim.data import check_regime
from persim.data.policies import load_test_policy
from persim.envs import EnvSpec, get
from persim.errors import check_at_least
from persim.evaluation import paper
from persim.evaluation.prediction import PredictionError, prediction_errors, true_rollouts
from persim.learning.model import LowRankDynamics
from persim.storage import store


def add(commands: Commands) -> None:
    """Adds the command."""
    p = commands.add_parser(
        "predict",
        help="50-step prediction error on the test agents, beside the paper's (Tables 6 to 8)",
        description="Trains an ensemble (or reads one) and prints its open-loop prediction error on the five test\n"
        "agents beside the paper's: mean RMSE and median R2 of 50 steps over 200 episodes.",
        epilog="examples:\n"
        "  python -m persim predict --env cartpole --save-model cartpole.safetensors\n"
        "  python -m persim predict --env cartpole --model cartpole.safetensors --covariates 2,0.5 8,0.3 --p 0.1",
    )
    add_options(p)
    add_unseen_options(p)
    p.add_argument("--seed", type=int, default=0, help="everything random follows from it (0)")
    p.add_argument("--save-model", type=Path, metavar="PATH", help="write the trained ensemble here (*.safetensors)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    spec = get(args.env)
    check_regime(args.regime, spec)
    policy = load_test_policy(spec.name, spec.action_space)
    check_at_least("seed", args.seed, 0)
    device = resolve_device(args.device)
    read = read_model(args.model, spec, args.regime, device) if args.model else None
    unseen = Unseen.of(args, spec, int(read[1]["agents"]) if read else args.agents)
    model, about = read or _trained(args, spec, device)
    if unseen is not None:
        model, spec = unseen.model(model, spec, about), unseen.spec(spec)
    rollouts = true_rollouts(spec, policy, seeding.generator(args.seed, "prediction"))
    theirs = {} if unseen else paper.prediction_error(spec.name, args.regime)
    print(_table(spec, args.regime, prediction_errors(model, rollouts), theirs))
    return 0


def _trained(args: argparse.Namespace, spec: EnvSpec, device: str) -> tuple[LowRankDynamics, dict[str, Any]]:
    """The ensemble, and what it was trained on."""
    training = Training.of(args, spec)
    if args.save_model:
        store.prepare_folder(args.save_model.resolve().parent, "folder of --save-model")
    model = training.run(spec, args.seed, device)
    if args.save_model:
        model.save(args.save_model, **training.about(args.seed))
        print(f"saved to {args.save_model}")
    return model, training.about(args.seed)


def _table(
    spec: EnvSpec, regime: str, errors: Sequence[PredictionError], theirs: Mapping[int, paper.PaperError]
) -> str:
    """Ours beside the paper's, one line per test agent."""
    texts = [covariate_text(spec, spec.test_agents[error.agent]) for error in errors]
    width = max(map(len, texts))
    lines = [
        f"\n{spec.title}, {regime} data: 50-step prediction error, RMSE (R2)",
        f"{'agent':>5}  {'covariates':<{width}}  {'ours':>15}  {'paper':>15}",
    ]
    for error, text in zip(errors, texts, strict=True):
        known = theirs.get(error.agent)
        beside = f"{known.rmse:.4f} ({known.r2:6.3f})" if known else "-"
        ours = f"{error.rmse:.4f} ({error.r2:6.3f})"
        lines.append(f"{error.agent + 1:>5}  {text:<{width}}  {ours:>15}  {beside:>15}")
    return "\n".join(lines)
