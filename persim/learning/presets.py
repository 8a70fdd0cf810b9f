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
    """What the paper chose for one environment.

    Attributes:
        rank: R, by cross-validation.
        batch_size: B.
        state_widths: hidden layers of the state encoder.
        action_widths: hidden layers of the action encoder; none for discrete actions.
        normalised: whether states and state differences are z-scored. The paper does not say; its code
            does so in HalfCheetah and not in the others, where it makes predictions ten times worse.
    """

    rank: int
    batch_size: int
    state_widths: tuple[int, ...] = (256,)
    action_widths: tuple[int, ...] = ()
    normalised: bool = False

    def shape(self, data: Trajectories, rank: int, members: int) -> ModelSettings:
        """Settings of a model of these data."""
        return ModelSettings(
            data.n_agents,
            data.state_dim,
            data.action_dim,
            data.discrete,
            rank,
            members,
            self.state_widths,
            self.action_widths,
            self.normalised,
        )


_PRESETS = {
    ("mountaincar", "paper"): Preset(rank=3, batch_size=512),
    ("cartpole", "paper"): Preset(rank=5, batch_size=64),
    ("halfcheetah", "paper"): Preset(15, 512, (256,) * 4, (256,) * 2, normalised=True),
    # The authors' code has wider nets and batches than their text.
    ("halfcheetah", "wide"): Preset(15, 1024, (512,) * 4, (512,) * 2, normalised=True),
}
_OTHERS = {
    True: Preset(rank=5, batch_size=256),
    False: Preset(15, 512, (256,) * 2, (256,), normalised=True),
}


def preset(env: str, *, discrete: bool = True, variant: str = "paper") -> Preset:
    """The paper's settings, or sensible ones for an environment that is not in the paper.

    Raises:
        InputError: the environment has no such variant.
    """
    if (env, variant) in _PRESETS:
        return _PRESETS[env, variant]
    if variant != "paper":
        known = [name for name, which in _PRESETS if which == variant]
        raise InputError(f"{env} has no nets {variant!r}; use paper ({', '.join(known) or 'no environment'} has them)")
    return _OTHERS[discrete]
