"""PerSim-BCQ-5 and PerSim-CQL-5: a policy for each test agent, from its trajectory and five synthetic ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from baselines.common.chunks import Trainee
from baselines.common.snapshots import below, under
from baselines.model_free.method import ModelFree, Updates
from baselines.model_free.settings import OfflineSettings, chosen_settings
from persim import seeding
from persim.data.policies import BatchPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.errors import check_at_least
from persim.evaluation.reward import average_rewards
from persim.methods import Options, Part, PerSim, PerSimSettings, Simulator, simulated, synthetic_trajectories
from persim.storage.store import Arrays

TRIALS = 10  # policies judged during a training, evenly spaced
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
        self.base, self.select = simulator, select
        self.per_agent = check_at_least("per_agent", per_agent, 1)

    @classmethod
    def maker(cls, algorithm: str, *, pooled: bool = False) -> Callable[[EnvSpec, Options], ModelFree]:
        """A function that builds PerSim-BCQ or PerSim-CQL as the options of a command ask."""
        return lambda spec, options: cls(
            chosen_settings(algorithm, spec, options), spec, PerSim(PerSimSettings.chosen(spec, options, whole=True))
        )

    def about(self) -> dict[str, Any]:
        """All settings, also of the simulator and its planner, on which the trajectories depend."""
        own = {"per_agent": self.per_agent, "select": self.select, "simulator": self.base.about()}
        return {**super().about(), **own}

    def _sources(self, part: Part) -> list[Trajectories]:
        """Return what was recorded of the agent, and what its simulator makes up."""
        rng = seeding.generator(part.seed, "synthetic", part.spec.name, part.number)
        simulator, agents = self._simulator(part), [part.number]
        made = synthetic_trajectories(simulator, part.data, part.spec, rng, agents=agents, per_agent=self.per_agent)
        return [*super()._sources(part), made]

    def _simulator(self, part: Part) -> Simulator:
        assert part.base is not None
        return self.base.restore(part.base, part.spec, device=part.device)

    def _training(self, part: Part) -> Trainee:
        """Keeps the policy that earns most in the simulator of the agent."""
        updates = super()._training(part)
        assert isinstance(updates, Updates)
        if not self.select:
            return updates
        data, spec, number = part.data, part.spec, part.number
        inside = simulated(spec, self._simulator(part), data)
        numbers = np.arange(data.n_agents, dtype=np.float64)[:, None]

        def judge(policy: BatchPolicy) -> float:
            rng, episodes = seeding.generator(part.seed, "selection", spec.name, number), _EPISODES[spec.discrete]
            result = average_rewards(inside, numbers, lambda _: policy, rng, agents=[number], episodes=episodes)
            return result.agents[0].mean

        return Selection(updates, judge)


class Selection:
    """A training that ends with its best policy instead of its last; see ``baselines.common.chunks.Trainee``.

    Offline methods pass their best policy and get worse, and only the true environment would tell when.

    Args:
        updates: the training.
        judge: returns a policy's score, the higher the better; of equal policies the later is kept.
    """

    def __init__(self, updates: Updates, judge: Callable[[BatchPolicy], float]) -> None:
        self._updates, self._judge, self.chunks = updates, judge, updates.chunks
        self._best: Arrays = {}
        self._score = -np.inf

    def advance(self, chunk: int) -> tuple[int, dict[str, float]]:
        """Trains one chunk and, at ``TRIALS`` evenly spaced chunks, judges the policy."""
        reached, losses = self._updates.advance(chunk)
        done = (chunk + 1) * TRIALS // self.chunks
        if done == chunk * TRIALS // self.chunks:
            return reached, losses
        score = self._judge(self._updates.learner)
        if score >= self._score:
            self._best, self._score = self._updates.arrays(), score
        return reached, {**losses, "simulated_return": score}

    def arrays(self) -> Arrays:
        """The weights of the best policy."""
        return self._best

    def state(self) -> Arrays:
        """The state of the training, and the best policy so far with its score ``[1]``."""
        score = {"score": np.array([self._score])} if self._best else {}
        return under({"training/": self._updates.state(), "best/": self._best}) | score

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""
        self._updates.load_state(below("training/", arrays))
        self._best = below("best/", arrays)
        self._score = float(arrays["score"][0]) if self._best else -np.inf
