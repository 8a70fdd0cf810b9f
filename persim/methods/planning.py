"""How methods plan: the settings that they share, and acting by model predictive control."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persim.data.policies import BatchPolicy
from persim.envs.spec import EnvSpec
from persim.methods.protocol import Options
from persim.planning.planner import MPC, Planner, PlannerSettings, Plans
from persim.planning.registry import default_planner, planner_settings

# Options of every planner that a preset changes.
PLANNING: dict[str, dict[str, Any]] = {"paper": {}, "smoke": {"plans": 20, "horizon": 8}}
# Seconds of one core for an episode under the default planner: decisions times what one takes (docs/performance.md).
_EPISODE_SECONDS = {"mountaincar": 2.4, "cartpole": 0.16, "halfcheetah": 300.0}
_OTHER_EPISODE_SECONDS = 10.0


@dataclass(frozen=True)
class PlanningSettings:
    """How a method plans.

    Attributes:
        planner: a name of ``persim.planning.registry``.
        settings: of that planner.
        precision: of the products of a model: ``float32``, or ``bfloat16``, which halves the time of wide nets.
    """

    planner: str
    settings: PlannerSettings
    precision: str = "float32"

    def about(self) -> dict[str, Any]:
        """All of them, for rows; a precision only if it is not the usual one."""
        found = {"planner": self.planner, "settings": asdict(self.settings)}
        return found if self.precision == "float32" else {**found, "precision": self.precision}

    @classmethod
    def of(cls, spec: EnvSpec, planner: str | None = None, *, whole: bool = False, **options: Any) -> PlanningSettings:
        """The default planner of the environment, or the one named, with these options changed.

        Args:
            spec: the environment.
            planner: its name.
            whole: whether plans are played to their end before the next one is sought.
            options: of the planner that differ from its own.

        Raises:
            InputError: an unknown planner or option, or one that does not fit the actions.
        """
        name = planner or default_planner(spec.action_space)
        return cls(name, planner_settings(name, spec.name, whole=whole, **options))

    @classmethod
    def chosen(cls, spec: EnvSpec, options: Options, *, whole: bool = False) -> PlanningSettings:
        """The planner that the options of a command ask for."""
        return cls.of(spec, options.planner, whole=whole, **options.of(PLANNING))

    def episode_seconds(self, spec: EnvSpec, members: int) -> float:
        """Estimate how long one core plans for an episode, with an ensemble of so many members."""
        default = PlanningSettings.of(spec)
        share = self.settings.plans / default.settings.plans * members / 5
        return _EPISODE_SECONDS.get(spec.name, _OTHER_EPISODE_SECONDS) * share


class Planned:
    """Acts by model predictive control.

    Args:
        planner: finds the plans.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def policy(self, agents: NDArray[np.int64]) -> BatchPolicy:
        """MPC for the agent of each episode ``[B]``."""
        return MPC(self._planner, agents)

    def plan(self, agents: NDArray[np.int64], states: NDArray[Any], rng: np.random.Generator) -> Plans:
        """The best plans ``[B, H]`` or ``[B, H, A]`` from states ``[B, S]``; see ``Simulator``."""
        plans, _ = self._planner.search(states, agents, None, rng)
        return plans.astype(np.int64) if plans.ndim == 2 else plans
