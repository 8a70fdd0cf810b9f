"""Settings of MOReL: those of the code that the paper names, and where that has a defect, a switch that is off."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.model_free.settings import GAMMA
from persim.envs.spec import EnvSpec
from persim.errors import InputError, check_at_least, check_between, check_choice

RULES = ("fixed", "percentile")
# Dynamics: passes over the data, and the fewest updates; policy: steps in the pessimistic MDP.
PAPER_MOREL = {"epochs": 2, "min_updates": 5_000, "ppo_steps": 1_000_000}
BUDGETS = {
    "paper": PAPER_MOREL,
    "quick": {"epochs": 1, "min_updates": 2_000, "ppo_steps": 100_000},
    "smoke": {"epochs": 1, "min_updates": 10, "ppo_steps": 1},
}

_WIDTHS = {"halfcheetah": 1024}
_PENALTIES = {"halfcheetah": -200.0}


@dataclass(frozen=True)
class DynamicsSettings:
    """Of the ensemble.

    Attributes:
        width: of every layer.
        epochs: passes over the data.
        min_updates: the fewest gradient steps; two passes over one short trajectory are a handful.
        members: M.
        batch_size: transitions of a step; the same for all members, which differ in their first weights only.
        learning_rate: of Adam.

    Raises:
        InputError: a number out of range.
    """

    width: int
    epochs: int = PAPER_MOREL["epochs"]
    min_updates: int = PAPER_MOREL["min_updates"]
    members: int = 4
    batch_size: int = 128
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("width", "epochs", "min_updates", "batch_size"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("members", self.members, 2, "one alone has nobody to disagree with")
        check_between("learning_rate", self.learning_rate, 0, 1)


@dataclass(frozen=True)
class PessimismSettings:
    """Of the detector and the MDP (Kidambi et al. 2020, Definitions 1 and 2).

    Attributes:
        penalty: takes the place of the reward where the detector fires, and the episode ends (HALT).
        rule: whether the largest disagreement that passes is ``fixed``, as in the code that the paper names, or
            a ``percentile`` of the disagreement about the data themselves (Kidambi et al. take their
            maximum, percentile 100, times a factor).
        threshold: of the rule ``fixed``: a distance of normalised outputs, the reward among them.
        percentile: of the rule ``percentile``.
        horizon: steps after which an episode is cut off.
        terminates: whether episodes also end where those of the environment do; in the code they do not.
        normalises_starts_twice: a defect of the code: start states are z-scored, then taken for raw ones.

    Raises:
        InputError: a number out of range, or another rule.
    """

    penalty: float
    rule: str = "fixed"
    threshold: float = 1.0
    percentile: float = 99.0
    horizon: int = 300
    terminates: bool = False
    normalises_starts_twice: bool = False

    def __post_init__(self) -> None:
        check_choice("rule of the threshold", self.rule, RULES)
        check_at_least("horizon", self.horizon, 1)
        if not self.threshold > 0:
            raise InputError(f"threshold is {self.threshold}, but it has to be positive")
        if not 0 <= self.percentile <= 100:
            raise InputError(f"percentile is {self.percentile}, but it has to lie between 0 and 100")


@dataclass(frozen=True)
class PPOSettings:
    """Of the policy (Schulman et al. 2017).

    Attributes:
        steps: in the MDP; whole updates are made of them, at least one.
        update_steps: between two updates, all episodes together.
        episodes: that run at once; the code has one, which takes 30 times as long.
        epochs: passes over the steps of an update.
        minibatches: of each pass.
        learning_rate: of Adam.
        clip: of the ratio of probabilities.
        clip_value: the most that a value may move in an update, from which side the loss is flat.
        entropy: its weight in the loss.
        value: weight of half the squared error of the values.
        gamma: discount.
        lam: lambda of the generalised advantage.
        gradient_norm: the largest.
        widths: of the hidden layers, of policy and values each.
        ignores_ends: a defect of the code: the advantage is summed across the ends of episodes, as if the
            start of the next one followed.

    Raises:
        InputError: a number out of range, or minibatches and episodes that do not divide the steps of an update.
    """

    steps: int = PAPER_MOREL["ppo_steps"]
    update_steps: int = 1024
    episodes: int = 32
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 2.7e-4
    clip: float = 0.2
    clip_value: float = 0.2
    entropy: float = 0.01
    value: float = 0.5
    gamma: float = GAMMA
    lam: float = 0.95
    gradient_norm: float = 0.5
    widths: tuple[int, ...] = (64, 64)
    ignores_ends: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "update_steps", "episodes", "epochs", "minibatches"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("learning_rate", "gamma"):
            check_between(name, getattr(self, name), 0, 1)
        for name in ("episodes", "minibatches"):
            if self.update_steps % getattr(self, name):
                raise InputError(
                    f"{name} is {getattr(self, name)}, which does not divide update_steps, {self.update_steps}; "
                    "give a divisor"
                )

    @property
    def updates(self) -> int:
        """How often the policy is updated."""
        return max(1, self.steps // self.update_steps)


@dataclass(frozen=True)
class MorelSettings:
    """All of them."""

    dynamics: DynamicsSettings
    pessimism: PessimismSettings
    ppo: PPOSettings

    @classmethod
    def of(cls, spec: EnvSpec, *, epochs: int, min_updates: int, ppo_steps: int) -> MorelSettings:
        """The paper's settings for an environment, with this budget (see ``PAPER_MOREL``).

        Nets are 128 wide and the penalty is -50; HalfCheetah's are 1024 and -200. Other environments with
        continuous actions get 512, which the code has.

        Raises:
            InputError: a number out of range.
        """
        width = _WIDTHS.get(spec.name, 128 if spec.discrete else 512)
        return cls(
            DynamicsSettings(width, epochs, min_updates),
            PessimismSettings(_PENALTIES.get(spec.name, -50.0)),
            PPOSettings(ppo_steps),
        )
