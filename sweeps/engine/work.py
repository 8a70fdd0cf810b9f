"""What a worker does for a task: record a dataset, train a part of a model, put it together, measure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.registry import METHODS
from persim import seeding
from persim.data import Trajectories
from persim.data.policies import load_test_policy
from persim.envs import EnvSpec, get
from persim.evaluation.factors import covariate_r2
from persim.evaluation.prediction import errors_of, true_rollouts
from persim.evaluation.reward import average_rewards
from persim.learning.model import KIND as MODEL_KIND
from persim.methods import Fitted, HasFactors, Part, Predictor, Weights
from persim.storage import store
from persim.storage.cells import Cell, CellStore, row
from sweeps import options as common
from sweeps.grid.suites import covariates_of, method_of, spec_of
from sweeps.grid.tasks import PREDICTION, Task, base_cell, measurements, model_output, part_output

PIECE = "piece"
Rows = list[dict[str, Any]]


def perform(task: Task, root: Path, data: Trajectories | None, device: str) -> float:
    """Does a task whose file is not there yet; returns the seconds it took.

    Args:
        task: what to do.
        root: the store.
        data: the dataset, for a ``part``.
        device: ``cpu`` or ``cuda``.
    """
    started = time.perf_counter()
    if not (root / task.output).exists():
        _WORK[task.kind](task, root, data, device)
    return time.perf_counter() - started


def dataset(task: Task, cells: CellStore) -> Trajectories:
    """The dataset of a task, from the store, or recorded and kept there.

    Raises:
        InputError: it is damaged, or not what its name says.
    """
    cell = task.cell
    return common.dataset(cell.env, cell.regime, cell.agents, int(cell.settings["seed"]), cells)


def _record(task: Task, root: Path, data: Trajectories | None, device: str) -> None:
    dataset(task, CellStore(root))


def _train(task: Task, root: Path, data: Trajectories | None, device: str) -> None:
    assert data is not None
    cell, output = task.cell, root / task.output
    checkpoint = root / "checkpoints" / output.name
    base = base_cell(cell)
    part = Part(
        task.number,
        data,
        get(cell.env),
        int(cell.settings["seed"]),
        device=device,
        checkpoint=checkpoint,
        base=None if base is None else _weights(base, root),
    )
    weights = method_of(cell).fit_part(part)
    store.write_arrays(output, weights.arrays, MODEL_KIND, weights.settings)
    checkpoint.unlink(missing_ok=True)


def _weights(cell: Cell, root: Path) -> Weights:
    return Weights(*store.read_arrays(root / model_output(cell), MODEL_KIND))


def _assemble(task: Task, root: Path, data: Trajectories | None, device: str) -> None:
    cell, method = task.cell, method_of(task.cell)
    paths = [root / part_output(cell, number) for number in range(method.parts)]
    weights = method.assemble([Weights(*store.read_arrays(path, MODEL_KIND)) for path in paths])
    named = {"env": get(cell.env).name, "regime": cell.regime, "agents": cell.agents, "seed": cell.settings["seed"]}
    about = {**weights.settings["about"], **named}  # what `python -m persim render --model` asks for
    store.write_arrays(root / task.output, weights.arrays, MODEL_KIND, {**weights.settings, "about": about})
    for path in paths:
        path.unlink(missing_ok=True)


def _measure(task: Task, root: Path, data: Trajectories | None, device: str) -> None:
    cell = task.cell
    spec, method, seed = spec_of(cell), method_of(cell), int(cell.settings["seed"])
    started = int(time.time() * 1e3)
    covariates = covariates_of(cell)
    weights = _weights(cell, root) if method.parts else Weights({}, {})
    fitted = method.restore(weights, spec, covariates, device)
    piece = measurements(cell)[task.number]
    if piece.what == PREDICTION:
        rows, timings = _prediction(fitted, spec, seed), dict[str, float]()
        if "unseen" not in cell.settings:  # the factors of unseen agents were made from their covariates
            rows += factor_rows(fitted, spec, covariates)
    else:
        assert piece.agent is not None
        rows, timings = _reward(fitted, task, covariates, piece.agent)
    about = weights.settings.get("about", {})
    record = {
        "rows": rows,
        "timings": timings,
        "started": started,
        "ended": int(time.time() * 1e3),
        "curves": about.get("curves", {}),
        "train_seconds": about.get("seconds", 0.0),
    }
    store.write_record(root / task.output, PIECE, record)


def _prediction(fitted: Fitted, spec: EnvSpec, seed: int) -> Rows:
    """Rows of the prediction error of every test agent."""
    assert isinstance(fitted, Predictor)
    policy = load_test_policy(spec.name, spec.action_space)
    rollouts = true_rollouts(spec, policy, seeding.generator(seed, "prediction"))
    rows: Rows = []
    predicted = fitted.predict(rollouts.agents, rollouts.start, rollouts.played, rollouts.history)[:, 1:]
    for error in errors_of(predicted, rollouts):
        number = error.agent + 1
        rows += [row("prediction_rmse", error.rmse, number), row("prediction_r2", error.r2, number)]
    return rows


def factor_rows(fitted: Fitted, spec: EnvSpec, covariates: NDArray[np.float64]) -> Rows:
    """Rows of how well the agents' factors give each covariate, of a method that has factors."""
    if not isinstance(fitted, HasFactors):
        return []
    values = covariate_r2(fitted.agent_factors(), covariates)
    return [row(f"factor_r2_{name}", r2) for name, r2 in zip(spec.covariate_names, values, strict=True)]


def _reward(fitted: Fitted, task: Task, covariates: NDArray[np.float64], agent: int) -> tuple[Rows, dict[str, float]]:
    """Rows of the reward of one test agent, and what a decision took."""
    spec, settings = spec_of(task.cell), task.cell.settings
    rng = seeding.generator(int(settings["seed"]), "episodes", spec.name, agent)
    episodes = int(settings["budget"]["episodes" if METHODS[task.cell.method].plans else "policy_episodes"])
    result = average_rewards(spec, covariates, fitted.policy, rng, agents=[agent], episodes=episodes)
    earned, number = result.agents[0], agent + 1
    rows = [row("reward", earned.mean, number), row("reward_std", earned.std, number)]
    return [*rows, row("length", earned.length, number)], {"decision_ms": result.decision_ms}


_WORK = {"data": _record, "part": _train, "model": _assemble, "measure": _measure}
