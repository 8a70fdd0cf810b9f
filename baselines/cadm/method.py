"""Vanilla CaDM and PE-TS CaDM as methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.cadm.acting import ContextPolicy, plan_reward, recorded
from baselines.cadm.nets import CaDMNets
from baselines.cadm.rollouts import Model
from baselines.cadm.scales import Scales
from baselines.cadm.settings import ActingSettings, CaDMSettings
from baselines.cadm.training import train
from persim import seeding
from persim.data.policies import BatchPolicy
from persim.envs.spec import Array, EnvSpec
from persim.evaluation.prediction import History
from persim.methods import Fitted, Method, Part, Weights
from persim.planning.registry import PLANNERS

_NOISE = 0  # seed of the particles of a prediction: the same question has the same answer


class CaDM(Method):
    """CaDM; all members are one part, since they share their data, their stopping and the bounds of the variance.

    Args:
        settings: how it learns.
        acting: how it acts and predicts.
        spec: the environment.

    Raises:
        InputError: the planner does not fit the actions, or the particles the members.
    """

    parts, predicts = 1, True

    def __init__(self, settings: CaDMSettings, acting: ActingSettings, spec: EnvSpec) -> None:
        acting.per_member(settings.members)
        PLANNERS[acting.planning.planner].check_space(spec.action_space)
        self.settings, self.acting = settings, acting

    def about(self) -> dict[str, Any]:
        """All settings; how it plans stands where other methods have it."""
        acting = asdict(self.acting)
        return {"settings": asdict(self.settings), "planning": acting.pop("planning"), "acting": acting}

    def learns_with(self) -> dict[str, Any]:
        """How it learns."""
        return {"settings": asdict(self.settings)}

    def fit_part(self, part: Part) -> Weights:
        """Trains all members together."""
        nets, scales, progress = train(part, self.settings)
        about = {"curves": progress.curves, "seconds": progress.seconds, "updates": progress.updates}
        return Weights(nets.arrays() | scales.arrays(), {"about": about})

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """The only part."""
        return parts[0]

    def restore(self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu") -> Fitted:
        """A policy that plans, and a predictor."""
        scales = Scales.from_arrays(weights.arrays, device)
        dims = (len(scales.states.mean), spec.state_dim, spec.action_dim)
        nets = CaDMNets(self.settings, *dims, np.random.SeedSequence(0)).to(device)
        nets.load(weights.arrays)
        members = self.settings.members
        model = Model(nets, scales, spec, members, self.acting.per_member(members), self.acting.mixed_members)
        return FittedCaDM(model, self.acting, self.settings.history)


class FittedCaDM:
    """CaDM after training."""

    def __init__(self, model: Model, acting: ActingSettings, length: int) -> None:
        self._model, self._acting, self._length = model, acting, length

    def policy(self, agents: NDArray[np.int64]) -> BatchPolicy:
        """Plans with contexts that it gathers itself; agents are not told apart by their ids."""
        return ContextPolicy(
            self._model,
            self._acting,
            plan_reward(self._model.spec, progress=self._acting.progress),
            self._length,
            agents,
        )

    def predict(
        self,
        agents: NDArray[np.int64],
        states: NDArray[Any],
        actions: NDArray[Any],
        history: History | None = None,
    ) -> NDArray[np.float64]:
        """Mean over particles, the contexts frozen after the last step of ``history``; see ``Predictor``."""
        model = self._model
        start = torch.from_numpy(np.array(states, dtype=np.float32)).to(model.device)
        played = torch.from_numpy(np.array(actions)).to(model.device)
        contexts = model.contexts(recorded(history, len(states), model, self._length))
        seed = seeding.integer(_NOISE, "cadm", "particles")
        generator = torch.Generator(model.device).manual_seed(seed)
        blocks = [
            _mean_path(model, start[part], contexts[:, part], played[part], generator)
            for part in model.blocks(len(start))
        ]
        return np.concatenate([np.asarray(states, dtype=np.float64)[:, None], torch.cat(blocks).cpu().numpy()], axis=1)


def _mean_path(model: Model, start: Tensor, contexts: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
    """Mean over particles of the states ``[B, H, S]`` after each action."""
    path: list[Tensor] = []

    def visit(states: Tensor, actions: Tensor, following: Tensor) -> None:
        path.append(following.double().mean((0, 1)))

    model.play(start, contexts, actions, visit, generator)
    return torch.stack(path, dim=1)
