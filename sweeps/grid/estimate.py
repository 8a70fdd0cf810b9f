"""How long tasks take, roughly, before anything has run: for ``--dry-run`` and the bar's time left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from baselines.registry import METHODS
from persim.envs import get
from persim.evaluation import paper
from persim.learning.presets import preset
from sweeps.grid.tasks import REWARD, Task, measurements


@dataclass(frozen=True)
class _Cost:
    """Measured on one core of the two-core machine of docs/performance.md.

    Attributes:
        step_ms: one optimiser step of one member at the paper's nets and batch.
        decision_ms: one decision at the default planner's settings, five members.
        steps: of an episode under that planner.
        collect_s: recording 500 trajectories.
    """

    step_ms: float
    decision_ms: float
    steps: int
    collect_s: float


_COSTS = {
    "mountaincar": _Cost(step_ms=0.35, decision_ms=30.0, steps=80, collect_s=0.2),
    "cartpole": _Cost(step_ms=0.13, decision_ms=0.8, steps=200, collect_s=0.1),
    "halfcheetah": _Cost(step_ms=13.0, decision_ms=300.0, steps=1000, collect_s=25.0),
}
_OTHER = _Cost(step_ms=1.0, decision_ms=50.0, steps=200, collect_s=1.0)
_PREDICTION_S, _ASSEMBLE_S = 2.0, 0.1
_POLICY_DECISION_MS = {True: 0.01, False: 2.0}  # of one of 100 episodes at once; discrete actions or not
_UPDATE_MS = {"discrete_bcq": 4.0, "bcq": 70.0, "discrete_cql": 17.0, "cql": 130.0}  # at the paper's nets and batch
_MAP_STEP_MS = 1.0  # of all members together
_CADM_UPDATE_MS, _CADM_STATE_MS = 8.5, 0.0045  # of one member; of one state moved on in a rollout
_MOREL_MS = {128: (2.7, 0.065), 512: (35.0, 0.15), 1024: (120.0, 0.35)}  # by width: an update, a step of PPO


def seconds(task: Task) -> float:
    """What a task takes on one core."""
    cell, cost = task.cell, _COSTS.get(task.cell.env, _OTHER)
    if task.kind == "data":
        return cost.collect_s * cell.agents / 500
    if task.kind == "model":
        return _ASSEMBLE_S
    if task.kind == "part":
        return _training(task, cost.step_ms) / 1e3
    if measurements(cell)[task.number].what != REWARD:
        return _PREDICTION_S
    budget, spec = cell.settings["budget"], get(cell.env)
    if not METHODS[cell.method].plans:
        return float(budget["policy_episodes"]) * spec.horizon * _POLICY_DECISION_MS[spec.discrete] / 1e3
    if "acting" in cell.settings["method"]:  # CaDM; it rarely reaches the goal of MountainCar
        return float(budget["episodes"]) * spec.horizon * _cadm_decision(task) / 1e3
    share = _planning_share(task)
    return float(budget["episodes"]) * cost.steps * cost.decision_ms / 1e3 * share


def _training(task: Task, step_ms: float) -> float:
    """Milliseconds of a part; ``step_ms`` is for one step of PerSim."""
    method = task.cell.settings["method"]
    if "map" in method:  # PerSim for unseen agents; what it starts from is a part of its own
        return float(method["map"]["steps"] * _MAP_STEP_MS)
    settings = method.get("settings", {})
    if "ppo" in settings:
        return _morel(task, settings)
    if "future" in settings:
        return _cadm(task, settings)
    return float(settings["updates"]) * _update_ms(task) if "updates" in settings else _updates(task) * step_ms


def _morel(task: Task, settings: dict[str, Any]) -> float:
    """Milliseconds of its dynamics, and its policy."""
    dynamics, agents = settings["dynamics"], task.cell.agents if task.cell.settings["method"]["pooled"] else 1
    batches = agents * _length(task) / dynamics["batch_size"]
    update_ms, step_ms = _MOREL_MS[dynamics["width"]]
    updates = max(dynamics["epochs"] * batches, dynamics["min_updates"])
    return float(updates * update_ms + settings["ppo"]["steps"] * step_ms)


def _cadm(task: Task, settings: dict[str, Any]) -> float:
    """Milliseconds of its updates; without a limit as many as the epochs take, half of them on half the data."""
    pairs = task.cell.agents * _length(task) * settings["future"] / settings["batch_size"]
    updates = settings["epochs"] * pairs * (settings["iterations"] + 1) / 2
    return float(min(settings["updates"] or updates, updates) * settings["members"] * _CADM_UPDATE_MS)


def _cadm_decision(task: Task) -> float:
    """Milliseconds of a decision, from the states that all plans, particles, steps and rounds go through."""
    method = task.cell.settings["method"]
    plan = method["planning"]["settings"]
    rounds = 1 + plan.get("iterations", 0)
    return float(plan["plans"] * plan["horizon"] * rounds * method["acting"]["particles"] * _CADM_STATE_MS)


def _update_ms(task: Task) -> float:
    algorithm = "bcq" if "bcq" in task.cell.method else "cql"
    return _UPDATE_MS[f"discrete_{algorithm}" if get(task.cell.env).discrete else algorithm]


def _updates(task: Task) -> float:
    """Optimiser steps of one part: epochs times transitions over the batch."""
    cell = task.cell
    batch = preset(cell.env, discrete=get(cell.env).discrete).batch_size
    return float(cell.settings["budget"]["epochs"]) * cell.agents * _length(task) / batch


def _length(task: Task) -> float:
    """Mean steps of a trajectory."""
    known = paper.observed_data(task.cell.env, task.cell.regime)
    return known[-1] if known else get(task.cell.env).horizon


def _planning_share(task: Task) -> float:
    """Size of the plans against the default's; a model of fewer members is cheaper, too."""
    settings = task.cell.settings["method"].get("planning", {}).get("settings")
    if settings is None:
        return 1.0
    changed = task.cell.settings["budget"]["planning"]
    share = changed["plans"] / 1000 if "plans" in changed else 1.0
    return float(share * int(task.cell.settings["budget"]["members"]) / 5)
