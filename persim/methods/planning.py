"""How methods plan: the settings that they share, and acting by model predictive control."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persim.data.policies import BatchPolicy
from persim.envs.spec import Agents, Array, EnvSpec
from persim.errors import check_between, check_choice
from persim.methods.protocol import Options
from persim.planning.planner import MPC, Planner, PlannerSettings, Plans
from persim.planning.registry import (
    NAMES,
    PAPER,
    default_planner,
    default_safety,
    default_scoring,
    paper_planner,
    planner_settings,
)
from persim.planning.scoring import MEAN, MEMBERS, OFF, PRECISIONS, PRIORS, ROLLOUTS, Objective

# Options of every planner that a preset changes.
PLANNING: dict[str, dict[str, Any]] = {"paper": {}, "smoke": {"plans": 20, "horizon": 8}}
# Of our planner of continuous actions where there is no GPU: half the rounds (docs/planning.md says what that costs).
FEWER_ROUNDS: dict[str, Any] = {"iterations": 2}
# Seconds of one core for the decisions of an episode, for each plan and step that it looks ahead (docs/performance.md).
_STATE_SECONDS = {"cartpole": 1.6e-5, "halfcheetah": 0.05}
_OTHER_STATE_SECONDS = 2e-4
# In MountainCar for each plan: one that arrives prunes the others, so that the horizon hardly counts. Episodes of
# random shooting are twice as long.
_PLAN_SECONDS = {"persistent_shooting": 2.4e-3, "random_shooting": 4.5e-3}


@dataclass(frozen=True)
class PlanningSettings:
    """How a method plans.

    Attributes:
        planner: a name of ``persim.planning.registry``.
        settings: of that planner.
        precision: of the products of a model: ``float32``, or ``bfloat16``, which halves the time of wide nets.
        safety: our shaping: whether the environment's safety term is added to its reward. None where nothing could
            be added, since the environment has no such term or the method does not look at it.
        rollout: of the members of an ensemble, and
        penalty: of their disagreement, both as in ``persim.planning.scoring.Objective``.
        prior: whether plans are deviations from an imitation of the policy that recorded the data
            (``persim.learning.imitation``): ``off``, ``auto`` (where the states explain enough of the recorded
            actions), or ``on`` (the same, and refused where they do not).

    Raises:
        InputError: rollout or prior is unknown, or the penalty is below 0.
    """

    planner: str
    settings: PlannerSettings
    precision: str = "float32"
    safety: bool | None = None
    rollout: str = MEMBERS
    penalty: float = 0.0
    prior: str = OFF

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("rollout", self.rollout, ROLLOUTS)
        check_choice("prior", self.prior, PRIORS)
        object.__setattr__(self, "penalty", check_between("penalty", self.penalty, 0, math.inf, closed=True))

    def about(self) -> dict[str, Any]:
        """All of them, for rows; safety only if it could be added, the last four only where they are not usual."""
        found: dict[str, Any] = {"planner": self.planner, "settings": asdict(self.settings)}
        found |= {} if self.safety is None else {"safety": self.safety}
        usual = {"precision": PRECISIONS[0], "rollout": MEMBERS, "penalty": 0.0, "prior": OFF}
        return found | {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}

    @property
    def plain(self) -> PlanningSettings:
        """The same, scored as in the paper: for the true environment and for methods with scorers of their own."""
        return replace(self, precision=PRECISIONS[0], rollout=MEMBERS, penalty=0.0, prior=OFF)

    @classmethod
    def of(
        cls,
        spec: EnvSpec,
        planner: str | None = None,
        *,
        whole: bool = False,
        safety: bool | None = None,
        precision: str = "float32",
        rollout: str | None = None,
        penalty: float | None = None,
        prior: str | None = None,
        **options: Any,
    ) -> PlanningSettings:
        """Our planner of the environment, or the one named, with these options changed.

        Args:
            spec: the environment.
            planner: its name; ``paper`` for the paper's planner of such actions with the paper's settings, and with
                no safety term.
            whole: whether plans are played to their end before the next one is sought.
            safety: whether the safety term is added; None for the planner's default.
            precision: of the products of a model.
            rollout: of the members.
            penalty: of their disagreement.
            prior: whether plans are deviations. All three are None for the planner's default.
            options: of the planner that differ from its own.

        Raises:
            InputError: an unknown planner or option.
        """
        name, env = planner or default_planner(spec.action_space, spec.name), spec.name
        usual = default_scoring(spec.action_space)
        if check_choice("planner", name, NAMES) == PAPER:
            name, env, safety = paper_planner(spec.action_space), "", bool(safety)
            usual = MEMBERS, 0.0, OFF
        if safety is None or spec.planning.safety is None:
            safety = default_safety(name, spec)
        settings = planner_settings(name, env, whole=whole, **options)
        rollout = usual[0] if rollout is None else rollout
        penalty = usual[1] if penalty is None else penalty
        return cls(name, settings, precision, safety, rollout, penalty, usual[2] if prior is None else prior)

    @classmethod
    def chosen(cls, spec: EnvSpec, options: Options, *, whole: bool = False) -> PlanningSettings:
        """The planner that the options of a command ask for; ours has fewer rounds in the preset ``laptop``."""
        changed = {**options.of(PLANNING), **(options.planning or {})}
        if options.preset == "laptop" and options.planner is None and not spec.discrete:
            changed = FEWER_ROUNDS | changed
        return cls.of(spec, options.planner, whole=whole, **changed)

    def objective(self, spec: EnvSpec) -> Objective:
        """Returns what the planner maximises."""
        return Objective(spec, bool(self.safety), self.rollout, self.penalty)

    def episode_seconds(self, spec: EnvSpec, members: int) -> float:
        """Estimate how long one core plans for an episode, with an ensemble of so many members."""
        plans = self.settings.plans * self.rounds * members / 5
        if spec.name == "mountaincar" and self.planner in _PLAN_SECONDS:
            return _PLAN_SECONDS[self.planner] * plans
        seconds = _STATE_SECONDS.get(spec.name, _OTHER_STATE_SECONDS) * plans * self.settings.horizon
        return seconds if self.precision == PRECISIONS[0] else seconds / 2

    @property
    def rounds(self) -> int:
        """How often a search scores its plans; ``CEM`` once before it iterates."""
        return getattr(self.settings, "iterations", 1) + (self.planner == "cem")


def planning_text(settings: Mapping[str, Any], spec: EnvSpec) -> str:
    """Say how a method plans, from the settings of its cell: planner, plans, horizon and shaping.

    It names rollout, penalty and prior where they are ours. Rows of before ``safety`` was a setting have none; then all
    planners but random shooting added it.
    """
    planning = settings["planning"]
    acting = settings.get("acting") or planning.get("acting", {})  # of CaDM and of its planner
    own, name = planning["settings"], planning["planner"]
    rounds = f", {own['iterations'] + (name == 'cem')} rounds" if "iterations" in own else ""
    terms = []
    if spec.planning.progress is not None and acting.get("progress", True):
        terms.append("progress")
    if spec.planning.safety is not None and not acting and planning.get("safety", name != "random_shooting"):
        terms.append("safety")
    told = f"{name}, {own['plans']} plans{rounds}, horizon {own['horizon']}, shaping: {' and '.join(terms) or 'none'}"
    told += ", from the members' mean state" if planning.get("rollout") == MEAN else ""
    told += f", penalty {planning['penalty']:g}" if planning.get("penalty") else ""
    return told + (f", prior {planning['prior']}" if "prior" in planning else "")


class Planned:
    """Acts by model predictive control.

    Args:
        planner: finds the plans.
        actions: of ``MPC``, where plans are deviations.
    """

    def __init__(self, planner: Planner, actions: Callable[[Array, Agents, Plans], Plans] | None = None) -> None:
        self._planner, self._actions = planner, actions

    def policy(self, agents: NDArray[np.int64]) -> BatchPolicy:
        """MPC for the agent of each episode ``[B]``."""
        return MPC(self._planner, agents, self._actions)

    def plan(self, agents: NDArray[np.int64], states: NDArray[Any], rng: np.random.Generator) -> Plans:
        """The best plans ``[B, H]`` or ``[B, H, A]`` from states ``[B, S]``; see ``Simulator``."""
        plans, _ = self._planner.search(states, agents, None, rng)
        plans = plans if self._actions is None else self._actions(states, agents, plans)
        return plans.astype(np.int64) if plans.ndim == 2 else plans
