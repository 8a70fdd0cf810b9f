"""Settings of CaDM, by default those of its public code; each defect of that code is a switch that is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from persim.errors import InputError, check_at_least, check_between
from persim.methods import PlanningSettings

# The paper has up to 200 epochs in each of 20 iterations (its script 5); 0 updates mean no limit.
PAPER_CADM = {"iterations": 20, "epochs": 200, "updates": 0, "particles": 20, "plans": 1000}
# Minutes of a core (docs/baselines.md); the paper's takes days of one, or a GPU.
_LITTLE_CADM = {"iterations": 5, "epochs": 200, "updates": 20_000, "particles": 5, "plans": 200}
BUDGETS = {
    "paper": PAPER_CADM,
    "laptop": _LITTLE_CADM,
    "quick": {**_LITTLE_CADM, "updates": 3000},
    "smoke": {"iterations": 2, "epochs": 2, "updates": 10, "particles": 5, "plans": 20},
}


@dataclass(frozen=True)
class CaDMSettings:
    """How CaDM learns (Lee et al. 2020, and their code).

    Attributes:
        iterations: each adds an equal share of the trajectories to those in use, and continues the training.
        epochs: the most epochs of an iteration.
        updates: the most steps of Adam in all iterations together; each iteration gets a share in proportion to its
            data. None for no limit.
        members: size of the ensemble; two or more are trained on bootstrapped data.
        probabilistic: whether the forward network predicts a Gaussian (PE-TS) or only a mean (vanilla).
        batch_size: transitions per step and member.
        learning_rate: of Adam.
        history: W, the transitions from which the context is inferred (K in the paper).
        future: M, the transitions that a context is trained to explain.
        context: C, the dimensions of a context; 0 for the same networks without one.
        widths: hidden layers of the forward and the backward network.
        encoder_widths: hidden layers of the context encoder.
        decays: weight decay of each layer of the forward and the backward network.
        encoder_decays: weight decay of each layer of the encoder.
        backward_weight: weight of the backward network's loss.
        bound_weight: weight of the penalty that keeps the bounds of the variance close together.
        validation: fraction of the windows that is held out for early stopping.
        max_validation: the most windows held out.
        skip_first_window: defect of the public code: the first step of a trajectory, and with it the all-zero
            history that every episode starts with, is never trained.
        overlapping_validation: defect of the public code: single windows are held out, although windows for training
            contain the same transitions. If off, whole trajectories are held out.

    Raises:
        InputError: a number is out of range, or the decays do not fit the layers.
    """

    iterations: int = PAPER_CADM["iterations"]
    epochs: int = PAPER_CADM["epochs"]
    updates: int | None = None
    members: int = 1
    probabilistic: bool = False
    batch_size: int = 256
    learning_rate: float = 1e-3
    history: int = 10
    future: int = 10
    context: int = 10
    widths: tuple[int, ...] = (200, 200, 200, 200)
    encoder_widths: tuple[int, ...] = (256, 128, 64)
    decays: tuple[float, ...] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    encoder_decays: tuple[float, ...] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5)
    backward_weight: float = 0.5
    bound_weight: float = 0.01
    validation: float = 0.1
    max_validation: int = 5000
    skip_first_window: bool = False
    overlapping_validation: bool = False

    def __post_init__(self) -> None:
        for name in ("iterations", "epochs", "members", "batch_size", "history", "future", "max_validation"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("context", self.context, 0)
        if self.updates is not None:
            check_at_least("updates", self.updates, 1)
        check_between("learning_rate", self.learning_rate, 0, 1)
        check_between("validation", self.validation, 0, 1)
        for widths, decays in (("widths", "decays"), ("encoder_widths", "encoder_decays")):
            given, layers = len(getattr(self, decays)), len(getattr(self, widths)) + 1
            if given != layers:
                raise InputError(f"{decays} has {given} numbers, but {widths} make {layers} layers; give one per layer")

    @classmethod
    def vanilla(cls, **changes: Any) -> CaDMSettings:
        """Vanilla CaDM: one model that predicts a mean."""
        return cls(**changes)

    @classmethod
    def pets(cls, **changes: Any) -> CaDMSettings:
        """PE-TS CaDM: five models that predict a Gaussian."""
        return cls(**{"members": 5, "probabilistic": True, **changes})


@dataclass(frozen=True)
class ActingSettings:
    """How CaDM acts and predicts.

    Attributes:
        planning: the planner and its settings.
        particles: particles per plan, spread evenly over the members; each keeps its member.
        warm_start: whether a search starts from the plan of the last step; random shooting never does.
        progress: whether the environment's measure of progress helps planning, as in PerSim
            (``PlanningHints.progress``; MountainCar's height). CaDM's code has no MountainCar, and PerSim's paper
            does not say; the paper's rewards are reached only with it (docs/baselines.md).
        mixed_members: defect of the public code: particle p moves by member p // (particles / members), but has the
            context of member p mod members, which is another one for most particles.
        mixed_episodes: defect of the public code: in every second round of the cross-entropy method, episodes that
            are played together get each other's contexts.

    Raises:
        InputError: there are no particles.
    """

    planning: PlanningSettings
    particles: int = 1
    warm_start: bool = True
    progress: bool = True
    mixed_members: bool = False
    mixed_episodes: bool = False

    def __post_init__(self) -> None:
        check_at_least("particles", self.particles, 1)

    def per_member(self, members: int) -> int:
        """The number of particles of each member.

        Raises:
            InputError: the particles are not a multiple of the members.
        """
        if self.particles % members:
            raise InputError(
                f"particles is {self.particles}, but {members} members share them evenly; give a multiple of {members}"
            )
        return self.particles // members
