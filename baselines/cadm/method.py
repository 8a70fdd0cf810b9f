"""Vanilla CaDM and PE-TS CaDM as methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.cadm.acting import ContextPolicy, recorded
from baselines.cadm.nets import CaDMNets, Scales
from baselines.cadm.rollouts import Model
from baselines.cadm.settings import BUDGETS, ActingSettings, CaDMSettings
from baselines.cadm.stage import Table
from baselines.cadm.training import Training
from baselines.common.chunks import train
from persim import seeding
from persim.data.policies import BatchPolicy
from persim.envs.spec import Array, EnvSpec
from persim.evaluation.prediction import History
from persim.methods import Fitted, Method, Options, Part, PlanningSettings, Weights
from persim.methods.planning import PLANNING
from persim.planning.registry import PAPER, PLANNERS

_NOISE = 0  # seed of the particles of a prediction: the same question has the same answer
# Milliseconds of one core: an update of one member, and one state moved on in a rollout (docs/baselines.md).
_UPDATE_MS, _STATE_MS = 8.5, 0.0045


def acting_settings(spec: EnvSpec, options: Options, *, pets: bool = False) -> ActingSettings:
    """How CaDM acts as the options of a command ask, by default by the planner of its code.

    That is random shooting, which never starts from the plan of the last step, or the cross-entropy method where
    actions are continuous. Its settings are those of ``persim.planning`` nearest to CaDM's; what still differs is in
    docs/baselines.md. CaDM knows no safety term.
    """
    budget = options.of(BUDGETS)
    planning = replace(_planning(spec, options, budget["plans"]).plain, safety=None)
    warm = planning.planner != "random_shooting"
    return ActingSettings(planning, budget["particles"] if pets else 1, warm_start=warm)


def _planning(spec: EnvSpec, options: Options, plans: int) -> PlanningSettings:
    changed = options.of(PLANNING)
    if options.planner is not None:
        return PlanningSettings.chosen(spec, options)
    if spec.discrete:
        return PlanningSettings.of(spec, PAPER, **{"plans": plans, **changed})
    own = {"plans": 200, "horizon": 30, "iterations": 4, "smoothing": 0.1, "spread": (0.5, 0.5), **changed}
    return PlanningSettings.of(spec, "cem", **{"elites": max(1, own["plans"] // 4), **own})


class CaDM(Method):
    """CaDM; all members are one part, since they share their data, their stopping and the bounds of the variance.

    Args:
        settings: how it learns.
        acting: how it acts and predicts.
        spec: the environment.

    Raises:
        InputError: the planner does not fit the actions, or the particles the members.
    """

    parts, predicts, plans = 1, True, True

    def __init__(self, settings: CaDMSettings, acting: ActingSettings, spec: EnvSpec) -> None:
        acting.per_member(settings.members)
        PLANNERS[acting.planning.planner].check_space(spec.action_space)
        self.settings, self.acting = settings, acting

    @classmethod
    def maker(cls, *, pets: bool) -> Callable[[EnvSpec, Options], CaDM]:
        """A function that builds it, PE-TS or vanilla, as the options of a command ask."""
        settings = CaDMSettings.pets if pets else CaDMSettings.vanilla

        def make(spec: EnvSpec, options: Options) -> CaDM:
            budget = options.of(BUDGETS)
            made = settings(iterations=budget["iterations"], epochs=budget["epochs"], updates=budget["updates"] or None)
            return cls(made, acting_settings(spec, options, pets=pets), spec)

        return make

    def about(self) -> dict[str, Any]:
        """All settings; how it plans stands where other methods have it."""
        acting = {name: value for name, value in asdict(self.acting).items() if name != "planning"}
        return {"settings": asdict(self.settings), "planning": self.acting.planning.about(), "acting": acting}

    def predicts_with(self) -> dict[str, Any]:
        """How it learns, and the particles: what else there is of acting concerns plans alone."""
        acting = {"particles": self.acting.particles, "mixed_members": self.acting.mixed_members}
        return {**self.learns_with(), "acting": acting}

    def part_seconds(self, spec: EnvSpec, agents: int, steps: float) -> float:
        """Estimate the updates of all members: as many as the epochs take, half of them on half of the data."""
        s = self.settings
        updates = s.epochs * agents * steps * s.future / s.batch_size * (s.iterations + 1) / 2
        return min(s.updates or updates, updates) * s.members * _UPDATE_MS / 1e3

    def episode_seconds(self, spec: EnvSpec) -> float:
        """Estimate an episode of full length, from the states that all plans, particles, steps and rounds visit."""
        plan = self.acting.planning.settings
        rounds = 1 + getattr(plan, "iterations", 0)
        return spec.horizon * plan.plans * plan.horizon * rounds * self.acting.particles * _STATE_MS / 1e3

    def learns_with(self) -> dict[str, Any]:
        """How it learns."""
        return {"settings": asdict(self.settings)}

    def fit_part(self, part: Part) -> Weights:
        """Trains all members together.

        Raises:
            InputError: the data are of another environment, or the checkpoint belongs to another run.
            DivergenceError: the loss became non-finite.
        """
        identity = {"method": "cadm", **self.learns_with(), "data": part.data.content_hash, "seed": part.seed}
        return train(Training(Table(part, self.settings)), part, identity)

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """The only part."""
        return parts[0]

    def restore(self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu") -> Fitted:
        """Make a policy that plans, and predicts; covariates ``[N, C]`` are not needed."""
        scales = Scales.from_arrays(weights.arrays, device)
        dims = (len(scales.states.mean), spec.state_dim, spec.action_dim)
        nets = CaDMNets(self.settings, *dims, np.random.SeedSequence(0)).to(device)
        nets.load(weights.arrays)
        return FittedCaDM(Model(nets, scales, spec, self.settings, self.acting))


class FittedCaDM:
    """CaDM after training."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def policy(self, agents: NDArray[np.int64]) -> BatchPolicy:
        """Plan with contexts that it gathers itself; the agents ``[B]`` are not told apart by their ids."""
        return ContextPolicy(self._model, agents)

    def predict(
        self, agents: NDArray[np.int64], states: NDArray[Any], actions: NDArray[Any], history: History | None = None
    ) -> NDArray[np.float64]:
        """Mean over particles, the contexts frozen after the last step of ``history``; see ``Predictor``."""
        model = self._model
        start = torch.from_numpy(np.array(states, dtype=np.float32)).to(model.device)
        played = torch.from_numpy(np.array(actions)).to(model.device)
        contexts = model.contexts(recorded(history, len(states), model))
        generator = torch.Generator(model.device).manual_seed(seeding.integer(_NOISE, "cadm", "particles"))
        paths = []
        for part in model.blocks(len(start)):
            steps = model.play(start[part], contexts[:, part], played[part], generator)
            paths.append(torch.stack([following.double().mean((0, 1)) for _, _, following in steps], dim=1))
        return np.concatenate([np.asarray(states, dtype=np.float64)[:, None], torch.cat(paths).cpu().numpy()], axis=1)
