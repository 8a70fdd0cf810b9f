"""The command ``persim synthesise``: generate trajectories in a trained simulator."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from persim import console, seeding
from persim.cli.collect import recorded
from persim.cli.planning import add_planner_options, check_once, chosen_planning
from persim.cli.training import (
    Commands,
    add_options,
    chosen_persim,
    covariate_text,
    ensemble,
    read_model,
    resolve_device,
)
from persim.data import Trajectories, check_regime
from persim.envs import EnvSpec, get
from persim.errors import check_at_least, check_seed
from persim.methods import synthetic_trajectories
from persim.methods.persim import make_simulator
from persim.methods.synthetic import PER_AGENT
from persim.planning.registry import NAMES
from persim.planning.scoring import check_agents
from persim.storage import store


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "synthesise",
        help="generate trajectories in a trained simulator, as training data (Section 5.4)",
        description="Train an ensemble (or read one), then generate episodes of each test agent in it: from an\n"
        "initial state of the offline data, find the best plan in the simulator and play all of it, then\n"
        "find the next plan, until the episode ends (Appendix F.4). The true dynamics are not used. The\n"
        "result is a dataset like that of collect, but marked as synthetic. Ensembles are kept in --store,\n"
        "so that nothing is trained twice.",
        epilog="examples:\n"
        "  persim synthesise --env cartpole --out synthetic.safetensors\n"
        "  persim synthesise --env mountaincar --planner paper --out car.safetensors\n"
        "                                                               the paper's planner, horizon 50\n"
        "  persim synthesise --env cartpole --model model.safetensors --agents-to-test 2,5 \\\n"
        "      --per-agent 20 --out more.safetensors                    with a model of predict --save-model",
    )
    add_options(p)
    p.add_argument("--planner", help=f"{', '.join(NAMES)} (the environment's: see docs/planning.md)")
    add_planner_options(p)
    p.add_argument("--agents-to-test", type=console.numbers, metavar="LIST", help="1 to N (all test agents: 1,2,3,4,5)")
    p.add_argument("--per-agent", type=int, default=PER_AGENT, metavar="M", help=f"episodes per agent ({PER_AGENT})")
    p.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    p.add_argument("--out", type=Path, required=True, metavar="PATH", help="the file to write (*.safetensors)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Generate, save and describe the trajectories."""
    spec = get(args.env)
    check_regime(args.regime, spec)
    check_seed(args.seed)
    check_at_least("per_agent", args.per_agent, 1, most=10**5)
    planning = chosen_planning(args, spec, args.planner, whole=True)
    device, method, n_agents = resolve_device(args.device), chosen_persim(args, spec, planning), args.agents
    if args.model:
        n_agents = int(read_model(args.model, spec, args.regime, device)[1]["agents"])
    spec.sample_agents(n_agents, np.random.default_rng(0))  # refuses too few agents before anything is written
    numbers = args.agents_to_test or tuple(range(1, len(spec.test_agents) + 1))
    check_once("--agents-to-test", numbers)
    agents = tuple(number - 1 for number in numbers)
    check_agents(np.array(agents), n_agents)
    store.prepare_files("--out", args.out, also=[(args.store, store.STORE)])
    model, about = ensemble(args, spec, method, args.seed, device)
    data = recorded(spec, args.regime, int(about["agents"]), int(about["seed"]))
    title = f"{len(agents) * args.per_agent} episodes"
    with tqdm(total=spec.horizon, desc=title, unit="step", dynamic_ncols=True) as bar:

        def show(step: int, running: int) -> None:
            bar.set_postfix_str(f"{running} running", refresh=False)
            bar.total = spec.horizon if running else step
            bar.update(step - bar.n)

        simulator, rng = make_simulator(model, spec, planning), seeding.generator(args.seed, "synthetic", spec.name)
        made = synthetic_trajectories(
            simulator, data, spec, rng, agents=agents, per_agent=args.per_agent, progress=show
        )
    made.save(args.out)
    print(_table(spec, made, agents))
    print(f"{len(made)} synthetic transitions saved to {args.out}")
    return 0


def _table(spec: EnvSpec, made: Trajectories, agents: tuple[int, ...]) -> str:
    """Lay out the episodes of each agent with mean length and return; an agent may have no finite episode."""
    assert made.covariates is not None  # recorded data have them
    starts, steps = (np.bincount(rows, minlength=made.n_agents) for rows in (made.agent[made.step == 0], made.agent))
    returns, rows = made.returns(), []
    for agent in agents:
        n = int(starts[agent])
        means = [f"{total[agent] / n:.1f}" if n else "-" for total in (steps, returns)]
        rows.append([str(agent + 1), covariate_text(spec, made.covariates[agent]), str(n), *means])
    title = f"{spec.title}, {made.regime} data: episodes in the simulator, mean length and return"
    return f"\n{title}\n{console.table(['agent', 'covariates', 'episodes', 'length', 'return'], rows, left=2)}"
