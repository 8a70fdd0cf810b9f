"""MOReL as a method (Kidambi et al. 2020), built like the code that the paper used: its policy learns by PPO."""

from __future__ import annotations

from pathlib import Path

from baselines.chunks import train
from baselines.morel.actor import StochasticActor
from baselines.morel.settings import MorelSettings
from baselines.morel.stages import Stages
from baselines.policy_method import Actor, PolicyMethod
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.methods import Report, Weights
from persim.store import Arrays


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

    def fit_part(
        self,
        part: int,
        data: Trajectories,
        spec: EnvSpec,
        seed: int,
        *,
        device: str = "cpu",
        checkpoint: Path | None = None,
        report: Report | None = None,
        base: Weights | None = None,
    ) -> Weights:
        """Trains dynamics and policy on the data of all agents or of test agent ``part``."""
        stages = Stages(self.settings, self.rows_of(part, data, spec), spec, (seed, part), device)
        progress = train(stages, checkpoint, report)
        about = {"curves": progress.curves, "seconds": progress.seconds}
        return Weights(stages.policy.actor(), {"about": about})

    def _actor(self, arrays: Arrays, spec: EnvSpec, device: str) -> Actor:
        return StochasticActor(arrays, spec.action_space)
