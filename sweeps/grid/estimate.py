"""How long tasks take, roughly, before anything has run: for ``--dry-run`` and the bar's time left."""

from __future__ import annotations

from persim.envs import get
from persim.evaluation import paper
from persim.methods.job import REWARD, TENSOR
from sweeps.grid.tasks import Task

_RECORD_SECONDS = {"mountaincar": 0.2, "cartpole": 0.1, "halfcheetah": 25.0}  # of one core, for 500 trajectories
_PREDICTION_SECONDS, _ASSEMBLE_SECONDS = 2.0, 0.1
_TENSOR_SECONDS = {"halfcheetah": 100.0}  # of all ranks; one of the others


def seconds(task: Task) -> float:
    """Estimate what a task takes on one core; each method knows its own cost."""
    job, cell = task.job, task.job.cell
    spec = get(cell.env)
    if task.kind == "data":
        return _RECORD_SECONDS.get(cell.env, 1.0) * cell.agents / 500
    if task.kind == "model":
        return _ASSEMBLE_SECONDS
    if task.kind == "part":
        known = paper.observed_data(cell.env, cell.regime)
        steps = known[-1] if known else spec.horizon  # mean steps of a trajectory
        return len(task.numbers) * job.method.part_seconds(spec, cell.agents, steps)
    if cell.what == TENSOR:
        return _TENSOR_SECONDS.get(cell.env, 1.0)
    if cell.what != REWARD:
        return _PREDICTION_SECONDS
    return len(task.numbers) * float(cell.measure["episodes"]) * job.method.episode_seconds(spec)
