"""The command ``persim collect``: record an offline dataset of one trajectory per agent."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from persim import console
from persim.cli.training import Commands
from persim.data import REGIMES, Trajectories, check_regime, collect_regime
from persim.envs import EnvSpec, get, names
from persim.errors import check_seed
from persim.evaluation import paper
from persim.storage import store


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "collect",
        help="record the offline data of a regime: one trajectory per agent (Section 5.1)",
        description="Record one trajectory of each of N agents and print their rewards beside Table 5. The first five\n"
        "agents are the test agents; the others are drawn anew for each N and seed (Appendix F.6).",
        epilog="regimes:\n"
        "  random        uniformly random actions\n"
        "  pure          each agent follows the policy of the nearest policy-training agent of Table 4\n"
        "                (Euclidean distance, covariates scaled by their ranges)\n"
        "  pure-eps-20   pure, but a fifth of the actions are random\n"
        "  pure-eps-40   pure, but two fifths of the actions are random",
    )
    p.add_argument("--env", required=True, help=f"{', '.join(names())}, or module:ATTRIBUTE of your own EnvSpec")
    p.add_argument("--regime", default="random", help=f"{', '.join(REGIMES)} (random)")
    p.add_argument("--agents", type=int, default=500, metavar="N", help="number of agents, one trajectory each (500)")
    p.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    p.add_argument("--out", type=Path, required=True, metavar="PATH", help="the file to write (*.safetensors)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Record, save and describe the data."""
    spec = get(args.env)
    check_regime(args.regime, spec)
    check_seed(args.seed)
    spec.sample_agents(args.agents, np.random.default_rng(0))  # refuses too few agents before anything is written
    store.prepare_files("--out", args.out)
    data = recorded(spec, args.regime, args.agents, args.seed)
    data.save(args.out)
    print(f"{len(data)} transitions saved to {args.out}")
    print(_table(spec, data))
    return 0


def recorded(spec: EnvSpec, regime: str, n_agents: int, seed: int) -> Trajectories:
    """Record the offline data as ``collect_regime`` does, with a progress bar."""
    with tqdm(total=spec.horizon, desc=f"{spec.name}, {n_agents} agents", unit="step", dynamic_ncols=True) as bar:

        def show(step: int, running: int) -> None:
            bar.total = spec.horizon if running else step
            bar.update(step - bar.n)

        return collect_regime(spec, regime, n_agents, seed, show)


def _table(spec: EnvSpec, data: Trajectories) -> str:
    """Lay out the reward of each test agent, the average reward and the average length beside Table 5."""
    rewards, n_test = data.returns(), len(spec.test_agents)
    ours = [f"{value:.1f}" for value in (*rewards[:n_test], rewards.mean(), len(data) / data.n_agents)]
    theirs = [f"{value:.1f}" for value in paper.observed_data(spec.name, data.regime)] or ["-"] * len(ours)
    heads = ["", *(f"agent {number + 1}" for number in range(n_test)), "average", "length"]
    title = f"{spec.title}, {data.regime} data: reward of each test agent, average reward and length of all agents"
    return f"\n{title}\n{console.table(heads, [['ours', *ours], ['paper', *theirs]])}"
