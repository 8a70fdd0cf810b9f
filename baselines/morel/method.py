"""MOReL as a method (Kidambi et al. 2020), built like the code that the paper used: its policy learns by PPO."""

from __future__ import annotations

from baselines.common.chunks import train
from baselines.morel.policy import StochasticActor
from baselines.morel.settings import MorelSettings
from baselines.morel.stages import Stages
from baselines.policy_method import Actor, PolicyMethod
from persim.envs.spec import EnvSpec
from persim.methods import Part, Weights
from persim.storage.store import Arrays


class Morel(PolicyMethod):
    """A part is one policy, with the dynamics that it was trained in.

    Args:
        settings: of both stages.
        spec: the environment.
        pooled: one policy from the data of all agents (-P); else one for each test agent, from its own (-A).

    Raises:
        InputError: an action of the environment has no bounds.
    """

    def __init__(self, settings: MorelSettings, spec: EnvSpec, *, pooled: bool) -> None:
        super().__init__(settings, spec, pooled=pooled)
        self.settings = settings

    def fit_part(self, part: Part) -> Weights:
        """Trains dynamics and policy on the data of all agents, or of the test agent of that number."""
        seeds = (part.seed, part.number)
        stages = Stages(self.settings, self.rows_of(part), part.spec, seeds, part.device)
        progress = train(stages, part.checkpoint, part.report)
        about = {"curves": progress.curves, "seconds": progress.seconds}
        return Weights(stages.policy.actor(), {"about": about})

    def _actor(self, arrays: Arrays, spec: EnvSpec, device: str) -> Actor:
        return StochasticActor(arrays, spec.action_space)
