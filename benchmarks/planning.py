"""Time of a planning decision, one thread: ours, the plain loop, the floor, and the authors' code.

    python benchmarks/planning.py [--models FOLDER] [--authors CHECKOUT] [--episodes 1] [--plans 1000] [--horizon 50]

Whole episodes of random shooting with the paper's settings (1000 plans, horizon 50, five members), on
the ensemble in FOLDER/mountaincar.safetensors and FOLDER/cartpole.safetensors (as `persim predict
--save-model` writes them), or on one trained for a few epochs. Shown are means over all decisions of the
episodes of the five test agents, in milliseconds:

    ours      the tree of shared, folded and pruned rollouts
    batch     ours, 20 episodes of an agent at once, time for each
    plain     the same scores step by step (persim.planning.scoring.PlainScorer)
    floor     the products of the state encoder for every plan, member and step, nothing else
    authors   the public code of the paper, from a checkout of github.com/AbdullahO/PerSim

All versions decide in turn in one process, so ratios count, not milliseconds. The authors' code plays its
own episodes, with the same weights; it is imported as it is, its unused imports replaced by empty modules.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch

from persim import console
from persim.data import collect_regime
from persim.envs import EnvSpec, get
from persim.errors import InputError
from persim.learning.ensemble import EnsembleSettings, train_ensemble
from persim.learning.model import LowRankDynamics
from persim.learning.presets import preset
from persim.learning.training import TrainSettings
from persim.planning.planner import MPC, PlannerSettings
from persim.planning.scorers import model_scorer
from persim.planning.scoring import Objective, PlainScorer
from persim.planning.shooting import RandomShooting

ENVS = ("mountaincar", "cartpole")
BATCH = 20
MEMBERS = 5

Decide = Callable[[np.ndarray], Any]


def ensemble(env: str, folder: Path | None) -> LowRankDynamics:
    if folder is not None:
        return LowRankDynamics.load(folder / f"{env}.safetensors")[0]
    data = collect_regime(get(env), "random", 100, seed=0)
    settings = TrainSettings(epochs=20, batch_size=preset(env).batch_size, average_last=5)
    return train_ensemble(data, preset(env).rank, EnsembleSettings(MEMBERS, MEMBERS), settings, seed=0)[0]


class Ours:
    """Random shooting by our code, for one or more episodes of an agent."""

    def __init__(self, spec: EnvSpec, scorer: Any, agent: int, episodes: int, settings: PlannerSettings) -> None:
        planner = RandomShooting(scorer, spec.action_space, settings)
        self.policy = MPC(planner, np.full(episodes, agent))
        self.rng = np.random.default_rng(agent)

    def __call__(self, states: np.ndarray) -> np.ndarray:
        return self.policy.act(states, self.rng)


class Authors:
    """Random shooting by the authors' code, which plans for one episode."""

    def __init__(self, modules: tuple[ModuleType, ModuleType], spec: EnvSpec, model: LowRankDynamics, agent: int,
                 settings: PlannerSettings) -> None:  # fmt: skip
        simulator, mpc = modules
        shape = model.settings
        members = []
        for k in range(shape.members):
            one = simulator.Simulator(shape.n_agents, shape.action_dim, shape.state_dim, shape.rank,
                                      torch.device("cpu"), continous_action=False,
                                      state_layers=list(shape.state_widths), lags=1)  # fmt: skip
            theirs = [one.model.lin_u, *one.model.action_layers, *one.model.state_layers]
            ours = [model.agent_layer, *model.action_layers, *model.state_layers]
            with torch.no_grad():
                for linear, layer in zip(theirs, ours, strict=True):
                    linear.weight.copy_(layer[k, :, :-1])
                    linear.bias.copy_(layer[k, :, -1])
            members.append(_Step(one, spec.name, agent))
        self.mpc = mpc.MPC_M(dynamics_func=members, state_dimen=shape.state_dim, action_dimen=shape.action_dim,
                             time_horizon=settings.horizon, num_rollouts=settings.plans, num_elites=1,
                             num_iterations=1, disceret_action=True,
                             mountain_car=spec.name == "mountaincar")  # fmt: skip

    def __call__(self, states: np.ndarray) -> np.ndarray:
        actions, _ = self.mpc.get_actions(torch.tensor(states[0]))
        return actions[0].numpy()


class _Step:
    """Gives their planner what their run.py gives it: next states, costs, and whether the episode is over."""

    def __init__(self, simulator: Any, env: str, agent: int) -> None:
        self.simulator, self.env, self.agent = simulator, env, agent

    def step(self, states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        following = self.simulator.step(states.clone(), actions.reshape(-1, 1), self.agent)[0]
        if self.env == "mountaincar":
            return following, 1 - (following[..., 0] >= 0.5).float(), torch.zeros(len(following))
        over = (following[..., 0] > 2.4).int() + (following[..., 0] < -2.4).int()
        over = over + (following[..., 2] > 0.20943951).int() + (following[..., 2] < -0.20943951).int()
        return following, over - 1.0, (over >= 1).int()


def authors_modules(checkout: Path) -> tuple[ModuleType, ModuleType]:
    """Their simulator and planner; packages that they import but do not use here are replaced."""
    if not (checkout / "mpc" / "mpc.py").is_file():
        raise InputError(f"{str(checkout)!r} holds no mpc/mpc.py; give a checkout of github.com/AbdullahO/PerSim")
    import torch._dynamo  # noqa: F401 (looks at sys.modules, so it has to come before the empty ones)

    unused = ("torchvision", "sklearn", "sklearn.kernel_ridge", "gym", "gym.spaces", "gym.logger", "gym.utils", "envs")
    for name in unused:
        sys.modules[name] = MagicMock()
    base = ModuleType("envs.base")
    base.Env = object  # type: ignore[attr-defined]
    sys.modules["envs.base"] = base
    sys.path.insert(0, str(checkout))
    import mpc
    from simulator import simulator

    return simulator, mpc


def floor(model: LowRankDynamics, settings: PlannerSettings) -> Decide:
    """Bare products of the sizes of one decision: both layers, folded, for all plans, members and steps."""
    shape = model.settings
    width, blocks = 125, max(1, settings.plans // 125)
    first = np.ones((shape.members, shape.state_widths[0], shape.state_dim + 1), np.float32)
    last = np.ones((shape.members, shape.state_dim, shape.state_widths[0] + 1), np.float32)
    states = np.ones((shape.members, shape.state_dim + 1, width), np.float32)
    hidden = np.ones((shape.members, shape.state_widths[0] + 1, width), np.float32)
    out = np.ones((shape.members, shape.state_dim, width), np.float32)

    def decide(_: np.ndarray) -> None:
        for _ in range(settings.horizon * blocks):
            np.matmul(first, states, out=hidden[:, :-1])
            np.matmul(last, hidden, out=out)

    return decide


class Player:
    """An episode that goes on by one decision at a time, timed."""

    def __init__(self, spec: EnvSpec, agent: int, decide: Any, episodes: int, seed: int) -> None:
        self.spec, self.decide = spec, decide
        self.covariates = np.tile(np.array(spec.test_agents)[agent], (episodes, 1))
        self.states = spec.reset(np.random.default_rng(seed), self.covariates)
        self.seconds: list[float] = []
        self.steps = 0

    @property
    def over(self) -> bool:
        return not len(self.states) or self.steps >= self.spec.horizon

    def turn(self) -> None:
        if self.over:
            return
        start = time.perf_counter()
        actions = self.decide(self.states)
        self.seconds.append((time.perf_counter() - start) / len(self.states))
        self.states = self.spec.step(self.states, actions, self.covariates)
        self.steps += 1
        running = ~self.spec.terminated(torch.from_numpy(self.states)).numpy()
        self.states, self.covariates = self.states[running], self.covariates[running]
        if isinstance(self.decide, Ours):
            self.decide.policy.keep(running)


def bare(decide: Decide) -> float:
    start = time.perf_counter()
    decide(np.empty(0))
    return time.perf_counter() - start


NAMES = ("ours", "batch", "plain", "floor", "authors")
Times = dict[str, list[float]]


def compare(env: str, args: Any, modules: tuple[ModuleType, ModuleType] | None) -> None:
    spec, model, settings = get(env), ensemble(env, args.models), PlannerSettings(args.plans, args.horizon)
    goal = Objective(spec, safety=False)
    tree, plain, least = model_scorer(model, goal), PlainScorer(model, goal), floor(model, settings)
    times: Times = {name: [] for name in NAMES}
    print(f"\n{spec.title}: {args.plans} plans, horizon {args.horizon}, {model.settings.members} members")
    columns = " ".join(f"{name:>8}" for name in NAMES)
    print(f"{'agent':>5} {'decisions':>9} {columns} {'of floor':>8} {'authors/ours':>12}")
    for agent in range(len(spec.test_agents)):
        mine: Times = {name: [] for name in NAMES}
        for episode in range(args.episodes):

            def player(decide: Any, episodes: int = 1, agent: int = agent, seed: int = episode) -> Player:
                return Player(spec, agent, decide, episodes, 100 * agent + seed)

            players = {
                "ours": player(Ours(spec, tree, agent, 1, settings)),
                "batch": player(Ours(spec, tree, agent, BATCH, settings), BATCH),
            }
            if modules is not None:
                players["authors"] = player(Authors(modules, spec, model, agent, settings))
            interleave(players, player(Ours(spec, plain, agent, 1, settings)), least, mine)
        for name, values in mine.items():
            times[name] += values
        line(str(agent + 1), mine)
    line("all", times)


def interleave(players: dict[str, Player], slow: Player, least: Decide, times: Times) -> None:
    """One decision each in turn, until all episodes are over; of the slow ones, every tenth turn."""
    turn = 0
    while not all(player.over for player in players.values()):
        for player in players.values():
            player.turn()
        if turn % 10 == 0:
            times["floor"].append(bare(least))
            slow.turn()
        turn += 1
    for name, player in (*players.items(), ("plain", slow)):
        times[name] += player.seconds


def line(label: str, times: dict[str, list[float]]) -> None:
    mean = {name: float(np.mean(values)) * 1e3 if values else float("nan") for name, values in times.items()}
    columns = " ".join(f"{mean[name]:8.2f}" for name in times)
    print(f"{label:>5} {len(times['ours']):>9} {columns} {mean['floor'] / mean['ours']:8.0%} "
          f"{mean['authors'] / mean['ours']:11.1f}x", flush=True)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    p = console.Parser(prog="planning.py", description=__doc__)
    p.add_argument("--models", type=Path, metavar="FOLDER", help="ensembles to plan with (trains small ones)")
    p.add_argument("--authors", type=Path, metavar="PATH", help="a checkout of github.com/AbdullahO/PerSim")
    p.add_argument("--envs", default=",".join(ENVS), help=f"which environments ({','.join(ENVS)})")
    p.add_argument("--episodes", type=int, default=1, help="of each agent (1)")
    p.add_argument("--plans", type=int, default=1000, help="candidates (1000)")
    p.add_argument("--horizon", type=int, default=50, help="steps a plan looks ahead (50)")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    modules = authors_modules(args.authors) if args.authors else None
    print("milliseconds a decision, one thread, mean over the decisions of whole episodes")
    for env in args.envs.split(","):
        compare(env, args, modules)
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
