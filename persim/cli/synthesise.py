"""``python -m persim synthesise``: trajectories that a trained simulator makes up."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from persim import console, seeding
from persim.cli.collect import recorded
from persim.cli.planning import add_planner_options, check_once, chosen_planner
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
from persim.errors import InputError, check_at_least
from persim.methods import PerSim, PlanningSettings, Simulator, synthetic_trajectories
from persim.methods.persim import make_simulator
from persim.methods.synthetic import PER_AGENT
from persim.planning.registry import PLANNERS, default_planner
from persim.planning.scoring import check_agents
from persim.storage import store


def add(commands: Commands) -> None:
    """Adds the command."""
    p = commands.add_parser(
        "synthesise",
        help="trajectories that a trained simulator makes up, as training data (Section 5.4)",
        description="Trains an ensemble (or reads one), then lets episodes of each test agent take place in it: from\n"
        "an initial state of the offline data, the plan that earns most in the simulator is sought and played\n"
        "to its end, then the next one, until the episode ends (Appendix F.4). Nothing but the offline\n"
        "data is looked at. What is written is a dataset like that of collect, but marked synthetic. Ensembles\n"
        "are kept in --store: nothing is trained twice.",
        epilog="examples:\n"
        "  python -m persim synthesise --env cartpole --out synthetic.safetensors\n"
        "  python -m persim synthesise --env mountaincar --planner random_shooting --out car.safetensors\n"
        "                                                               the paper's own planner, horizon 50\n"
        "  python -m persim synthesise --env cartpole --model model.safetensors --agents-to-test 2,5 \\\n"
        "      --per-agent 20 --out more.safetensors                    with a model of predict --save-model",
    )
    add_options(p)
    p.add_argument("--planner", help=f"{', '.join(PLANNERS)} (persistent_shooting; icem for continuous actions)")
    add_planner_options(p)
    p.add_argument("--agents-to-test", type=console.numbers, metavar="LIST", help="1 to N (all test agents: 1,2,3,4,5)")
    p.add_argument("--per-agent", type=int, default=PER_AGENT, metavar="M", help=f"episodes of each ({PER_AGENT})")
    p.add_argument("--seed", type=int, default=0, help="everything random follows from it (0)")
    p.add_argument("--out", type=Path, required=True, metavar="PATH", help="the file to write (*.safetensors)")
    p.set_defaults(run=run)


@dataclass(frozen=True)
class _Job:
    """What was asked for, checked."""

    spec: EnvSpec
    planning: PlanningSettings
    agents: tuple[int, ...]
    method: PerSim
    device: str


def run(args: argparse.Namespace) -> int:
    """Makes, saves and describes the trajectories."""
    job = _job(args)
    store.prepare_folders((args.out.resolve().parent, "folder of --out"), (args.store, "store"))
    model, about = ensemble(args, job.spec, job.method, args.seed, job.device)
    data = recorded(job.spec, args.regime, int(about["agents"]), int(about["seed"]))
    made = _made(job, make_simulator(model, job.spec, job.planning), data, args)
    made.save(args.out)
    print(_table(job.spec, made, job.agents))
    print(f"{len(made)} synthetic transitions saved to {args.out}")
    return 0


def _job(args: argparse.Namespace) -> _Job:
    spec = get(args.env)
    check_regime(args.regime, spec)
    check_at_least("seed", args.seed, 0)
    check_at_least("per_agent", args.per_agent, 1)
    if args.out.is_dir():
        raise InputError(f"--out {str(args.out)!r} is a folder; give the name of a file to write in it")
    planner = args.planner or default_planner(spec.action_space)
    planning = PlanningSettings(planner, chosen_planner(args, spec, planner, whole=True))
    device, method, n_agents = resolve_device(args.device), chosen_persim(args, spec, planning), args.agents
    if args.model:
        n_agents = int(read_model(args.model, spec, args.regime, device)[1]["agents"])
    spec.sample_agents(n_agents, np.random.default_rng(0))  # refuses too few before anything is made
    numbers = args.agents_to_test or tuple(range(1, len(spec.test_agents) + 1))
    check_once("--agents-to-test", numbers)
    agents = tuple(number - 1 for number in numbers)
    check_agents(np.array(agents), n_agents)
    return _Job(spec, planning, agents, method, device)


def _made(job: _Job, simulator: Simulator, data: Trajectories, args: argparse.Namespace) -> Trajectories:
    """The trajectories, with a progress bar."""
    rng = seeding.generator(args.seed, "synthetic", job.spec.name)
    title = f"{len(job.agents) * args.per_agent} episodes"
    with tqdm(total=job.spec.horizon, desc=title, unit="step", dynamic_ncols=True) as bar:

        def show(step: int, running: int) -> None:
            bar.set_postfix_str(f"{running} running", refresh=False)
            bar.total = job.spec.horizon if running else step
            bar.update(step - bar.n)

        return synthetic_trajectories(
            simulator, data, job.spec, rng, agents=job.agents, per_agent=args.per_agent, progress=show
        )


def _table(spec: EnvSpec, made: Trajectories, agents: tuple[int, ...]) -> str:
    """Episodes of each agent, their mean length and return; an agent without a finite episode has none."""
    assert made.covariates is not None  # what collect records has them
    starts, steps = (np.bincount(rows, minlength=made.n_agents) for rows in (made.agent[made.step == 0], made.agent))
    returns = made.returns()
    texts = {agent: covariate_text(spec, made.covariates[agent]) for agent in agents}
    width = max(map(len, texts.values()))
    lines = [
        f"\n{spec.title}, {made.regime} data: episodes in the simulator, mean length and return",
        f"{'agent':>5}  {'covariates':<{width}}  {'episodes':>8}  {'length':>8}  {'return':>10}",
    ]
    for agent, text in texts.items():
        n = int(starts[agent])
        means = (f"{steps[agent] / n:.1f}", f"{returns[agent] / n:.1f}") if n else ("-", "-")
        lines.append(f"{agent + 1:>5}  {text:<{width}}  {n:>8}  {means[0]:>8}  {means[1]:>10}")
    return "\n".join(lines)
