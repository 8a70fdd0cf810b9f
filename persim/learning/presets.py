"""The paper's settings of each environment (Appendix D.1)."""

from __future__ import annotations

from dataclasses import dataclass

from persim.data.trajectories import Trajectories
from persim.errors import InputError
from persim.learning.model import ModelSettings

RANKS = (3, 5, 10, 15, 20, 30)
EPOCHS = 300
MEMBERS = 5
VARIANTS = ("paper", "wide")


@dataclass(frozen=True)
class Preset:
    """Settings of the model and its minibatches for one environment.

    Attributes:
        rank: R, by cross-validation.
        batch_size: B.
        state_widths: widths of the state encoder's hidden layers.
        action_widths: widths of the action encoder's hidden layers; none for discrete actions.
        normalised: whether states and state differences are z-scored. The paper does not say. Its code z-scores
            in HalfCheetah only; in the other environments z-scores make predictions ten times worse.
        residual: whether state differences are predicted, as in the paper, or the next states themselves.
        imitation: widths of the nets that imitate the recorded actions (``persim.learning.imitation``); none where a
            planner needs no such prior, as with discrete actions.
    """

    rank: int
    batch_size: int
    state_widths: tuple[int, ...] = (256,)
    action_widths: tuple[int, ...] = ()
    normalised: bool = False
    residual: bool = True
    imitation: tuple[int, ...] = ()

    def shape(self, data: Trajectories, rank: int, members: int) -> ModelSettings:
        """Returns the settings of a model for these data."""
        sizes = data.n_agents, data.state_dim, data.action_dim, data.discrete
        widths = self.state_widths, self.action_widths
        return ModelSettings(*sizes, rank, members, *widths, self.normalised, self.residual)


_IMITATION = (256, 256)
_PRESETS = {
    ("mountaincar", "paper"): Preset(rank=3, batch_size=512),
    ("cartpole", "paper"): Preset(rank=5, batch_size=64),
    ("halfcheetah", "paper"): Preset(15, 512, (256,) * 4, (256,) * 2, normalised=True, imitation=_IMITATION),
    # The authors' code has wider nets and larger batches than their text.
    ("halfcheetah", "wide"): Preset(15, 1024, (512,) * 4, (512,) * 2, normalised=True, imitation=_IMITATION),
}
_OTHERS = {
    True: Preset(rank=5, batch_size=256),
    False: Preset(15, 512, (256,) * 2, (256,), normalised=True, imitation=_IMITATION),
}


def preset(env: str, *, discrete: bool = True, variant: str = "paper") -> Preset:
    """Returns the paper's settings for an environment, or defaults for its kind of actions where the paper has none.

    The variant ``paper`` has the settings in the text, ``wide`` those of the authors' code.

    Raises:
        InputError: the environment has no such variant.
    """
    if (env, variant) in _PRESETS:
        return _PRESETS[env, variant]
    if variant != "paper":
        known = [name for name, which in _PRESETS if which == variant]
        raise InputError(f"{env} has no nets {variant!r}; use paper ({', '.join(known) or 'no environment'} has them)")
    return _OTHERS[discrete]
