"""Planners by name, and their default settings for each environment."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gymnasium.spaces import Discrete

from persim.envs.spec import ActionSpace, EnvSpec
from persim.errors import InputError, check_choice, nearest
from persim.planning.cem import CEM
from persim.planning.device_cem import DeviceCEM
from persim.planning.icem import ICEM
from persim.planning.mppi import MPPI
from persim.planning.planner import EliteSettings, Planner, PlannerSettings
from persim.planning.prepared import PreparedScorer
from persim.planning.scoring import AUTO, MEAN, MEMBERS, OFF, Scorer
from persim.planning.shooting import PersistentShooting, RandomShooting

PLANNERS: dict[str, type[Planner]] = {"random_shooting": RandomShooting, "persistent_shooting": PersistentShooting}
PLANNERS |= {"cem": CEM, "icem": ICEM, "mppi": MPPI}

PAPER = "paper"  # stands for the paper's own planner, with its settings and without shaping of ours
NAMES = (*PLANNERS, PAPER)  # what a command takes

# Our planner of each environment; others have that of their actions.
_OURS = {"mountaincar": "persistent_shooting", "cartpole": "random_shooting"}

# Settings that differ from a planner's defaults in one environment, and ``safety`` where it does; docs/planning.md says
# how they were found. Planner and settings of an environment stand here as ``sweeps/report.py`` chooses them from rows.
_TUNED: dict[tuple[str, str], dict[str, Any]] = {
    ("mountaincar", "persistent_shooting"): {"horizon": 150},
    ("cartpole", "random_shooting"): {"horizon": 8, "safety": True},
    ("cartpole", "persistent_shooting"): {"horizon": 10},
    ("halfcheetah", "cem"): {"spread": (0.5, 0.9)},
    ("halfcheetah", "icem"): {"plans": 64, "beta": 0.25},
}

# The same for plans that are played to their end (synthetic trajectories), where searches are rare and may take long:
# in MountainCar the best of 1000 plans takes agent 5 up to 40 steps longer than the best of 10,000.
_TUNED_WHOLE: dict[tuple[str, str], dict[str, Any]] = {("mountaincar", "persistent_shooting"): {"plans": 10_000}}


def default_planner(space: ActionSpace, env: str = "") -> str:
    """Returns the name of our planner for an environment, or for an action space."""
    return _OURS.get(env, "persistent_shooting" if isinstance(space, Discrete) else "cem")


def paper_planner(space: ActionSpace) -> str:
    """Returns the name of the paper's planner for an action space (Appendix D.1)."""
    return "random_shooting" if isinstance(space, Discrete) else "cem"


def default_scoring(space: ActionSpace) -> tuple[str, float, str]:
    """Returns rollout and penalty (``Objective``), and use of a behaviour prior, of our planners for an action space.

    With continuous actions a search finds what the model gets wrong, and the harder it searches, the less it earns
    (docs/planning.md). With discrete ones our planners reach what the true environment allows without either.
    """
    return (MEMBERS, 0.0, OFF) if isinstance(space, Discrete) else (MEAN, 10.0, AUTO)


def default_safety(name: str, spec: EnvSpec) -> bool | None:
    """Tells whether a planner adds our safety term if nothing is said: all do but the paper's.

    None where the environment has no such term.
    """
    if spec.planning.safety is None:
        return None
    return bool(_TUNED.get((spec.name, name), {}).get("safety", name != paper_planner(spec.action_space)))


def planner_settings(name: str, env: str = "", *, whole: bool = False, **options: Any) -> PlannerSettings:
    """Returns a planner's settings: its defaults, overridden by those tuned for ``env``, then by ``options``.

    Give ``whole`` if plans are played to their end before the next search. Where ``options`` lower the number of plans
    and say nothing of elites, there are no more elites than plans.

    Raises:
        InputError: the planner is unknown, does not have an option, or a value is out of range.
    """
    kind = PLANNERS[check_choice("planner", name, PLANNERS)].settings_type
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise InputError(f"{name} has no {option!r}{nearest(option, known)}; it has {', '.join(known)}")
    tuned = _TUNED.get((env, name), {}) | (_TUNED_WHOLE.get((env, name), {}) if whole else {})
    chosen = {**{key: value for key, value in tuned.items() if key in known}, **options}
    if issubclass(kind, EliteSettings) and "elites" not in options and options.get("plans", 0) >= 1:
        chosen["elites"] = min(chosen.get("elites", kind.elites), options["plans"])
    return kind(**chosen)


def make_planner(
    name: str, scorer: Scorer, space: ActionSpace, settings: PlannerSettings, *, deviates: bool = False
) -> Planner:
    """Builds the planner of that name; ``cem`` on a GPU searches there.

    With ``deviates`` plans are deviations from an imitated policy.

    Raises:
        InputError: the planner is unknown or does not support the action space.
    """
    kind = PLANNERS[check_choice("planner", name, PLANNERS)]
    on_gpu = isinstance(scorer, PreparedScorer) and scorer.device.type == "cuda"
    return (DeviceCEM if kind is CEM and on_gpu else kind)(scorer, space, settings, deviates=deviates)
