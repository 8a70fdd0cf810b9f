"""The method of the paper: an ensemble of low-rank simulators, and planning on it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from persim import seeding
from persim.envs.spec import Array, EnvSpec
from persim.errors import check_at_least
from persim.evaluation.factors import agent_factors
from persim.evaluation.prediction import History, open_loop
from persim.learning.ensemble import SPARE_MEMBERS, EnsembleSettings, chosen_members, finish_members
from persim.learning.gradients import TrainingRows
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.polish import NOT_POLISHED, PolishSettings
from persim.learning.presets import EPOCHS, MEMBERS, Preset, preset
from persim.learning.training import EpochReport, TrainSettings, holdout_errors, train
from persim.learning.unseen import Known, MapSettings, fit_map, unseen_model
from persim.methods.planning import Planned, PlanningSettings
from persim.methods.protocol import MOST_RANK, Method, Options, Part, Weights
from persim.planning.prepared import PreparedScorer
from persim.planning.registry import make_planner
from persim.planning.scorers import model_scorer
from persim.storage.store import build, contents_of

# The paper trains exactly the members that it keeps; two more cost 40 % and spare us the poor minima.
BUDGETS = {
    "paper": {"members": MEMBERS, "spare": SPARE_MEMBERS, "epochs": EPOCHS, "average_last": TrainSettings.average_last},
    "quick": {"members": 3, "spare": 0, "epochs": 30, "average_last": 10},
    "smoke": {"members": 2, "spare": 0, "epochs": 2, "average_last": 1},
}
# Wide nets on 500,000 transitions predict no better after 300 epochs than after these (docs/performance.md). A round
# of polish would take one core five minutes a member there.
_LAPTOP: dict[str, Any] = {"epochs": 60, "halve_every": 20, "average_last": 15}
# Milliseconds of one core for an optimiser step of one member at the paper's nets and batch (docs/performance.md).
_SMALL_BATCH = 128
_STEP_MS = {"mountaincar": 0.35, "cartpole": 0.08, "halfcheetah": 13.0}


@dataclass(frozen=True)
class PerSimSettings:
    """Settings of PerSim (Appendix D.1).

    Attributes:
        planning: how it plans.
        rank: R.
        size: members of the ensemble, and candidates to choose them from.
        train: of every member.
        nets: widths, and whether the data are normalised.
        polish: how training ends; as it stands, with nothing after Algorithm 1.
    """

    planning: PlanningSettings
    rank: int
    size: EnsembleSettings
    train: TrainSettings
    nets: Preset
    polish: PolishSettings = NOT_POLISHED

    def __post_init__(self) -> None:
        check_at_least("rank", self.rank, 1, most=MOST_RANK)
        if self.size.members == 1:  # it neither has a mean of its own nor disagrees
            object.__setattr__(self, "planning", self.planning.plain)

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
        polish: int = PolishSettings.rounds,
    ) -> PerSimSettings:
        """The paper's settings for an environment, or others where they are given, and what is ours after training."""
        nets = preset(spec.name, discrete=spec.discrete)
        train_settings = TrainSettings(epochs, nets.batch_size, average_last=average_last)
        size = EnsembleSettings(members, members + spare)
        rank = nets.rank if rank is None else rank
        return cls(planning, rank, size, train_settings, nets, PolishSettings(polish))

    @classmethod
    def chosen(cls, spec: EnvSpec, options: Options, *, whole: bool = False) -> PerSimSettings:
        """The settings that the options of a command ask for; ``whole``: of plans that are played to their end."""
        planning = PlanningSettings.chosen(spec, options, whole=whole)
        polish = PolishSettings.rounds if options.polish is None else options.polish
        settings = cls.of(spec, planning, rank=options.rank, polish=polish, **options.of(BUDGETS))
        if options.preset == "laptop" and not spec.discrete:
            polish = 0 if options.polish is None else options.polish
            settings = replace(settings, train=replace(settings.train, **_LAPTOP), polish=PolishSettings(polish))
        if not spec.discrete:
            settings = replace(settings, train=replace(settings.train, precision=settings.planning.precision))
        tuned = dict(options.tuned or {})
        if whole:  # the planner was tuned for plans of which the first action alone is played
            tuned.pop("planning", None)
        return settings.with_tuned(spec, options, tuned)

    def with_tuned(self, spec: EnvSpec, options: Options, tuned: Mapping[str, Any]) -> PerSimSettings:
        """Replace what ``tuned`` (a part of ``PerSim.about``) says, or refuse it; a command's rank or planner stays."""
        with contents_of("tuned settings"):
            return self._with_tuned(spec, options, tuned)

    def _with_tuned(self, spec: EnvSpec, options: Options, tuned: Mapping[str, Any]) -> PerSimSettings:
        nets: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in tuned.get("nets", {}).items()
        }
        planning, rank = self.planning, tuned.get("rank", self.rank) if options.rank is None else options.rank
        if "planning" in tuned and options.planner is None:
            name, found = tuned["planning"]["planner"], tuned["planning"]["settings"]
            found = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
            own = {key: value for key, value in tuned["planning"].items() if key not in ("planner", "settings")}
            planning = PlanningSettings.of(spec, name, **own, **found)
        return replace(
            self,
            planning=planning,
            rank=rank,
            train=replace(self.train, **tuned.get("train", {})),
            nets=replace(self.nets, **nets),
            size=replace(self.size, **tuned.get("size", {})),
            polish=replace(self.polish, **tuned.get("polish", {})),
        )

    def learning(self) -> dict[str, Any]:
        """All settings that the weights depend on; the newest only if they are used, so that older ids stay valid."""
        usual = [*(["residual"] if self.nets.residual else []), *([] if self.nets.imitation else ["imitation"])]
        left_out = ("rank", "batch_size", *usual)
        nets = {name: value for name, value in asdict(self.nets).items() if name not in left_out}
        own = {"rank": self.rank, "size": asdict(self.size), "train": self.train.about(), "nets": nets}
        own |= {"polish": asdict(self.polish)} if self.polish.rounds else {}
        return own | ({"kept_by": "recorded error"} if self.size.candidates > self.size.members else {})


class ModelSimulator(Planned):
    """A trained PerSim: predicts, and plans on what it predicts.

    Args:
        model: the ensemble.
        spec: the environment.
        planning: how to plan.

    Raises:
        InputError: the planner is unknown, or does not fit the actions; or a prior is asked for, but there is nothing
            to imitate.
    """

    def __init__(self, model: LowRankDynamics, spec: EnvSpec, planning: PlanningSettings) -> None:
        scorer = model_scorer(model, planning.objective(spec), planning.precision, planning.prior)
        deviates = isinstance(scorer, PreparedScorer) and scorer.deviates
        planner = make_planner(planning.planner, scorer, spec.action_space, planning.settings, deviates=deviates)
        super().__init__(planner, scorer.actions if isinstance(scorer, PreparedScorer) else None)
        self.model, self._spec, self._planning = model, spec, planning

    def predict(
        self, agents: NDArray[np.int64], states: NDArray[Any], actions: NDArray[Any], history: History | None = None
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
    """A part is one candidate member of the ensemble.

    Args:
        settings: of training and planning.
    """

    name, learner, predicts, plans, joint = "persim", "persim", True, True, True

    def __init__(self, settings: PerSimSettings) -> None:
        self.settings, self.parts = settings, settings.size.candidates

    @classmethod
    def make(cls, spec: EnvSpec, options: Options) -> PerSim:
        """Build it as the options of a command ask."""
        return cls(PerSimSettings.chosen(spec, options))

    def about(self) -> dict[str, Any]:
        """All settings."""
        return {"planning": self.settings.planning.about(), **self.settings.learning()}

    def learns_with(self) -> dict[str, Any]:
        """All settings but how it plans."""
        return self.settings.learning()

    def part_seconds(self, spec: EnvSpec, agents: int, steps: float) -> float:
        """Estimate the epochs of one member."""
        updates = self.settings.train.epochs * agents * steps / self.settings.train.batch_size
        return updates * _STEP_MS.get(spec.name, 1.0) / 1e3

    def episode_seconds(self, spec: EnvSpec) -> float:
        """Estimate the planning of an episode."""
        return self.settings.planning.episode_seconds(spec, self.settings.size.members)

    def fit_part(self, part: Part) -> Weights:
        """Train one member; ``train_ensemble`` gives the same member beside its siblings, up to rounding."""
        return self._fit(part, [part.number])[0]

    def trains_jointly(self, device: str) -> bool:
        """On a GPU; on a CPU with batches so small that the cost is calls, not arithmetic (docs/performance.md)."""
        return super().trains_jointly(device) or self.settings.train.batch_size <= _SMALL_BATCH

    def fit_parts(self, part: Part, numbers: Sequence[int]) -> list[Weights]:
        """Train several members at once, or one by one, as workers would."""
        return self._fit(part, numbers) if self.trains_jointly(part.device) else super().fit_parts(part, numbers)

    def _fit(self, part: Part, numbers: Sequence[int]) -> list[Weights]:
        s, data = self.settings, part.data
        init, orders = ([seeding.sequence(part.seed, name, k) for k in numbers] for name in ("init", "batches"))
        model = LowRankDynamics(s.nets.shape(data, s.rank, len(numbers)), init).to(part.device)

        def show(epoch: EpochReport) -> None:
            if part.report is not None:
                part.report(epoch.epoch / epoch.epochs)

        result = train(model, data, s.train, orders, checkpoint=part.checkpoint, progress=show)
        started = time.perf_counter()
        errors = finish_members(model, data, s.polish, part.seed, s.nets.imitation)
        finite = [error if np.isfinite(error) else None for error in errors.tolist()]  # as JSON can hold it
        seconds = (result.seconds + time.perf_counter() - started) / len(errors)
        losses = holdout_errors(model, TrainingRows(model, data, np.arange(len(data)))).mean(axis=1)
        shape, arrays = asdict(replace(model.settings, members=1)), model.arrays()
        return [
            Weights(
                {name: x if name in LowRankDynamics.SHARED else x[k : k + 1] for name, x in arrays.items()},
                {
                    "model": shape,
                    "about": {"loss": loss, "recorded_error": error, "losses": result.losses, "seconds": seconds},
                },
            )
            for k, (loss, error) in enumerate(zip(losses.tolist(), finite, strict=True))
        ]

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """Keep the members that predict the recorded trajectories best."""
        losses = [float(part.settings["about"]["loss"]) for part in parts]
        found = [part.settings["about"]["recorded_error"] for part in parts]
        errors = [np.inf if error is None else float(error) for error in found]
        kept = [parts[index] for index in chosen_members(errors, self.settings.size)]
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
        """Make the simulator with its planner; covariates ``[N, C]`` are not needed."""
        shape = build(ModelSettings, weights.settings["model"])
        model = LowRankDynamics.from_arrays(weights.arrays, shape).to(device)
        return make_simulator(model, spec, self.settings.planning)
