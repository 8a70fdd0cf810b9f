"""The methods that plan: PerSim, and its upper bound, planning on the true environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from persim import seeding
from persim.data.policies import BatchPolicy
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError, check_at_least
from persim.evaluation.factors import agent_factors
from persim.evaluation.prediction import History, open_loop
from persim.learning.ensemble import SPARE_MEMBERS, EnsembleSettings, best_members
from persim.learning.gradients import TrainingRows
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.presets import EPOCHS, MEMBERS, Preset, preset
from persim.learning.training import EpochReport, TrainSettings, holdout_errors, train
from persim.learning.unseen import Known, MapSettings, fit_map, unseen_model
from persim.methods.protocol import Fitted, Method, Part, Weights
from persim.planning.planner import MPC, Planner, PlannerSettings, Plans
from persim.planning.registry import default_planner, make_planner, planner_objective, planner_settings
from persim.planning.scorers import model_scorer, true_scorer


@dataclass(frozen=True)
class PlanningSettings:
    """How a planning method plans.

    Attributes:
        planner: a name of ``persim.planning.registry``.
        settings: of that planner.
    """

    planner: str
    settings: PlannerSettings

    @classmethod
    def of(cls, spec: EnvSpec, planner: str | None = None, *, whole: bool = False, **options: Any) -> PlanningSettings:
        """The default planner of the environment, or the one named, with these options changed.

        Args:
            spec: the environment.
            planner: its name.
            whole: whether plans are played to their end before the next one is sought.
            options: of the planner that differ from its own.

        Raises:
            InputError: unknown planner or option, or it does not fit the actions.
        """
        name = planner or default_planner(spec.action_space)
        return cls(name, planner_settings(name, spec.name, whole=whole, **options))


@dataclass(frozen=True)
class PerSimSettings:
    """Settings of PerSim (Appendix D.1).

    Attributes:
        planning: how it plans.
        rank: R.
        size: members of the ensemble, and candidates to choose them from.
        train: of every member.
        nets: widths, and whether the data are normalised.
    """

    planning: PlanningSettings
    rank: int
    size: EnsembleSettings
    train: TrainSettings
    nets: Preset

    def __post_init__(self) -> None:
        check_at_least("rank", self.rank, 1)

    @classmethod
    def of(
        cls,
        spec: EnvSpec,
        planning: PlanningSettings,
        *,
        rank: int | None = None,
        members: int = MEMBERS,
        spare: int = SPARE_MEMBERS,
        epochs: int = EPOCHS,
        average_last: int = TrainSettings.average_last,
    ) -> PerSimSettings:
        """The paper's settings for an environment, or others where they are given."""
        nets = preset(spec.name, discrete=spec.discrete)
        train_settings = TrainSettings(epochs, nets.batch_size, average_last=average_last)
        size = EnsembleSettings(members, members + spare)
        return cls(planning, nets.rank if rank is None else rank, size, train_settings, nets)


class _Planned:
    """Acts by model predictive control."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def policy(self, agents: NDArray[np.int64]) -> BatchPolicy:
        """MPC for the agent of each episode."""
        return MPC(self._planner, agents)

    def plan(self, agents: NDArray[np.int64], states: NDArray[Any], rng: np.random.Generator) -> Plans:
        """The best plans from these states; see ``Simulator``."""
        plans, _ = self._planner.search(states, agents, None, rng)
        return plans.astype(np.int64) if plans.ndim == 2 else plans


class ModelSimulator(_Planned):
    """A trained PerSim: predicts, and plans on what it predicts.

    Args:
        model: the ensemble.
        spec: the environment.
        planning: how to plan.

    Raises:
        InputError: the planner is unknown, or does not fit the actions.
    """

    def __init__(self, model: LowRankDynamics, spec: EnvSpec, planning: PlanningSettings) -> None:
        scorer = model_scorer(model, planner_objective(planning.planner, spec))
        super().__init__(make_planner(planning.planner, scorer, spec.action_space, planning.settings))
        self.model, self._spec, self._planning = model, spec, planning

    def predict(
        self,
        agents: NDArray[np.int64],
        states: NDArray[Any],
        actions: NDArray[Any],
        history: History | None = None,
    ) -> NDArray[np.float64]:
        """Mean over members that roll out separately; see ``Predictor``."""
        return open_loop(self.model, agents, states, actions)

    def agent_factors(self) -> NDArray[np.float32]:
        """The u of all agents; see ``HasFactors``."""
        return agent_factors(self.model)

    def for_covariates(
        self, covariates: ArrayLike, known: Known, p: float = 1.0, seed: int = 0, settings: MapSettings | None = None
    ) -> ModelSimulator:
        """A simulator of agents that were never observed (Appendix F.5); see ``persim.learning.unseen``.

        Args:
            covariates: ``[M, C]`` of the new agents; their ids are 0 to M - 1.
            known: the data that this was trained on, with covariates; or ids of training agents and their covariates.
            p: share of these training agents that is used, in (0, 1].
            seed: which they are, and the initial weights of the regression.
            settings: of the regression.

        Raises:
            InputError: covariates are missing or do not fit, or too few training agents remain.
        """
        rows = self._spec.covariate_rows(covariates)
        factor_map, _ = fit_map(self.model, self._spec, known, p, seed, settings)
        return make_simulator(unseen_model(self.model, factor_map, rows), self._spec, self._planning)


def make_simulator(model: LowRankDynamics, spec: EnvSpec, planning: PlanningSettings) -> ModelSimulator:
    """A trained ensemble with the planner that plans on it.

    Raises:
        InputError: the planner is unknown, or does not fit the actions.
    """
    return ModelSimulator(model, spec, planning)


class PerSim(Method):
    """The method of the paper; a part is one candidate member of the ensemble."""

    predicts = True

    def __init__(self, settings: PerSimSettings) -> None:
        self.settings, self.parts = settings, settings.size.candidates

    def about(self) -> dict[str, Any]:
        """All settings."""
        return asdict(self.settings)

    def learns_with(self) -> dict[str, Any]:
        """All but how it plans."""
        return {name: value for name, value in self.about().items() if name != "planning"}

    def fit_part(self, part: Part) -> Weights:
        """Trains one member; the same member that ``train_ensemble`` trains beside its siblings."""
        s, data = self.settings, part.data
        init, order = (seeding.sequence(part.seed, name, part.number) for name in ("init", "batches"))
        model = LowRankDynamics(s.nets.shape(data, s.rank, 1), [init]).to(part.device)

        def show(epoch: EpochReport) -> None:
            if part.report is not None:
                part.report(epoch.epoch / epoch.epochs)

        result = train(model, data, s.train, [order], checkpoint=part.checkpoint, progress=show)
        loss = float(holdout_errors(model, TrainingRows(model, data, np.arange(len(data)))).mean())
        about = {"loss": loss, "losses": result.losses, "seconds": result.seconds}
        return Weights(model.arrays(), {"model": asdict(model.settings), "about": about})

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """The members of lowest training loss."""
        losses = [float(part.settings["about"]["loss"]) for part in parts]
        kept = [parts[index] for index in best_members(losses, self.settings.size.members)]
        shared = LowRankDynamics.SHARED
        arrays = {
            name: value if name in shared else np.concatenate([part.arrays[name] for part in kept])
            for name, value in kept[0].arrays.items()
        }
        curves = np.array([part.settings["about"]["losses"] for part in kept])
        about = {
            "loss": float(np.mean(losses)),
            "curves": {"train_mse": [[epoch + 1, loss] for epoch, loss in enumerate(curves.mean(0).tolist())]},
            "seconds": float(sum(part.settings["about"]["seconds"] for part in parts)),
        }
        return Weights(arrays, {"model": {**kept[0].settings["model"], "members": len(kept)}, "about": about})

    def restore(
        self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu"
    ) -> ModelSimulator:
        """A simulator with its planner."""
        model = LowRankDynamics.from_arrays(weights.arrays, ModelSettings(**weights.settings["model"])).to(device)
        return make_simulator(model, spec, self.settings.planning)


class TrueEnv(Method):
    """True env+MPC: the same planner on the true dynamics; nothing is learnt (Section 5.3)."""

    parts, predicts = 0, False

    def __init__(self, planning: PlanningSettings) -> None:
        self.settings = planning

    def about(self) -> dict[str, Any]:
        """How it plans."""
        return {"planning": asdict(self.settings)}

    def learns_with(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def fit_part(self, part: Part) -> Weights:
        """There is none.

        Raises:
            IndexError: always.
        """
        raise IndexError(f"True env+MPC has no part {part.number}")

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """Nothing."""
        return Weights({}, {})

    def restore(self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu") -> Fitted:
        """MPC on the true environment.

        Raises:
            InputError: the covariates are unknown.
        """
        if covariates is None:
            raise InputError("the true environment needs the covariates of the agents; give data that have them")
        planning = self.settings
        scorer = true_scorer(planner_objective(planning.planner, spec), covariates)
        return _Planned(make_planner(planning.planner, scorer, spec.action_space, planning.settings))
