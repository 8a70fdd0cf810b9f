"""True env+MPC: the upper bound, planning on the true dynamics (Section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError
from persim.methods.planning import Planned, PlanningSettings
from persim.methods.protocol import Fitted, Method, Options, Part, Weights
from persim.planning.registry import make_planner
from persim.planning.scorers import true_scorer


class TrueEnv(Method):
    """The planner of PerSim on the true dynamics; nothing is learnt.

    Args:
        planning: how it plans.
    """

    name, parts, predicts, plans = "true-env", 0, False, True

    def __init__(self, planning: PlanningSettings) -> None:
        self.settings = planning.plain

    @classmethod
    def make(cls, spec: EnvSpec, options: Options) -> TrueEnv:
        """Build it as the options of a command ask."""
        return cls(PlanningSettings.chosen(spec, options))

    def about(self) -> dict[str, Any]:
        """How it plans."""
        return {"planning": self.settings.about()}

    def learns_with(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def part_seconds(self, spec: EnvSpec, agents: int, steps: float) -> float:
        """Nothing is trained."""
        return 0.0

    def episode_seconds(self, spec: EnvSpec) -> float:
        """Estimate the planning of an episode."""
        return self.settings.episode_seconds(spec, 2 if spec.discrete else 5)  # it takes as long as so many members

    def fit_part(self, part: Part) -> Weights:
        """There is no part.

        Raises:
            IndexError: always.
        """
        raise IndexError(f"True env+MPC has no part {part.number}")

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """Give empty weights."""
        return Weights({}, {})

    def restore(self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu") -> Fitted:
        """Make MPC on the true environment, for agents with covariates ``[N, C]``.

        Raises:
            InputError: the covariates are unknown.
        """
        if covariates is None:
            raise InputError("the true environment needs the covariates of the agents; give data that have them")
        planning = self.settings
        scorer = true_scorer(planning.objective(spec), covariates)
        return Planned(make_planner(planning.planner, scorer, spec.action_space, planning.settings))
