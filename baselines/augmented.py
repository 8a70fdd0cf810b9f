"""PerSim-BCQ-5 and PerSim-CQL-5: a policy for each test agent, from its trajectory and five synthetic ones."""

from __future__ import annotations

from typing import Any

from baselines.model_free import ModelFree
from baselines.policy_method import of_agent
from baselines.settings import OfflineSettings
from persim import seeding
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.errors import check_at_least
from persim.methods import PerSim, Weights
from persim.methods.synthetic import synthetic_trajectories


class Augmented(ModelFree):
    """A part is the policy of one test agent (Section 5.4, Appendix F.4).

    Args:
        settings: of BCQ or CQL.
        spec: the environment.
        simulator: makes the synthetic trajectories, with its own planner.
        per_agent: synthetic trajectories of each.
    """

    base: PerSim

    def __init__(self, settings: OfflineSettings, spec: EnvSpec, simulator: PerSim, *, per_agent: int = 5) -> None:
        super().__init__(settings, spec, pooled=False)
        self.base, self.per_agent = simulator, check_at_least("per_agent", per_agent, 1)

    def about(self) -> dict[str, Any]:
        """All settings, also of the simulator and its planner, on which the trajectories depend."""
        return {**super().about(), "per_agent": self.per_agent, "simulator": self.base.about()}

    def _sources(
        self, part: int, data: Trajectories, spec: EnvSpec, seed: int, device: str, base: Weights | None
    ) -> list[Trajectories]:
        """What was recorded of the agent, and what its simulator makes up."""
        assert base is not None
        observed = of_agent(part, data, spec)
        simulator = self.base.restore(base, spec, device=device)
        rng = seeding.generator(seed, "synthetic", spec.name, part)
        made = synthetic_trajectories(simulator, data, spec, rng, agents=[part], per_agent=self.per_agent)
        return [observed, made]
