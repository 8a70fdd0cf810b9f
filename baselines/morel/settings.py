"""Settings of MOReL, by default those of the code that the paper names; each defect of it is a switch that is off."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.policy_method import GAMMA
from persim.envs.spec import EnvSpec
from persim.errors import InputError, check_at_least, check_between, check_choice

# Epochs and minimum of gradient steps of the dynamics; steps of the policy in the pessimistic MDP.
PAPER_MOREL = {"epochs": 2, "min_updates": 5_000, "ppo_steps": 1_000_000}
BUDGETS = {
    "paper": PAPER_MOREL,
    "quick": {"epochs": 1, "min_updates": 2_000, "ppo_steps": 100_000},
    "smoke": {"epochs": 1, "min_updates": 10, "ppo_steps": 1},
}


@dataclass(frozen=True)
class DynamicsSettings:
    """Settings of the ensemble of dynamics.

    Attributes:
        width: units of each hidden layer.
        epochs: passes over the data.
        min_updates: the least number of gradient steps; two passes over one short trajectory would be only a few.
        members: K.
        batch_size: transitions per step; all members, which differ only in their initial weights, see the same.
        learning_rate: of Adam.

    Raises:
        InputError: a number is out of range.
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
        check_at_least("members", self.members, 2, "disagreement needs two members")
        check_between("learning_rate", self.learning_rate, 0, 1)


@dataclass(frozen=True)
class PessimismSettings:
    """Settings of the detector and the pessimistic MDP (Kidambi et al. 2020, Definitions 1 and 2).

    Attributes:
        penalty: replaces the reward where the detector fires; the episode ends there (HALT).
        rule: how the largest disagreement that does not fire the detector is set: ``fixed``, as in the code that the
            paper names, or a ``percentile`` of the disagreement on the data themselves (Kidambi et al. take its
            maximum, percentile 100, times a factor).
        threshold: for the rule ``fixed``: a distance between z-scored outputs, the reward among them.
        percentile: for the rule ``percentile``.
        horizon: steps after which an episode is truncated.
        terminates: whether episodes also end where the environment's own would; in the code they do not.
        normalises_starts_twice: defect of the code: start states are z-scored, then treated as raw states.

    Raises:
        InputError: a number is out of range, or the rule is unknown.
    """

    penalty: float
    rule: str = "fixed"
    threshold: float = 1.0
    percentile: float = 99.0
    horizon: int = 300
    terminates: bool = False
    normalises_starts_twice: bool = False

    def __post_init__(self) -> None:
        check_choice("rule of the threshold", self.rule, ("fixed", "percentile"))
        check_at_least("horizon", self.horizon, 1)
        if not self.threshold > 0:
            raise InputError(f"threshold is {self.threshold}, but it has to be positive")
        if not 0 <= self.percentile <= 100:
            raise InputError(f"percentile is {self.percentile}, but it has to lie between 0 and 100")


@dataclass(frozen=True)
class PPOSettings:
    """Settings of the policy's training by PPO (Schulman et al. 2017).

    Attributes:
        steps: steps in the MDP; they are rounded down to whole updates, but at least one.
        update_steps: steps per update, over all episodes together.
        episodes: episodes that run at once; the code has one, which takes 30 times as long.
        epochs: passes over the steps of an update.
        minibatches: minibatches per pass.
        learning_rate: of Adam.
        clip: clipping range of the probability ratio.
        clip_value: clipping range of the values around their predictions before the update.
        entropy: weight of the entropy in the loss.
        value: weight of half the squared error of the values in the loss.
        gamma: discount.
        lam: lambda of the generalised advantage estimate.
        gradient_norm: the norm that gradients are clipped to.
        widths: hidden layers of the policy, and of the value network.
        ignores_ends: defect of the code: the advantage is summed across the ends of episodes, as if the next
            episode's start followed.

    Raises:
        InputError: a number is out of range, or minibatches or episodes do not divide the steps of an update.
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
            value, steps = getattr(self, name), self.update_steps
            if steps % value:
                raise InputError(f"{name} is {value}, which does not divide update_steps, {steps}; give a divisor")

    @property
    def updates(self) -> int:
        """The number of updates of the policy."""
        return max(1, self.steps // self.update_steps)


@dataclass(frozen=True)
class MorelSettings:
    """All settings of MOReL."""

    dynamics: DynamicsSettings
    pessimism: PessimismSettings
    ppo: PPOSettings

    @classmethod
    def of(cls, spec: EnvSpec, *, epochs: int, min_updates: int, ppo_steps: int) -> MorelSettings:
        """The paper's settings for an environment, with this budget (see ``PAPER_MOREL``).

        In environments with continuous actions that the paper lacks the networks are 512 wide, as in the code.

        Raises:
            InputError: a number is out of range.
        """
        width = 1024 if spec.name == "halfcheetah" else 128 if spec.discrete else 512
        penalty = -200.0 if spec.name == "halfcheetah" else -50.0
        return cls(DynamicsSettings(width, epochs, min_updates), PessimismSettings(penalty), PPOSettings(ppo_steps))
