"""The command ``persim render``: draw episodes and predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from persim import console, seeding
from persim.cli.planning import add_planner_options, chosen_planning, oracle_policy
from persim.cli.training import (
    Commands,
    add_options,
    chosen_persim,
    covariate_text,
    ensemble,
    read_model,
    resolve_device,
)
from persim.data import check_regime
from persim.data.collect import population
from persim.data.policies import BatchPolicy, UniformPolicy, load_test_policy
from persim.envs import EnvSpec, get
from persim.envs.spec import Array, pictures
from persim.errors import InputError, check_choice, check_seed
from persim.evaluation import oracle
from persim.evaluation.pictures import HORIZONS, episode_states, prediction_figure, save_gif, thinned
from persim.evaluation.prediction import true_rollouts
from persim.learning.model import LowRankDynamics
from persim.methods import PlanningSettings
from persim.methods.persim import make_simulator
from persim.planning.registry import NAMES, default_planner
from persim.storage import store
from persim.storage.cells import file_name

OTHERS = ("test", "random", "oracle")


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    p = commands.add_parser(
        "render",
        help="draw an episode as a GIF, and predicted over true states (Figures 2 and 4)",
        description="Write two kinds of pictures: ENV-agentI.gif, an episode of each agent under a policy, and\n"
        "ENV-prediction.png, the true states (solid) under the states predicted from the actions alone\n"
        "(blue, translucent) at several horizons.",
        epilog="examples:\n"
        "  persim render --env cartpole --agents-to-test 1,5\n"
        "  persim render --env mountaincar --policy oracle",
    )
    add_options(p)
    p.add_argument("--policy", help=f"{', '.join((*NAMES, *OTHERS))} (the default planner of --env)")
    add_planner_options(p)
    p.add_argument("--agents-to-test", type=console.numbers, metavar="LIST", help="test agents (1,2,3,4,5)")
    p.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    p.add_argument("--out", type=Path, default=Path("pictures"), help="folder to write to (pictures)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw an episode of each agent, and the predictions."""
    spec = get(args.env)
    pictures(spec)
    check_regime(args.regime, spec)
    check_seed(args.seed)
    n_test = len(spec.test_agents)
    agents = [number - 1 for number in args.agents_to_test or range(1, n_test + 1)]
    for agent in agents:
        if not 0 <= agent < n_test:
            raise InputError(f"agent {agent + 1} is not a test agent of {spec.name}; give 1 to {n_test}")
    name = _policy_name(args, spec)
    device, method = resolve_device(args.device), chosen_persim(args, spec, PlanningSettings.of(spec))
    if args.model is not None:
        read_model(args.model, spec, args.regime, device)  # refused before anything is written
    paths = [args.out / f"{file_name(spec.name)}-agent{agent + 1}.gif" for agent in agents]
    table = args.out / f"{file_name(spec.name)}-prediction.png"
    store.prepare_files("--out", *paths, table, also=[(args.store, store.STORE)])
    model, about = ensemble(args, spec, method, args.seed, device)
    covariates = population(spec, int(about["agents"]), int(about["seed"]))
    for agent, path in zip(agents, paths, strict=True):
        policy = _policy(args, spec, name, model, covariates, np.array([agent]))
        rng = seeding.generator(args.seed, "render", agent)
        states = episode_states(spec, covariates[agent], policy, rng)
        save_gif(pictures(spec)(thinned(states), covariates[agent]), path)
        print(f"{path}: {len(states) - 1} steps of agent {agent + 1} under {name}")
    each = np.array(agents)
    policy = _policy(args, spec, name, model, covariates, each)
    rollouts = true_rollouts(spec, policy, seeding.generator(args.seed, "render", "prediction"), agents, episodes=1)
    texts = [covariate_text(spec, row).replace(", ", "\n") for row in covariates[each]]
    titles = [f"agent {agent + 1}\n{text}" for agent, text in zip(agents, texts, strict=True)]
    prediction_figure(spec, model, rollouts, covariates[each], HORIZONS, table, titles)
    print(f"{table}: predictions {HORIZONS[0]} to {HORIZONS[-1]} steps ahead under {name}")
    return 0


def _policy_name(args: argparse.Namespace, spec: EnvSpec) -> str:
    name = str(args.policy or default_planner(spec.action_space, spec.name))
    check_choice("policy", name, (*NAMES, *OTHERS))
    if name in NAMES:
        chosen_planning(args, spec, name)
    if name == "oracle" and not oracle.has_oracle(spec):
        raise InputError(f"{spec.name} has no oracle; use one of: {', '.join((*NAMES, 'test', 'random'))}")
    return name


def _policy(
    args: argparse.Namespace,
    spec: EnvSpec,
    name: str,
    model: LowRankDynamics,
    covariates: Array,
    each: NDArray[np.int64],
) -> BatchPolicy:
    """Build the policy for one episode of each agent ``[B]``, from covariates ``[N, C]`` of all agents."""
    if name == "oracle":
        return oracle_policy(spec, covariates, args.store)(each)
    if name in OTHERS:
        return UniformPolicy(spec.action_space) if name == "random" else load_test_policy(spec.name, spec.action_space)
    planning = chosen_planning(args, spec, name)
    return make_simulator(model, spec, planning).policy(each)
