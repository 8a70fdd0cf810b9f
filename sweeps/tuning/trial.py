"""One trial of a tuning study: train with some settings, measure on the hold-out, perhaps plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from persim import seeding
from persim.data import Trajectories
from persim.data.collect import population
from persim.envs import get
from persim.evaluation.reward import RewardResult, average_rewards
from persim.learning.ensemble import SPARE_MEMBERS, best_members
from persim.learning.gradients import TrainingRows
from persim.learning.model import LowRankDynamics
from persim.learning.presets import Preset, preset
from persim.learning.training import (
    HOLDOUT_EVERY,
    DivergenceError,
    EpochReport,
    TrainResult,
    TrainSettings,
    holdout_errors,
    split,
    train,
)
from persim.planning.planner import MPC, PlannerSettings
from persim.planning.registry import PLANNERS, default_planner, make_planner, planner_objective, planner_settings
from persim.planning.scorers import model_scorer
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, code_version, row
from sweeps.tuning.rank_trial import curves
from sweeps.tuning.space import PLANNING, Space, Values

SUITE = "tune"
OBJECTIVES = ("holdout", "reward")
REDUCTION = 3  # of ASHA: one trial in three goes on at each rung
_GRACE = 27  # a trial has a 27th of the longest before it can be stopped: three rungs before the end


@dataclass(frozen=True)
class StudySettings:
    """Everything the results of a study depend on, but for the number of trials; validated by ``tune.py``."""

    env: str
    regime: str
    agents: int
    holdout: float
    seed: int
    objective: str
    members: int
    episodes: int
    space: Space

    def as_json(self) -> dict[str, Any]:
        """For records and hashes."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"space": self.space.as_json()}

    @property
    def id(self) -> str:
        """Names the study: the hash of its settings."""
        return store.settings_hash({"suite": SUITE, **self.as_json()})

    @property
    def largest_epochs(self) -> int:
        """Epochs of the longest trial."""
        return int(self.space.largest("epochs"))

    @property
    def grace(self) -> int:
        """Epochs before a trial can be stopped."""
        return max(1, self.largest_epochs // _GRACE)

    def rungs(self, epochs: int) -> list[int]:
        """Epochs at which a trial of so many epochs may be stopped."""
        rungs = [self.grace]
        while rungs[-1] < epochs:
            rungs.append(rungs[-1] * REDUCTION)
        return rungs[:-1]

    def nets(self, values: Values) -> Preset:
        """Rank, batch size and nets: those tuned, the others the environment's own."""
        own = preset(self.env, discrete=get(self.env).discrete)
        return Preset(**{name: values.get(name, value) for name, value in asdict(own).items()})

    def training(self, values: Values) -> TrainSettings:
        """Settings of Algorithm 1."""
        given = {name: values[name] for name in ("learning_rate", "epochs") if name in values}
        settings = TrainSettings(batch_size=self.nets(values).batch_size, **given)
        # Of a short training the last 50 epochs would be all of it, the random start included.
        return replace(settings, average_last=min(settings.average_last, settings.epochs // 4))

    def planner(self, values: Values) -> tuple[str, PlannerSettings]:
        """The planner, with those of the tuned settings that it has.

        Raises:
            InputError: more elites than plans.
        """
        spec = get(self.env)
        name = values.get("planner", default_planner(spec.action_space))
        known = PLANNERS[name].settings_type.__dataclass_fields__
        options = {key: values[key] for key in PLANNING if key in values and key in known}
        return name, planner_settings(name, spec.name, **options)

    def cell(self, values: Values, stopped_at: int | None = None) -> Cell:
        """The cell of one trial; of one that was stopped early, with the epoch at which it was.

        The space and the other trials do not enter its id: the same values are computed once.
        """
        nets = asdict(self.nets(values))
        settings = asdict(self.training(values)) | {"holdout_every": HOLDOUT_EVERY} | nets
        settings |= {name: list(nets[name]) for name in ("state_widths", "action_widths")}  # as JSON has them
        settings |= {"holdout": self.holdout, "seed": self.seed, "members": self.members}
        if stopped_at is not None:
            settings |= {"stopped_at": stopped_at}
        elif self.objective == "reward":
            name, planner = self.planner(values)
            settings |= {"planner": name, "planner_settings": asdict(planner), "episodes": self.episodes}
        settings |= {"objective": self.objective}
        return Cell(SUITE, self.env, self.regime, self.agents, "PerSim", 0, settings)

    def value(self, done: FinishedCell) -> float:
        """What is tuned: the hold-out error, or the mean reward; infinite if training diverged."""
        return done.value("holdout_error" if self.objective == "holdout" else "reward")


@dataclass(frozen=True)
class Progress:
    """What a trial tells while it runs; ``rung_error`` at rungs only."""

    epoch: int
    loss: float
    rung_error: float | None


def holdout_shares(model: LowRankDynamics, data: Trajectories, holdout: NDArray[np.int64]) -> NDArray[np.float64]:
    """Hold-out error of each member ``[K]``: the share of variance left, mean over state dimensions.

    Squared error over variance of the same state difference is free of units, so it is the same number
    whether the model works on raw or on normalised data.
    """
    mse = holdout_errors(model, TrainingRows(model, data, holdout))
    targets = model.scaled_deltas(torch.from_numpy(data.delta[holdout].astype(np.float64)).mT)
    variance = targets.var(dim=1, correction=0).numpy()
    varies = variance > 0
    return np.asarray((mse[:, varies] / variance[varies]).mean(axis=1))


def run_trial(
    study: StudySettings,
    values: Values,
    data: Trajectories,
    root: Path,
    progress: Callable[[Progress], None],
    known: Sequence[tuple[int, float]] = (),
) -> FinishedCell:
    """Computes a cell and records it in the store; returns the record if there is one already.

    All trials have the same hold-out split, initial weights and order of transitions, as far as their
    settings allow: they differ in what is tuned. One whose loss becomes non-finite is finished, too,
    with an infinite error.

    Args:
        study: the study.
        values: of the settings in its space.
        data: its dataset.
        root: the store.
        progress: called after every epoch.
        known: rungs that were measured before an interruption.
    """
    cell, cells = study.cell(values), CellStore(root)
    if (done := cells.finished(cell)) is not None:
        return done
    started = time.time()
    try:
        model, holdout, result = _train(study, values, data, cells, {epoch for epoch, _ in known}, progress)
        trained = time.time()
        rows, losses = _measure(study, values, data, model, holdout, result), curves(result)
        seconds = {"train": result.seconds, "measure": time.time() - trained}
    except DivergenceError:
        failed = ("holdout_error",) if study.objective == "holdout" else ("holdout_error", "reward")
        rows, losses = [row(metric, np.inf) for metric in failed], {}
        seconds = {"train": time.time() - started}
    return finish(cells, cell, rows, losses, seconds, started)


def finish(
    cells: CellStore,
    cell: Cell,
    rows: list[dict[str, Any]],
    losses: dict[str, list[list[float]]],
    seconds: dict[str, float],
    started: float,
) -> FinishedCell:
    """Records a trial."""
    times = int(started * 1e3), int(time.time() * 1e3)
    done = FinishedCell(cell, rows, losses, cell.settings["seed"], code_version(), seconds, *times)
    cells.finish(done)
    return done


def _train(
    study: StudySettings,
    values: Values,
    data: Trajectories,
    cells: CellStore,
    known: set[int],
    progress: Callable[[Progress], None],
) -> tuple[LowRankDynamics, NDArray[np.int64], TrainResult]:
    """A trained model, the held-out rows, and the curves."""
    nets, settings, seed = study.nets(values), study.training(values), study.seed
    members = range(study.members + (SPARE_MEMBERS if study.objective == "reward" else 0))
    model = LowRankDynamics(nets.shape(data, nets.rank, len(members)), [_seed(seed, "init", k) for k in members])
    rows, holdout = split(len(data), study.holdout, seeding.generator(seed, SUITE, "holdout"))
    stops = set(study.rungs(settings.epochs)) - known

    def report(epoch: EpochReport) -> None:
        error = None
        if epoch.epoch in stops:
            error = float(holdout_shares(model, data, holdout).mean())
            if not np.isfinite(error):
                raise DivergenceError(f"the hold-out error became non-finite at epoch {epoch.epoch}")
        progress(Progress(epoch.epoch, epoch.loss, error))

    checkpoint = cells.checkpoint_path(study.cell(values))
    orders = [_seed(seed, "batches", k) for k in members]
    result = train(model, data, settings, orders, rows=rows, holdout=holdout, checkpoint=checkpoint, progress=report)
    return model, holdout, result


def _seed(seed: int, what: str, member: int) -> np.random.SeedSequence:
    return seeding.sequence(seed, SUITE, what, member)


def _measure(
    study: StudySettings,
    values: Values,
    data: Trajectories,
    model: LowRankDynamics,
    holdout: NDArray[np.int64],
    result: TrainResult,
) -> list[dict[str, Any]]:
    """The rows of a trial; of the ensemble, the members of lowest hold-out error are kept."""
    errors = holdout_shares(model, data, holdout)
    kept = best_members(errors.tolist(), study.members)
    rows = [row("train_mse", result.losses[-1]), row("holdout_error", float(errors[kept].mean()))]
    if study.objective == "holdout":
        return rows
    played = _play(study, values, model.select(kept))
    rows.append(row("reward", float(np.mean([earned.mean for earned in played.agents]))))
    for earned in played.agents:
        rows += [row("reward", earned.mean, earned.agent + 1), row("length", earned.length, earned.agent + 1)]
    return rows


def _play(study: StudySettings, values: Values, model: LowRankDynamics) -> RewardResult:
    """Plans with the ensemble for the test agents, in the true environment."""
    spec = get(study.env)
    name, settings = study.planner(values)
    scorer = model_scorer(model, planner_objective(name, spec))
    planner = make_planner(name, scorer, spec.action_space, settings)
    return average_rewards(
        spec,
        population(spec, study.agents, study.seed),
        lambda agents: MPC(planner, agents),
        seeding.generator(study.seed, SUITE, "episodes"),
        agents=range(len(spec.test_agents)),
        episodes=study.episodes,
    )
