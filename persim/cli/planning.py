"""Options that several commands share: of a planner, lists of agents or seeds, and the optimum."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from persim import console
from persim.cli.training import resolve_device
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError
from persim.evaluation import oracle
from persim.methods import PlanningSettings
from persim.methods.planning import FEWER_ROUNDS
from persim.planning.registry import PLANNERS
from persim.planning.scoring import ON
from persim.storage import store
from persim.storage.machine import machine

OPTIONS = {
    "plans": "candidates for each decision",
    "horizon": "steps a plan looks ahead",
    "elites": "of cem and icem: plans that the distribution is refitted to",
    "iterations": "of cem and icem: rounds of refitting",
}

SCORING = ("rollout", "penalty", "prior", "precision")


def add_planner_options(p: console.Parser) -> None:
    """Settings of the planner."""
    for name, text in OPTIONS.items():
        p.add_argument(f"--{name}", type=int, help=f"{text} (the planner's own)")
    p.add_argument("--rollout", help="members: each member of the ensemble rolls a plan out by itself;\n"
                   "mean: all step from their mean state (mean for continuous actions)")  # fmt: skip
    p.add_argument("--penalty", type=float, help="taken off the reward of every step, times the members'\n"
                   "disagreement, so that plans stay where the model knows\n"
                   "the dynamics (10 for continuous actions)")  # fmt: skip
    p.add_argument("--prior", help="plan deviations from an imitation of the policy that recorded the\n"
                   "data: off, auto (where states explain the recorded actions), or\n"
                   "on (auto for continuous actions, else off)")  # fmt: skip
    p.add_argument("--precision", help="of the model's products: float32, or bfloat16, half the time of wide\n"
                   "nets (bfloat16 for continuous actions on a CPU made for it)")  # fmt: skip


def chosen_planning(
    args: argparse.Namespace, spec: EnvSpec, name: str | None, *, whole: bool = False
) -> PlanningSettings:
    """The planner of that name, our own if it is None, with the settings asked for; refuses one that does not fit.

    On a CPU our planner of continuous actions has fewer rounds, and its products are in bfloat16 where the CPU has
    instructions for that.

    Raises:
        InputError: unknown, out of range, or not for these actions.
    """
    given = {key: getattr(args, key) for key in (*OPTIONS, *SCORING) if getattr(args, key) is not None}
    if given.get("prior") == ON and spec.discrete:
        raise InputError(f"prior 'on' is for continuous actions, but {spec.name} has discrete ones; leave --prior out")
    if name is None and not spec.discrete and resolve_device(args.device) == "cpu":
        fast = {"precision": "bfloat16"} if "bf16" in machine()["instructions"] else {}
        given = {**FEWER_ROUNDS, **fast, **given}
    planning = PlanningSettings.of(spec, name, whole=whole, **given)
    PLANNERS[planning.planner].check_space(spec.action_space)
    return planning


def check_once(option: str, values: Sequence[int]) -> None:
    """Refuses a list that names something twice.

    Raises:
        InputError: it does.
    """
    if len(set(values)) < len(values):
        raise InputError(f"{option} {','.join(map(str, values))} names one twice; give each once")


def oracle_policy(spec: EnvSpec, covariates: Array, root: Path) -> Callable[[NDArray[np.int64]], oracle.OraclePolicy]:
    """Makes the best policy of the agent ``[B]`` of each episode; values are kept in the store."""

    def policy(agents: NDArray[np.int64]) -> oracle.OraclePolicy:
        known, each = np.unique(agents, return_inverse=True)
        bar = tqdm(known, desc="oracle", unit="agent", dynamic_ncols=True, leave=False)
        values = [_values(spec, covariates[agent], root) for agent in bar]
        return oracle.OraclePolicy(spec, covariates[agents], values, each)

    return policy


def _values(spec: EnvSpec, covariates: Array, root: Path) -> Array:
    settings = {"env": spec.name, "covariates": covariates.tolist(), "shape": list(oracle.SHAPE)}
    path = root / "oracle" / f"{store.settings_hash(settings)}.safetensors"
    if not path.exists():
        store.write_arrays(path, {"values": oracle.optimal_values(spec, covariates, oracle.SHAPE)}, "oracle", settings)
    return np.asarray(store.read_arrays(path, "oracle")[0]["values"])
