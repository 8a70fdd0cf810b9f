"""Settings of the model-free baselines: the paper's (Appendix D.2), or their authors' where the paper has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.policy_method import GAMMA
from persim.envs.spec import EnvSpec
from persim.errors import check_at_least, check_between, check_choice
from persim.methods import Options


@dataclass(frozen=True)
class OfflineSettings:
    """Settings that all algorithms have.

    Attributes:
        updates: gradient steps.
        batch_size: transitions per step.
        gamma: discount.
        widths: hidden layers of every network (continuous BCQ's auto-encoder has its own).
        normalised: whether states are z-scored over the training data; the published codes do not.

    Raises:
        InputError: a number is out of range.
    """

    update_ms: ClassVar[float]  # of one core at the paper's nets and batch (docs/baselines.md)
    updates: int
    batch_size: int
    gamma: float = GAMMA
    widths: tuple[int, ...] = (256, 256)
    normalised: bool = False

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "critics", "target_interval"):  # not every algorithm has all of them
            check_at_least(name, getattr(self, name, 1), 1)
        check_between("gamma", self.gamma, 0, 1)


@dataclass(frozen=True)
class DiscreteBCQSettings(OfflineSettings):
    """Settings of discrete BCQ (Fujimoto et al. 2019b); the paper names their code.

    Attributes:
        learning_rate: of Adam.
        tau: weight of the online network in each soft update of the target.
        threshold: actions whose probability is below this fraction of the most likely one's are excluded.
        penalty: weight of the imitator's mean squared logit.
    """

    update_ms: ClassVar[float] = 4.0
    batch_size: int = 64
    learning_rate: float = 3e-4
    tau: float = 0.005
    threshold: float = 0.3
    penalty: float = 0.01


@dataclass(frozen=True)
class BCQSettings(OfflineSettings):
    """Settings of continuous BCQ (Fujimoto et al. 2019a, Algorithm 1); the paper names their code.

    Attributes:
        learning_rate: of Adam, for all networks.
        tau: weight of the online network in each soft update of the target.
        phi: largest perturbation of an action.
        lam: weight of the smaller of the two critics' values in a target.
        samples: actions sampled per state in a target.
        acting_samples: actions sampled per state when acting.
        kl_weight: weight of the KL divergence in the auto-encoder's loss.
        vae_widths: hidden layers of encoder and decoder.
    """

    update_ms: ClassVar[float] = 70.0
    batch_size: int = 100
    learning_rate: float = 1e-3
    tau: float = 0.005
    phi: float = 0.05
    lam: float = 0.75
    samples: int = 10
    acting_samples: int = 100
    kl_weight: float = 0.5
    widths: tuple[int, ...] = (400, 300)
    vae_widths: tuple[int, ...] = (750, 750)


@dataclass(frozen=True)
class DiscreteCQLSettings(OfflineSettings):
    """Settings of discrete CQL (Kumar et al. 2020).

    Attributes:
        learning_rate: of Adam.
        critics: number of critics.
        alpha: weight of the conservative term.
        target_interval: steps between copies of the online network to the target.
    """

    update_ms: ClassVar[float] = 17.0
    batch_size: int = 512
    learning_rate: float = 1e-4
    critics: int = 3
    alpha: float = 1.0
    target_interval: int = 8000


@dataclass(frozen=True)
class CQLSettings(OfflineSettings):
    """Settings of continuous CQL (Kumar et al. 2020), with a threshold (Lagrange) on the conservative term.

    The meaning of the threshold differs between releases of d3rlpy, and the paper does not name its release.
    ``form`` chooses: ``"0.90"``, the release nearest to the paper, adds alpha (5 mean gap - threshold) to the loss;
    ``"0.80"`` adds alpha (gap - threshold) for each critic; ``"2.8"`` is today's, with weight 5.

    Attributes:
        actor_learning_rate: of Adam, for the policy.
        critic_learning_rate: of Adam, for the critics.
        threshold: of the gap between the values of all actions and those of the data's actions.
        form: the release of d3rlpy that defines the threshold.
    """

    update_ms: ClassVar[float] = 130.0
    batch_size: int = 256
    actor_learning_rate: float = 3e-5
    critic_learning_rate: float = 3e-4
    threshold: float = 5.0
    form: str = "0.90"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("form of the threshold", self.form, ("0.80", "0.90", "2.8"))


# The paper gives BCQ's; for CQL it is silent, and d3rlpy's own examples have this.
PAPER_UPDATES = {"discrete_bcq": 550_000, "bcq": 550_000, "discrete_cql": 500_000, "cql": 500_000}
_FEW_UPDATES = {"discrete_bcq": 55_000, "bcq": 11_000, "discrete_cql": 10_000, "cql": 5_000}
_TEN_UPDATES = dict.fromkeys(PAPER_UPDATES, 10)
UPDATES = {"paper": PAPER_UPDATES, "laptop": _FEW_UPDATES, "quick": _FEW_UPDATES, "smoke": _TEN_UPDATES}


def chosen_settings(algorithm: str, spec: EnvSpec, options: Options) -> OfflineSettings:
    """The settings of ``bcq`` or ``cql`` that the options of a command ask for in an environment."""
    name = f"discrete_{algorithm}" if spec.discrete else algorithm
    # MountainCar's velocity is at most 0.07, its position ten times as much: on raw states the nets hardly see it.
    normalised = spec.name == "mountaincar" if options.normalised is None else options.normalised
    return offline_settings(name, options.of(UPDATES)[name], normalised=normalised)


def offline_settings(algorithm: str, updates: int, *, normalised: bool = False) -> OfflineSettings:
    """The paper's settings of ``discrete_bcq``, ``bcq``, ``discrete_cql`` or ``cql``, with this number of updates.

    Discrete CQL copies its target as often in a short training as in one of the paper's length: each copy
    carries values one step further back, so at the paper's interval a short training would look a few steps ahead.

    Raises:
        InputError: another algorithm, or fewer than 1 update.
    """
    if check_choice("algorithm", algorithm, PAPER_UPDATES) == "discrete_cql":
        interval = round(DiscreteCQLSettings.target_interval * updates / PAPER_UPDATES[algorithm])
        return DiscreteCQLSettings(updates, normalised=normalised, target_interval=max(1, interval))
    if algorithm == "cql":
        return CQLSettings(updates, normalised=normalised)
    return (DiscreteBCQSettings if algorithm == "discrete_bcq" else BCQSettings)(updates, normalised=normalised)
