"""MOReL as a method (Kidambi et al. 2020), built like the code that the paper used: its policy learns by PPO."""

from __future__ import annotations

from collections.abc import Callable

from baselines.common.chunks import train
from baselines.morel.policy import StochasticActor
from baselines.morel.settings import BUDGETS, MorelSettings
from baselines.morel.stages import Stages
from baselines.policy_method import Actor, PolicyMethod
from persim.envs.spec import EnvSpec
from persim.methods import Options, Part, Weights
from persim.storage.store import Arrays

# By width of the dynamics, milliseconds of one core: an update, and a step of the policy (docs/baselines.md).
_MS = {128: (2.7, 0.065), 512: (35.0, 0.15), 1024: (120.0, 0.35)}


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

    @classmethod
    def maker(cls, *, pooled: bool) -> Callable[[EnvSpec, Options], Morel]:
        """A function that builds it as the options of a command ask."""

        def make(spec: EnvSpec, options: Options) -> Morel:
            return cls(MorelSettings.of(spec, **options.of(BUDGETS)), spec, pooled=pooled)

        return make

    def part_seconds(self, spec: EnvSpec, agents: int, steps: float) -> float:
        """Estimate the updates of the dynamics and the steps of the policy."""
        dynamics = self.settings.dynamics
        update_ms, step_ms = _MS[dynamics.width]
        batches = (agents if self.pooled else 1) * steps / dynamics.batch_size
        updates = max(dynamics.epochs * batches, dynamics.min_updates)
        return (updates * update_ms + self.settings.ppo.steps * step_ms) / 1e3

    def fit_part(self, part: Part) -> Weights:
        """Trains dynamics and policy on the data of all agents, or of the test agent of that number."""
        seeds = (part.seed, part.number)
        stages = Stages(self.settings, self.rows_of(part), part.spec, seeds, part.device)
        progress = train(stages, part.checkpoint, part.report, identity=self.identity(part))
        about = {"curves": progress.curves, "seconds": progress.seconds}
        return Weights(stages.policy.actor(), {"about": about})

    def _actor(self, arrays: Arrays, spec: EnvSpec, device: str) -> Actor:
        return StochasticActor(arrays, spec.action_space)
