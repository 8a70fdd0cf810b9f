"""Settings of CaDM: those of its public code; its defects are switches, off by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from persim.errors import InputError, check_at_least, check_between
from persim.methods import PlanningSettings

# Its paper has up to 200 epochs in each of 20 iterations (its script 5); 0 updates: as many as that takes.
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
        iterations: each adds an equal share of the trajectories to those before, and goes on training.
        epochs: of an iteration, at most.
        updates: steps of Adam in all iterations together, at most; each iteration gets a share in
            proportion to its data. None for no limit.
        members: of the ensemble; more than one are trained on bootstrapped data.
        probabilistic: whether the forward net predicts a Gaussian (PE-TS), not a mean alone (vanilla).
        batch_size: transitions of a step and member.
        learning_rate: of Adam.
        history: K, transitions that the context is read off.
        future: M, transitions that a context is trained to explain.
        context: its dimensions; 0 for the same nets without one.
        widths: hidden layers of the forward and the backward net.
        encoder_widths: hidden layers of the context encoder.
        decays: weight decay of each layer of the forward and the backward net.
        encoder_decays: of each layer of the encoder.
        backward_weight: of the backward net's loss.
        bound_weight: of what keeps the bounds of the variance together.
        validation: share of the windows that is held out to stop early.
        max_validation: windows held out, at most.
        skip_first_window: defect of the public code: the first step of a trajectory and the all-zero
            history, with which every episode starts, are never trained.
        overlapping_validation: defect of the public code: windows are held out one by one, so that those
            for training hold the same transitions. Off, whole trajectories are.

    Raises:
        InputError: a number out of range, or decays that do not fit the layers.
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
            layers = len(getattr(self, widths)) + 1
            if len(getattr(self, decays)) != layers:
                raise InputError(
                    f"{decays} has {len(getattr(self, decays))} numbers, but {widths} make {layers} layers; "
                    "give one for each"
                )

    @classmethod
    def vanilla(cls, **changes: Any) -> CaDMSettings:
        """One model that predicts a mean."""
        return cls(**changes)

    @classmethod
    def pets(cls, **changes: Any) -> CaDMSettings:
        """Five models that predict a Gaussian."""
        return cls(**{"members": 5, "probabilistic": True, **changes})


@dataclass(frozen=True)
class ActingSettings:
    """How CaDM acts and predicts.

    Attributes:
        planning: its planner.
        particles: of each plan, spread evenly over the members; each keeps its member.
        warm_start: whether a search starts from the plan of the step before; random shooting does not.
        progress: whether planning is helped by the environment's measure of progress, as PerSim's is
            (``PlanningHints.progress``; MountainCar's height). CaDM's code does not know MountainCar, and PerSim's
            paper does not say; with it the paper's rewards come out, without it not (docs/baselines.md).
        mixed_members: defect of the public code: particle p moves by member p // (particles / members),
            but has the context of member p mod members, which for most particles is another's.
        mixed_episodes: defect of the public code: in every second round of the cross-entropy method
            episodes that are played together get each other's contexts.

    Raises:
        InputError: no particle.
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
        """Particles of each of so many members.

        Raises:
            InputError: they cannot be shared out evenly.
        """
        if self.particles % members:
            raise InputError(
                f"particles is {self.particles}, but {members} members need a multiple of {members} to share"
            )
        return self.particles // members
