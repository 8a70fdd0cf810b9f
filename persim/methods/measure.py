"""The one measurement: data, training, prediction error and reward of any method, whoever asks.

Every command that trains or measures goes through here, so the same question has the same seeds, the same names
of files and the same rows. The steps are functions of their own, so that workers can share them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from persim import seeding
from persim.data import Trajectories, collect_regime
from persim.data.policies import load_test_policy
from persim.envs import EnvSpec, get
from persim.envs.spec import Array
from persim.errors import InputError
from persim.evaluation.factors import covariate_r2
from persim.evaluation.prediction import errors_of, true_rollouts
from persim.evaluation.reward import average_rewards
from persim.evaluation.tensor_rank import approximations, sample
from persim.learning.model import KIND as MODEL_KIND
from persim.methods.job import TENSOR, Job
from persim.methods.protocol import Fitted, HasFactors, Part, Predictor, Report, Weights
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, code_version, row
from persim.storage.machine import joined, machine

_REWARD_ROWS = {"reward": "mean", "reward_std": "std", "length": "length"}
Rows = list[dict[str, Any]]
Progress = Callable[[str, float], None]  # told what is being done, and the share of it that is done


def dataset(job: Job, cells: CellStore, progress: Callable[[int, int], None] | None = None) -> Trajectories:
    """The dataset of a job, from the store if it is there, else recorded and kept there.

    Args:
        job: names environment, regime, N and seed.
        cells: the store.
        progress: told the steps so far and how many episodes go on, while data are recorded.

    Raises:
        InputError: the stored file is damaged or holds something else.
    """
    env, regime, agents, seed = job.data_key
    path, spec = cells.dataset_path(env, regime, agents, seed), get(env)
    if not path.exists():
        data = collect_regime(spec, regime, agents, seed, progress)
        data.save(path)
        return data
    data = Trajectories.load(path)
    if (data.env, data.regime, data.n_agents) != (spec.name, regime, agents):
        raise InputError(f"{str(path)!r} holds other data than its name says; delete it, then run again")
    return data


def train_parts(
    job: Job, numbers: Sequence[int], data: Trajectories, cells: CellStore, device: str, report: Report | None = None
) -> None:
    """Train parts of the weights and keep each in the store; an interrupted training goes on from its checkpoint."""
    root = cells.root
    checkpoint = root / "checkpoints" / f"{job.weights_name}-{'-'.join(map(str, numbers))}.safetensors"
    base = None if job.base is None else weights(job.base, cells)
    part = Part(
        numbers[0],
        data,
        get(job.cell.env),
        job.cell.seed,
        device=device,
        checkpoint=checkpoint,
        report=report,
        base=base,
    )
    worked = {"machine": joined([machine(device), *([] if base is None else [_machine_of(base)])])}
    for number, trained in zip(numbers, job.method.fit_parts(part, numbers), strict=True):
        store.write_arrays(root / job.part_file(number), trained.arrays, MODEL_KIND, {**trained.settings, **worked})
    checkpoint.unlink(missing_ok=True)


def assemble(job: Job, cells: CellStore) -> None:
    """Put the parts of the weights together, keep them in the store, and remove the parts."""
    paths = [cells.root / job.part_file(number) for number in range(job.method.parts)]
    parts = [Weights(*store.read_arrays(path, MODEL_KIND)) for path in paths]
    with store.contents_of(paths[0]):
        whole = job.method.assemble(parts)
    env, regime, agents, seed = job.data_key
    about = {**whole.settings["about"], "env": get(env).name, "regime": regime, "agents": agents, "seed": seed}
    settings = {**whole.settings, "about": about, "machine": joined(map(_machine_of, parts))}
    store.write_arrays(cells.root / job.model_file, whole.arrays, MODEL_KIND, settings)
    for path in paths:
        path.unlink(missing_ok=True)


def _machine_of(learnt: Weights) -> dict[str, str]:
    """What trained these weights; empty if they do not say so, as those of earlier versions."""
    return dict(learnt.settings.get("machine", {}))


def part_groups(job: Job, device: str) -> list[tuple[int, ...]]:
    """Group the parts into what is trained together; the same groups always, as members beside others round alike."""
    return _groups(job.method.parts, job.method.trains_jointly(device))


def _groups(count: int, together: bool) -> list[tuple[int, ...]]:
    """All numbers from 0 in one group, or each in one of its own."""
    return [tuple(range(count))] if together and count else [(number,) for number in range(count)]


def weights(job: Job, cells: CellStore) -> Weights:
    """Read the trained weights from the store.

    Raises:
        InputError: they are missing or damaged.
    """
    if not job.method.parts:
        return job.method.assemble([])
    return Weights(*store.read_arrays(cells.root / job.model_file, MODEL_KIND))


def trained(job: Job, cells: CellStore, device: str, progress: Progress | None = None) -> Weights:
    """The weights of a job, with everything trained, in this process, that the store lacks."""
    if job.method.parts and not (cells.root / job.model_file).exists():
        if job.base is not None:
            trained(job.base, cells, device, progress)
        there = [(cells.root / job.part_file(number)).exists() for number in range(job.method.parts)]
        groups = [group for group in part_groups(job, device) if not all(there[number] for number in group)]
        data = dataset(job, cells) if groups else None
        for place, numbers in enumerate(groups):
            assert data is not None

            def show(share: float, place: int = place) -> None:
                if progress is not None:
                    progress(f"training {job.method.name}", (place + share) / len(groups))

            train_parts(job, numbers, data, cells, device, show)
        assemble(job, cells)
    return weights(job, cells)


def piece_groups(job: Job, device: str) -> list[tuple[int, ...]]:
    """Group the pieces of a measurement into what is done at once: the episodes of all agents on a GPU."""
    return _groups(len(job.pieces), device != "cpu" and job.method.joint)


def measure_pieces(
    job: Job, numbers: Sequence[int], cells: CellStore, device: str, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Measure pieces of a cell together; returns their rows and timings, as records can hold them."""
    started, spec, covariates = time.time(), job.spec, job.covariates
    learnt = weights(job, cells)
    with store.contents_of(cells.root / job.model_file):
        fitted = job.method.restore(learnt, spec, covariates, device)
    agents = [agent for number in numbers if (agent := job.pieces[number]) is not None]

    def show(step: int, running: int) -> None:
        if progress is not None:
            progress(f"{'agents' if len(agents) > 1 else 'agent'} {_list(agents)} acting", step / spec.horizon)

    if agents:
        rows, decision = reward_rows(fitted, job, covariates, agents, show)
    elif job.cell.what == TENSOR:
        rows, decision = [tensor_rows(job, dataset(job, cells))], None
    else:
        if progress is not None:
            progress("predicting", 0.0)
        rows, decision = [prediction_rows(fitted, spec, job.cell.seed)], None
        if "unseen" not in job.cell.measure:  # the factors of unseen agents were made from their covariates
            rows[0] += factor_rows(fitted, spec, covariates)
    about, took = learnt.settings.get("about", {}), (time.time() - started) / len(numbers)
    worked = joined([machine(device), *([_machine_of(learnt)] if job.method.parts else [])])
    return [
        {
            "rows": own,
            "decision_ms": decision,
            "started": int(1e3 * (started + place * took)),
            "ended": int(1e3 * (started + (place + 1) * took)),
            "curves": about.get("curves", {}),
            "train_seconds": about.get("seconds", 0.0),
            "machine": worked,
        }
        for place, own in enumerate(rows)
    ]


def _list(agents: Sequence[int]) -> str:
    return ", ".join(str(agent + 1) for agent in agents)


def prediction_rows(fitted: Fitted, spec: EnvSpec, seed: int) -> Rows:
    """Rows of the prediction error of every test agent."""
    assert isinstance(fitted, Predictor)
    policy = load_test_policy(spec.name, spec.action_space)
    rollouts = true_rollouts(spec, policy, seeding.generator(seed, "prediction"))
    predicted = fitted.predict(rollouts.agents, rollouts.start, rollouts.played, rollouts.history)[:, 1:]
    rows: Rows = []
    for error in errors_of(predicted, rollouts):
        number = error.agent + 1
        rows += [row("prediction_rmse", error.rmse, number), row("prediction_r2", error.r2, number)]
        rows.append(row("prediction_steps", error.steps, number))
    return rows


def tensor_rows(job: Job, data: Trajectories) -> Rows:
    """Rows of how well each rank approximates the true dynamics of the agents in states of their data (Theorem 1)."""
    how, rng = job.cell.measure, seeding.generator(job.cell.seed, TENSOR)
    chosen = rng.choice(len(data), min(how["states"], len(data)), replace=False)
    found = sample(job.spec, job.covariates, data.observation[chosen].astype(np.float64), how["actions"] or 0, rng)
    rows = [
        row(f"tensor_{metric}_rank_{each.rank}", getattr(each, metric))
        for each in approximations(found, how["ranks"], how["starts"], rng)
        for metric in ("error", "max_error", "cover_error")
    ]
    if found.clipped.any() and not found.clipped.all():
        inside = approximations(found.inside(), how["ranks"], how["starts"], rng)
        rows += [row(f"tensor_inside_error_rank_{each.rank}", each.error) for each in inside]
    return [*rows, row("tensor_clipped", float(found.clipped.mean()))]


def factor_rows(fitted: Fitted, spec: EnvSpec, covariates: Array) -> Rows:
    """Rows of how well the agents' factors give each of their covariates ``[N, C]``, of a method that has factors."""
    if not isinstance(fitted, HasFactors):
        return []
    values = covariate_r2(fitted.agent_factors(), covariates)
    return [row(f"factor_r2_{name}", r2) for name, r2 in zip(spec.covariate_names, values, strict=True)]


def reward_rows(
    fitted: Fitted,
    job: Job,
    covariates: Array,
    agents: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Rows], float]:
    """Rows of the reward of each of these agents, and the milliseconds of a decision.

    Every agent has a random stream of its own, so its rows do not depend on who is measured beside it.

    Args:
        fitted: acts for the agents.
        job: says how many episodes each agent plays.
        covariates: ``[N, C]`` of all agents.
        agents: ids from 0.
        progress: told the steps so far and how many episodes go on.
    """
    spec, episodes = job.spec, int(job.cell.measure["episodes"])
    rngs = [seeding.generator(job.cell.seed, "episodes", spec.name, agent) for agent in agents]
    rng = rngs[0] if len(rngs) == 1 else seeding.Streams(rngs, [episodes] * len(rngs))
    result = average_rewards(spec, covariates, fitted.policy, rng, agents=agents, episodes=episodes, progress=progress)
    rows = [
        [row(metric, getattr(earned, name), earned.agent + 1) for metric, name in _REWARD_ROWS.items()]
        for earned in result.agents
    ]
    return rows, result.decision_ms


def finished_cell(job: Job, records: Sequence[Mapping[str, Any]]) -> FinishedCell:
    """Put the pieces of a measurement together."""
    decisions = [record["decision_ms"] for record in records if record["decision_ms"] is not None]
    seconds = {"train": max(record["train_seconds"] for record in records)}
    seconds["measure"] = sum(record["ended"] - record["started"] for record in records) / 1e3
    if decisions:
        seconds["decision"] = sum(decisions) / len(decisions) / 1e3
    return FinishedCell(
        cell=job.cell,
        rows=[entry for record in records for entry in record["rows"]],
        curves=records[0]["curves"],
        commit=code_version(),
        seconds=seconds,
        started=min(record["started"] for record in records),
        ended=max(record["ended"] for record in records),
        model=job.model_file if job.method.parts else "",
        machine=joined(record.get("machine", {}) for record in records),
    )


def compute(job: Job, cells: CellStore, device: str = "cpu", progress: Progress | None = None) -> FinishedCell:
    """Compute a cell in this process, with everything that it needs, and record it; a finished one is read."""
    done = cells.finished(job.cell)
    if done is None:
        trained(job, cells, device, progress)
        groups = piece_groups(job, device)
        records = [record for group in groups for record in measure_pieces(job, group, cells, device, progress)]
        done = finished_cell(job, records)
        cells.finish(done)
    return done


def checkpoint_path(root: Path, cell: Cell) -> Path:
    """Where a trial that trains by itself (``persim.methods.holdout``) saves its training while it runs."""
    return root / "checkpoints" / f"{cell.id}.safetensors"
