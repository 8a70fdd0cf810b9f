"""Planners by name, and their default settings for each environment."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gymnasium.spaces import Discrete

from persim.envs.spec import ActionSpace, EnvSpec
from persim.errors import InputError, check_choice, nearest
from persim.planning.cem import CEM
from persim.planning.icem import ICEM
from persim.planning.mppi import MPPI
from persim.planning.planner import Planner, PlannerSettings
from persim.planning.scoring import Objective, Scorer
from persim.planning.shooting import PersistentShooting, RandomShooting

PLANNERS: dict[str, type[Planner]] = {"random_shooting": RandomShooting, "persistent_shooting": PersistentShooting}
PLANNERS |= {"cem": CEM, "icem": ICEM, "mppi": MPPI}

# Settings that differ from a planner's defaults in one environment; docs/planning.md says how they were found.
_TUNED: dict[tuple[str, str], dict[str, Any]] = {
    ("mountaincar", "persistent_shooting"): {"horizon": 150},
    ("cartpole", "persistent_shooting"): {"horizon": 10},
    ("halfcheetah", "icem"): {"plans": 64, "beta": 0.25},
}

# The same for plans that are played to their end (synthetic trajectories), where searches are rare and may take long:
# in MountainCar the best of 1000 plans takes agent 5 up to 40 steps longer than the best of 10,000.
_TUNED_WHOLE: dict[tuple[str, str], dict[str, Any]] = {("mountaincar", "persistent_shooting"): {"plans": 10_000}}


def default_planner(space: ActionSpace) -> str:
    """Returns the name of the default planner for an action space."""
    return "persistent_shooting" if isinstance(space, Discrete) else "icem"


def planner_settings(name: str, env: str = "", *, whole: bool = False, **options: Any) -> PlannerSettings:
    """Returns a planner's settings: its defaults, overridden by those tuned for ``env``, then by ``options``.

    Give ``whole`` if plans are played to their end before the next search.

    Raises:
        InputError: the planner is unknown, does not have an option, or a value is out of range.
    """
    kind = PLANNERS[check_choice("planner", name, PLANNERS)].settings_type
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise InputError(f"{name} has no {option!r}{nearest(option, known)}; it has {', '.join(known)}")
    tuned = _TUNED.get((env, name), {}) | (_TUNED_WHOLE.get((env, name), {}) if whole else {})
    return kind(**{**tuned, **options})


def make_planner(name: str, scorer: Scorer, space: ActionSpace, settings: PlannerSettings) -> Planner:
    """Builds the planner of that name.

    Raises:
        InputError: the planner is unknown or does not support the action space.
    """
    return PLANNERS[check_choice("planner", name, PLANNERS)](scorer, space, settings)


def planner_objective(name: str, spec: EnvSpec) -> Objective:
    """Returns what a planner maximises: all but random shooting, the paper's planner, add our safety term."""
    return Objective(spec, safety=name != "random_shooting")
