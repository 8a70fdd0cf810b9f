"""PerSim under CaDM's planner, so that the two are compared by their models alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from baselines.cadm.acting import plan_reward
from baselines.cadm.method import acting_settings
from baselines.cadm.settings import ActingSettings
from persim.data.policies import BatchPolicy
from persim.envs.spec import Agents, Array, EnvSpec
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.methods import Options, PerSim, PerSimSettings, Weights
from persim.methods.persim import ModelSimulator
from persim.planning.planner import MPC


def planned_spec(spec: EnvSpec, *, progress: bool = True) -> EnvSpec:
    """The environment as CaDM's planner sees it (``plan_reward``): its reward and its ends, and no safety term."""
    seen = plan_reward(spec, progress=progress)
    hints = replace(spec.planning, progress=seen.progress, safety=None)
    return replace(spec, reward=seen.reward, terminated=spec.terminated if seen.ends else _never, planning=hints)


def _never(states: Tensor) -> Tensor:
    return torch.zeros(states.shape[:-1], dtype=torch.bool, device=states.device)


class _Forgetful(MPC):
    """Searches every plan anew."""

    def act(self, states: NDArray[Any], rng: Generator) -> NDArray[Any]:
        """See ``MPC``."""
        self._memory = None
        return super().act(states, rng)


class _FreshSimulator(ModelSimulator):
    """A simulator whose policy never starts a search from the plan of the last step."""

    def policy(self, agents: Agents) -> BatchPolicy:
        """MPC for the agent of each episode ``[B]``."""
        return _Forgetful(self._planner, agents)


class PerSimUnderCaDM(PerSim):
    """PerSim's weights, and plans as CaDM makes them: its planner, its budget, its reward of a plan and its shaping.

    Every member of PerSim's ensemble rolls out each plan once; CaDM's particles belong to its own model.

    Args:
        settings: of training, and CaDM's planner.
        acting: how CaDM acts.
    """

    def __init__(self, settings: PerSimSettings, acting: ActingSettings) -> None:
        super().__init__(settings)
        self.acting = acting

    @classmethod
    def make(cls, spec: EnvSpec, options: Options) -> PerSimUnderCaDM:
        """Build it as the options of a command ask."""
        acting = acting_settings(spec, options)
        return cls(replace(PerSimSettings.chosen(spec, options), planning=acting.planning), acting)

    def about(self) -> dict[str, Any]:
        """All settings; how CaDM acts stands under ``planning``, too, as predictions do not depend on it."""
        acting = {"progress": self.acting.progress, "warm_start": self.acting.warm_start}
        return {**super().about(), "planning": {**self.settings.planning.about(), "acting": acting}}

    def restore(
        self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu"
    ) -> ModelSimulator:
        """Make the simulator with CaDM's planner; covariates ``[N, C]`` are not needed."""
        model = LowRankDynamics.from_arrays(weights.arrays, ModelSettings(**weights.settings["model"])).to(device)
        seen = planned_spec(spec, progress=self.acting.progress)
        kind = ModelSimulator if self.acting.warm_start else _FreshSimulator
        return kind(model, seen, self.settings.planning)
