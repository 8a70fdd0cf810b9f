"""``persim evaluate``: what planning earns, beside the paper and the optimum."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from persim import console, seeding
from persim.cli.planning import add_planner_options, check_once, chosen_planning, oracle_policy
from persim.cli.training import Commands, add_options, chosen_persim, covariate_text, measured, resolve_device
from persim.cli.unseen import add_unseen_options, asked_method
from persim.data import check_regime
from persim.envs import get
from persim.errors import check_at_least, check_choice, check_seed
from persim.evaluation import oracle, paper
from persim.evaluation.reward import EPISODES, average_rewards
from persim.methods import PlanningSettings, TrueEnv
from persim.methods.job import Job, rewards
from persim.methods.planning import planning_text
from persim.planning.registry import NAMES, PAPER
from persim.planning.scoring import check_agents
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell, Request

SCORERS = ("model", "true_env")


def add(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser(
        "evaluate",
        help="reward of planning on a trained ensemble, beside the paper's (Tables 9 to 11)",
        description="Trains an ensemble for each seed (or reads one), plans with it for each test agent in the true\n"
        "environment, and prints the mean reward beside the paper's PerSim, its True env+MPC, and the\n"
        "optimum where it can be computed. Ensembles and rows are kept in --store: nothing is trained\n"
        "or measured twice, whichever command did it first.",
        epilog="examples:\n"
        "  persim evaluate --env cartpole\n"
        "  persim evaluate --env mountaincar --planner paper              the paper's own planner\n"
        "  persim evaluate --env mountaincar --scorer true_env            the paper's True env+MPC",
    )
    add_options(p)
    add_unseen_options(p)
    p.add_argument("--planner", help=f"{', '.join(NAMES)} (the environment's: see docs/planning.md)")
    add_planner_options(p)
    p.add_argument("--scorer", default="model", help="what plans are scored on: model, or true_env (model)")
    p.add_argument("--episodes", type=int, default=EPISODES, metavar="M", help=f"per agent ({EPISODES})")
    p.add_argument("--agents-to-test", type=console.numbers, metavar="LIST", help="1 to N (all test agents: 1,2,3,4,5)")
    p.add_argument("--seeds", type=console.numbers, default=(0,), metavar="LIST",
                   help="one ensemble and one evaluation each, such as 0,1,2 (0)")  # fmt: skip
    p.set_defaults(run=run)


@dataclass(frozen=True)
class _Asked:
    """Holds what was asked for, after its check.

    Attributes:
        jobs: one for each seed.
        planning: how it plans.
        agents: ids of the agents to test, from 0.
        unseen: whether these are not in the data.
    """

    jobs: tuple[Job, ...]
    planning: PlanningSettings
    agents: tuple[int, ...]
    unseen: bool


def run(args: argparse.Namespace) -> int:
    """Evaluate every seed and print the table."""
    device = resolve_device(args.device)
    asked, cells = _asked(args, device), CellStore(args.store)
    store.prepare_folder(args.store)
    cells.ask(Request("evaluate", "", tuple(job.cell.id for job in asked.jobs)))
    results = [measured(job, cells, device) for job in asked.jobs]
    print(_table(args, asked, results, cells))
    return 0


def _asked(args: argparse.Namespace, device: str) -> _Asked:
    spec = get(args.env)
    check_regime(args.regime, spec)
    check_choice("scorer", args.scorer, SCORERS)
    check_at_least("episodes", args.episodes, 1, most=10**5)
    for seed in args.seeds:
        check_seed(seed)
    check_once("--seeds", args.seeds)
    planning = chosen_planning(args, spec, args.planner)
    ours = chosen_persim(args, spec, planning)
    method, n_agents, unseen = asked_method(args, spec, ours, device)
    if args.scorer == "true_env":
        method = TrueEnv(ours.settings.planning)
    if args.planner == PAPER and not len(unseen):  # the cell that the benchmark has under this name
        method.name += f"-{PAPER}"
    n_test = len(unseen) or len(spec.test_agents)
    numbers = args.agents_to_test or tuple(range(1, n_test + 1))
    check_once("--agents-to-test", numbers)
    agents = tuple(number - 1 for number in numbers)
    check_agents(np.array(agents), len(unseen) or n_agents)
    measure = rewards(args.episodes, agents=None if agents == tuple(range(n_test)) else agents, unseen=unseen)
    jobs = tuple(Job.of(method, args.env, args.regime, n_agents, seed, measure) for seed in args.seeds)
    return _Asked(jobs, ours.settings.planning, agents, len(unseen) > 0)


def _table(args: argparse.Namespace, asked: _Asked, results: Sequence[FinishedCell], cells: CellStore) -> str:
    """Ours beside the paper's and the optimum, one line per agent."""
    spec, regime = get(args.env), args.regime
    theirs, limit = {}, dict[int, paper.PaperReward]()
    if not asked.unseen:  # the paper's are other agents
        theirs, limit = paper.reward(spec.name, regime), paper.reward(spec.name, "", "True env+MPC")
    best, covariates = _optimum(asked, args.episodes, cells), asked.jobs[0].covariates
    lines = []
    for agent in asked.agents:
        values = [done.value("reward", agent + 1) for done in results]
        ours = f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")
        texts = (_paper_text(table.get(agent)) for table in (theirs, limit))
        optimum = [f"{best[agent]:.1f}"] if best else []
        lines.append((str(agent + 1), covariate_text(spec, covariates[agent]), ours, *texts, *optimum))
    source = "true environment" if args.scorer == "true_env" else f"{regime} data"
    how = planning_text({"planning": asked.planning.about()}, spec)
    heads = ("agent", "covariates", "ours", "paper", "True env+MPC", *(["oracle"] if best else []))
    note = "over training seeds" if len(results) > 1 else "of the paper: over five trials"
    return (
        f"\n{spec.title}, {source}: mean reward of {args.episodes} episodes an agent, {how}\n"
        f"{console.table(heads, lines, left=2)}\n± {note}; the paper's columns are its PerSim and its True env+MPC"
    )


def _paper_text(known: paper.PaperReward | None) -> str:
    return f"{known.mean:.1f} ± {known.std:.1f}" if known else "-"


def _optimum(asked: _Asked, episodes: int, cells: CellStore) -> dict[int, float]:
    """The best possible mean reward of each agent from the same initial states; empty if it is not known."""
    spec = asked.jobs[0].spec
    if not oracle.has_oracle(spec):
        return {}
    found: dict[int, list[float]] = {agent: [] for agent in asked.agents}
    for job in asked.jobs:
        policy = oracle_policy(spec, job.covariates, cells.root)
        for agent in asked.agents:
            rng = seeding.generator(job.cell.seed, "episodes", spec.name, agent)
            result = average_rewards(spec, job.covariates, policy, rng, agents=[agent], episodes=episodes)
            found[agent].append(result.agents[0].mean)
    return {agent: float(np.mean(values)) for agent, values in found.items()}
