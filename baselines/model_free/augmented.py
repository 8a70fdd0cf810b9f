"""PerSim-BCQ-5 and PerSim-CQL-5: a policy for each test agent, from its trajectory and five synthetic ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from baselines.model_free.method import ModelFree, Policies, Updates
from baselines.model_free.selection import Selection
from baselines.model_free.settings import OfflineSettings, chosen_settings
from baselines.policy_method import of_agent
from persim import seeding
from persim.data.policies import BatchPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.errors import check_at_least
from persim.evaluation.reward import average_rewards
from persim.methods import Options, Part, PerSim, PerSimSettings, Simulator, simulated, synthetic_trajectories

_EPISODES = {True: 20, False: 5}  # in which a policy is judged; of discrete actions, or not: BCQ's cost the more


class Augmented(ModelFree):
    """A part is the policy of one test agent (Section 5.4, Appendix F.4).

    Args:
        settings: of BCQ or CQL.
        spec: the environment.
        simulator: makes the synthetic trajectories, with its own planner.
        per_agent: synthetic trajectories of each.
        select: whether to keep the policy that earns most in the agent's simulator, of ten on the way, instead of
            the last, as the paper does. CQL's of MountainCar's agent 3 earns -64 half way and -158 at the end.
    """

    base: PerSim

    def __init__(
        self, settings: OfflineSettings, spec: EnvSpec, simulator: PerSim, *, per_agent: int = 5, select: bool = True
    ) -> None:
        super().__init__(settings, spec, pooled=False)
        self.base, self.per_agent = simulator, check_at_least("per_agent", per_agent, 1)
        self.select = select

    @classmethod
    def maker(cls, algorithm: str, *, pooled: bool = False) -> Callable[[EnvSpec, Options], ModelFree]:
        """A function that builds PerSim-BCQ or PerSim-CQL as the options of a command ask."""

        def make(spec: EnvSpec, options: Options) -> ModelFree:
            simulator = PerSim(PerSimSettings.chosen(spec, options, whole=True))
            return cls(chosen_settings(algorithm, spec, options), spec, simulator)

        return make

    def about(self) -> dict[str, Any]:
        """All settings, also of the simulator and its planner, on which the trajectories depend."""
        own = {"per_agent": self.per_agent, "select": self.select, "simulator": self.base.about()}
        return {**super().about(), **own}

    def _sources(self, part: Part) -> list[Trajectories]:
        """What was recorded of the agent, and what its simulator makes up."""
        data, spec = part.data, part.spec
        rng = seeding.generator(part.seed, "synthetic", spec.name, part.number)
        made = synthetic_trajectories(
            self._simulator(part), data, spec, rng, agents=[part.number], per_agent=self.per_agent
        )
        return [of_agent(part), made]

    def _simulator(self, part: Part) -> Simulator:
        assert part.base is not None
        return self.base.restore(part.base, part.spec, device=part.device)

    def _judged(self, updates: Updates, part: Part) -> Policies:
        """By what it earns in the simulator of the agent."""
        if not self.select:
            return updates
        data, spec, number = part.data, part.spec, part.number
        inside = simulated(spec, self._simulator(part), data)
        numbers = np.arange(data.n_agents, dtype=np.float64)[:, None]
        episodes = _EPISODES[spec.discrete]

        def judge(policy: BatchPolicy) -> float:
            rng = seeding.generator(part.seed, "selection", spec.name, number)
            result = average_rewards(inside, numbers, lambda _: policy, rng, agents=[number], episodes=episodes)
            return result.agents[0].mean

        return Selection(updates, judge)
