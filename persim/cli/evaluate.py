"""``python -m persim evaluate``: what planning earns, beside the paper and the optimum."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from persim import console, seeding
from persim.cli.planning import add_planner_options, check_once, chosen_planner, oracle_policy
from persim.cli.training import (
    Commands,
    Training,
    add_options,
    covariate_text,
    ensemble,
    read_model,
    resolve_device,
)
from persim.cli.unseen import Unseen, add_unseen_options
from persim.data import check_regime
from persim.data.collect import population
from persim.envs import EnvSpec, get
from persim.envs.spec import Array
from persim.errors import check_at_least, check_choice
from persim.evaluation import oracle, paper
from persim.evaluation.reward import EPISODES, RewardResult, average_rewards
from persim.learning.model import LowRankDynamics
from persim.planning.planner import MPC, PlannerSettings
from persim.planning.registry import PLANNERS, default_planner, make_planner, planner_objective
from persim.planning.scorers import model_scorer, true_scorer
from persim.planning.scoring import PRECISIONS, Scorer, check_agents
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, code_version, row

SUITE = "evaluate"
SCORERS = ("model", "true_env")


def add(commands: Commands) -> None:
    """Adds the command."""
    p = commands.add_parser(
        "evaluate",
        help="reward of planning on a trained ensemble, beside the paper's (Tables 9 to 11)",
        description="Trains an ensemble for each seed (or reads one), plans with it for each test agent in the true\n"
        "environment, and prints the mean reward beside the paper's PerSim, its True env+MPC, and the\n"
        "optimum where it can be computed. Ensembles and rows are kept in --store: nothing is trained\n"
        "or evaluated twice.",
        epilog="examples:\n"
        "  python -m persim evaluate --env cartpole\n"
        "  python -m persim evaluate --env mountaincar --planner random_shooting    the paper's own planner\n"
        "  python -m persim evaluate --env mountaincar --scorer true_env            the paper's True env+MPC",
    )
    add_options(p)
    add_unseen_options(p)
    p.add_argument("--planner", help=f"{', '.join(PLANNERS)} (persistent_shooting; icem for continuous actions)")
    add_planner_options(p)
    p.add_argument("--precision", default="float32", help="of the model's products: float32, or bfloat16,\n"
                   "half the time in HalfCheetah (float32)")  # fmt: skip
    p.add_argument("--scorer", default="model", help="what plans are scored on: model, or true_env (model)")
    p.add_argument("--episodes", type=int, default=EPISODES, metavar="M", help=f"per agent ({EPISODES})")
    p.add_argument("--agents-to-test", type=console.numbers, metavar="LIST", help="1 to N (all test agents: 1,2,3,4,5)")
    p.add_argument("--seeds", type=console.numbers, default=(0,), metavar="LIST",
                   help="one ensemble and one evaluation each, such as 0,1,2 (0)")  # fmt: skip
    p.add_argument("--store", type=Path, default=Path("runs"), help="folder of models and rows (runs)")
    p.set_defaults(run=run)


@dataclass(frozen=True)
class _Job:
    """What was asked for, checked."""

    spec: EnvSpec
    planner: str
    settings: PlannerSettings
    precision: str
    scorer: str
    agents: tuple[int, ...]
    episodes: int
    training: Training
    model: Path | None
    model_seed: int | None
    device: str
    cells: CellStore
    unseen: Unseen | None

    def covariates(self, seed: int) -> Array:
        """Covariates ``[N, C]`` of the agents: the unseen ones, or those of the data of ``--model`` or this seed."""
        if self.unseen is not None:
            return self.unseen.table(self.spec)
        return population(self.spec, self.training.agents, seed if self.model_seed is None else self.model_seed)

    def cell(self, seed: int, model: dict[str, Any]) -> Cell:
        """The cell of one seed; ``model`` says which ensemble."""
        settings = {
            "planner": self.planner,
            "planner_settings": asdict(self.settings),
            "scorer": self.scorer,
            "agents_to_test": [agent + 1 for agent in self.agents],
            "episodes": self.episodes,
            "model": model,
        }
        if self.precision != "float32":  # rows from before there was a choice keep their names
            settings["precision"] = self.precision
        if self.unseen is not None:
            settings["unseen"] = asdict(self.unseen)
        method = "PerSim" if self.scorer == "model" else "True env+MPC"
        return Cell(SUITE, self.spec.name, self.training.regime, self.training.agents, method, seed, settings)


def run(args: argparse.Namespace) -> int:
    """Evaluates every seed and prints the table."""
    job = _job(args)
    results = [_evaluated(job, seed) for seed in args.seeds]
    print(_table(job, args.seeds, results))
    return 0


def _job(args: argparse.Namespace) -> _Job:
    spec = get(args.env)
    check_regime(args.regime, spec)
    check_choice("scorer", args.scorer, SCORERS)
    check_at_least("episodes", args.episodes, 1)
    for seed in args.seeds:
        check_at_least("seed", seed, 0)
    check_once("--seeds", args.seeds)
    planner = args.planner or default_planner(spec.action_space)
    settings = chosen_planner(args, spec, planner)
    device, training, model_seed = resolve_device(args.device), Training.of(args, spec), None
    if args.model:
        _, about = read_model(args.model, spec, args.regime, device)
        training, model_seed = replace(training, agents=int(about["agents"])), int(about["seed"])
    unseen = Unseen.of(args, spec, training.agents)
    there = training.agents if unseen is None else len(unseen.covariates)
    numbers = args.agents_to_test or tuple(range(1, len((unseen.spec(spec) if unseen else spec).test_agents) + 1))
    check_once("--agents-to-test", numbers)
    agents = tuple(number - 1 for number in numbers)
    check_agents(np.array(agents), there)
    store.prepare_folder(args.store)
    cells = CellStore(args.store)
    return _Job(
        spec,
        planner,
        settings,
        check_choice("precision", args.precision, PRECISIONS),
        args.scorer,
        agents,
        args.episodes,
        training,
        args.model,
        model_seed,
        device,
        cells,
        unseen,
    )


def _evaluated(job: _Job, seed: int) -> FinishedCell:
    """One finished cell, from the store if it is there."""
    model, about, covariates = _ensemble(job, seed)
    cell = job.cell(seed, about)
    done = job.cells.finished(cell)
    if done is not None:
        print(f"seed {seed}: already evaluated, taken from {job.cells.record_path(cell)}")
        return done
    goal = planner_objective(job.planner, job.spec)
    scorer = true_scorer(goal, covariates) if model is None else model_scorer(model, goal, job.precision)
    started, clock = int(time.time() * 1e3), time.perf_counter()
    result = _play(job, scorer, covariates, seed)
    rows = [row("decision_ms", result.decision_ms)]
    for earned in result.agents:
        number = earned.agent + 1
        rows += [row("reward", earned.mean, number), row("reward_std", earned.std, number)]
        rows += [row("length", earned.length, number)]
    seconds = {"evaluate": time.perf_counter() - clock}
    ended = int(time.time() * 1e3)
    done = FinishedCell(cell, rows, {}, seed, code_version(), seconds, started, ended)
    job.cells.finish(done)
    print(f"seed {seed}: {result.decision_ms:.1f} ms a decision; rows written to {job.cells.record_path(cell)}")
    return done


def _ensemble(job: _Job, seed: int) -> tuple[LowRankDynamics | None, dict[str, Any], Array]:
    """The ensemble (None for the true environment), what names it, and the covariates of its agents."""
    if job.scorer == "true_env":
        return None, {}, job.covariates(seed)
    model, about = ensemble(job.training, job.spec, seed, job.device, job.cells.root, job.model)
    named = {"sha256": about["sha256"]} if job.model else {"trained": asdict(job.training)}
    if job.unseen is not None:
        model = job.unseen.model(model, job.spec, about)
    return model, named, job.covariates(seed)


def _play(job: _Job, scorer: Scorer, covariates: Array, seed: int) -> RewardResult:
    planner = make_planner(job.planner, scorer, job.spec.action_space, job.settings)
    rng = seeding.generator(seed, "episodes", job.spec.name)
    episodes = len(job.agents) * job.episodes
    with tqdm(total=job.spec.horizon, desc=f"{episodes} episodes", unit="step", dynamic_ncols=True) as bar:

        def show(step: int, running: int) -> None:
            bar.set_postfix_str(f"{running} running", refresh=False)
            bar.total = job.spec.horizon if running else step
            bar.update(step - bar.n)

        return average_rewards(
            job.spec,
            covariates,
            lambda agents: MPC(planner, agents),
            rng,
            agents=job.agents,
            episodes=job.episodes,
            progress=show,
        )


def _table(job: _Job, seeds: Sequence[int], results: Sequence[FinishedCell]) -> str:
    """Ours beside the paper's and the optimum, one line per agent."""
    spec, regime = job.spec, job.training.regime
    theirs, limit = {}, dict[int, paper.PaperReward]()
    if job.unseen is None:  # the paper's are other agents
        theirs, limit = paper.reward(spec.name, regime), paper.reward(spec.name, "", "True env+MPC")
    covariates = job.covariates(seeds[0])
    best = _optimum(job, seeds)
    texts = [covariate_text(spec, covariates[agent]) for agent in job.agents]
    width = max(map(len, texts))
    planner = f"{job.planner} ({job.settings.plans} plans, horizon {job.settings.horizon})"
    source = f"{regime} data" if job.scorer == "model" else "true environment"
    lines = [
        f"\n{spec.title}, {source}: mean reward of {job.episodes} episodes an agent, {planner}",
        f"{'agent':>5}  {'covariates':<{width}}  {'ours':>15}  {'paper':>15}  {'True env+MPC':>15}"
        + (f"  {'oracle':>8}" if best else ""),
    ]
    for agent, text in zip(job.agents, texts, strict=True):
        values = [done.value("reward", agent + 1) for done in results]
        ours = f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")
        known, upper = (_paper_text(table.get(agent)) for table in (theirs, limit))
        line = f"{agent + 1:>5}  {text:<{width}}  {ours:>15}  {known:>15}  {upper:>15}"
        lines.append(line + (f"  {best[agent]:8.1f}" if best else ""))
    note = "over training seeds" if len(seeds) > 1 else "of the paper: over five trials"
    return "\n".join([*lines, f"± {note}; the paper's columns are its PerSim and its True env+MPC"])


def _paper_text(known: paper.PaperReward | None) -> str:
    return f"{known.mean:.1f} ± {known.std:.1f}" if known else "-"


def _optimum(job: _Job, seeds: Sequence[int]) -> dict[int, float]:
    """The best possible mean reward of each agent from the same initial states; empty if not known."""
    if not oracle.has_oracle(job.spec):
        return {}
    rewards = []
    for seed in seeds:
        covariates = job.covariates(seed)
        policy = oracle_policy(job.spec, covariates, job.cells.root)
        rng = seeding.generator(seed, "episodes", job.spec.name)
        result = average_rewards(job.spec, covariates, policy, rng, agents=job.agents, episodes=job.episodes)
        rewards.append([earned.mean for earned in result.agents])
    return dict(zip(job.agents, np.mean(rewards, axis=0).tolist(), strict=True))
