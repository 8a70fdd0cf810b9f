"""``persim predict``: prediction error beside the paper's."""

from __future__ import annotations

import argparse
from pathlib import Path

from persim import console
from persim.cli.training import Commands, add_options, chosen_persim, covariate_text, ensemble, measured, resolve_device
from persim.cli.unseen import add_unseen_options, asked_method
from persim.data import check_regime
from persim.data.policies import load_test_policy
from persim.envs import EnvSpec, get
from persim.errors import check_seed
from persim.evaluation import paper
from persim.methods import PlanningSettings
from persim.methods.job import Job, predictions
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell, Request


def add(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser(
        "predict",
        help="50-step prediction error on the test agents, beside the paper's (Tables 6 to 8)",
        description="Trains an ensemble (or reads one) and prints its open-loop prediction error on the five test\n"
        "agents beside the paper's: mean RMSE and median R2 of 50 steps over 200 episodes. Ensembles and\n"
        "rows are kept in --store: nothing is trained or measured twice, whichever command did it first.",
        epilog="examples:\n"
        "  persim predict --env cartpole --save-model cartpole.safetensors\n"
        "  persim predict --env cartpole --model cartpole.safetensors --covariates 2,0.5 8,0.3 --p 0.1",
    )
    add_options(p)
    add_unseen_options(p)
    p.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    p.add_argument("--save-model", type=Path, metavar="PATH", help="write the ensemble here, too (*.safetensors)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    spec = get(args.env)
    check_regime(args.regime, spec)
    load_test_policy(spec.name, spec.action_space)
    check_seed(args.seed)
    device = resolve_device(args.device)
    ours = chosen_persim(args, spec, PlanningSettings.of(spec))
    method, n_agents, unseen = asked_method(args, spec, ours, device)
    saved = [] if args.save_model is None else [args.save_model]
    store.prepare_files("--save-model", *saved, also=[(args.store, store.STORE)])
    job = Job.of(method, args.env, args.regime, n_agents, args.seed, predictions(spec, unseen))
    cells = CellStore(args.store)
    cells.ask(Request("predict", "", (job.cell.id,)))
    done = measured(job, cells, device)
    if args.save_model is not None:
        model, about = ensemble(args, spec, ours, args.seed, device)
        model.save(args.save_model, **about)
        print(f"saved to {args.save_model}")
    print(_table(job.spec, args.regime, done, len(unseen) > 0))
    return 0


def _table(spec: EnvSpec, regime: str, done: FinishedCell, unseen: bool) -> str:
    """Ours beside the paper's, one line per test agent."""
    theirs = {} if unseen else paper.prediction_error(spec.name, regime)
    lines = []
    for agent, covariates in enumerate(spec.test_agents):
        ours = f"{done.value('prediction_rmse', agent + 1):.4f} ({done.value('prediction_r2', agent + 1):6.3f})"
        known = theirs.get(agent)
        beside = f"{known.rmse:.4f} ({known.r2:6.3f})" if known else "-"
        lines.append((str(agent + 1), covariate_text(spec, covariates), ours, beside))
    title = f"\n{spec.title}, {regime} data: 50-step prediction error, RMSE (R2)\n"
    return title + console.table(("agent", "covariates", "ours", "paper"), lines, left=2)
