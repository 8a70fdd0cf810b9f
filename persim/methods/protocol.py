"""What a method is, ours or a baseline: data in, a policy for every agent out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from persim.data.policies import BatchPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, EnvSpec
from persim.errors import check_at_least, check_choice
from persim.evaluation.prediction import History
from persim.planning.planner import Plans
from persim.storage.store import Arrays

Report = Callable[[float], None]  # called now and then with the share that is done, 0 to 1
PRESETS = ("paper", "laptop", "quick", "smoke")  # budgets, the fullest first; each method says what they mean for it
MOST_RANK = 10_000
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What a command chooses for the methods; each method takes what concerns it.

    Attributes:
        preset: one of ``PRESETS``.
        rank: R of PerSim; None for the paper's.
        planner: name of the planner; None for the default of the environment.
        planning: options of the planner that are not its own, such as ``horizon``, and ``safety``; None for none.
        normalised: whether BCQ and CQL see z-scored states; None for MountainCar only.
        tuned: settings of PerSim that ``tune.py`` found, by name (``persim.methods.tuned``); None for the preset's.
        polish: rounds of alternating least squares at the end of PerSim's training; None for the default.

    Raises:
        InputError: an unknown preset, a rank below 1, or rounds below 0.
    """

    preset: str = "paper"
    rank: int | None = None
    planner: str | None = None
    planning: Mapping[str, Any] | None = None
    normalised: bool | None = None
    tuned: Mapping[str, Any] | None = None
    polish: int | None = None

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, PRESETS)
        if self.rank is not None:
            check_at_least("rank", self.rank, 1, most=MOST_RANK)
        if self.polish is not None:
            check_at_least("polish", self.polish, 0)

    def of(self, budgets: Mapping[str, T]) -> T:
        """Choose the budget of the preset from a method's table; what the table lacks is the paper's."""
        return budgets.get(self.preset, budgets["paper"])


@dataclass(frozen=True)
class Weights:
    """What was learnt, as a file can hold it: named arrays, and settings that JSON can hold."""

    arrays: Arrays
    settings: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One part of a method, to be trained.

    Attributes:
        number: of the part, from 0.
        data: one trajectory of each agent.
        spec: the environment.
        seed: of the cell.
        device: to train on.
        checkpoint: a file to resume from if it exists, and to save to.
        report: told how far the training is.
        base: the assembled weights of ``Method.base``.
    """

    number: int
    data: Trajectories
    spec: EnvSpec
    seed: int
    device: str = "cpu"
    checkpoint: Path | None = None
    report: Report | None = None
    base: Weights | None = None


class Fitted(Protocol):
    """A method after training."""

    def policy(self, agents: NDArray[np.int64]) -> BatchPolicy:
        """The policy of a batch of episodes, given the agent ``[B]`` of each."""
        ...


@runtime_checkable
class Predictor(Protocol):
    """A fitted method that is model-based."""

    def predict(
        self, agents: NDArray[np.int64], states: NDArray[Any], actions: NDArray[Any], history: History | None = None
    ) -> NDArray[np.float64]:
        """Open-loop prediction.

        Args:
            agents: ``[B]``.
            states: ``[B, S]``, where each episode stands.
            actions: ``[B, H]`` or ``[B, H, A]``.
            history: the true steps that led to ``states``; None if an episode starts there. Only methods that
                infer from them whom they predict (CaDM) look at it; PerSim knows the agent.

        Returns:
            States ``[B, H + 1, S]``, the first of them ``states``.
        """
        ...


@runtime_checkable
class Simulator(Fitted, Predictor, Protocol):
    """A fitted method that predicts, and plans on what it predicts."""

    def plan(self, agents: NDArray[np.int64], states: NDArray[Any], rng: np.random.Generator) -> Plans:
        """The best plans from these states; nothing is remembered of earlier ones.

        Args:
            agents: ``[B]``.
            states: ``[B, S]``, where each episode stands.
            rng: the source of all randomness.

        Returns:
            Actions ``[B, H]`` or ``[B, H, A]``.
        """
        ...


@runtime_checkable
class HasFactors(Protocol):
    """A fitted method that has learnt a factor of every agent."""

    def agent_factors(self) -> NDArray[np.float32]:
        """The factors of the N agents of the data ``[K, N, R]``, those of each member in a basis of its own."""
        ...


class Method(ABC):
    """Trains in independent parts (such as the members of an ensemble), so that a cluster can share them.

    Everything random follows from the seed and the number of the part, so it does not matter where a
    part is trained, or beside which others.

    Attributes:
        name: key in ``baselines.registry``.
        learner: the name under which its weights are kept, where several methods share them; None for its own.
        parts: how many parts there are; 0 if nothing is learnt.
        predicts: whether a ``Fitted`` is a ``Predictor``.
        plans: whether it searches a plan at every step, which takes long; other methods act by a policy.
        base: the method whose fitted weights every part starts from, on the same data and seed; None if there is none.
        joint: whether ``fit_parts`` trains all parts at once, and the episodes of all agents are one batch, on a GPU.
        data_seed: seed of the data, where it is not that of the cell: of a model that was read from a file.
    """

    name: str
    learner: str | None = None
    parts: int
    predicts: bool
    plans: bool
    base: Method | None = None
    joint: bool = False
    data_seed: int | None = None

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """All settings, as JSON can hold them; how it plans stands under ``planning``."""

    @abstractmethod
    def learns_with(self) -> dict[str, Any]:
        """The settings that the weights depend on; methods that share them can share their weights."""

    def predicts_with(self) -> dict[str, Any]:
        """The settings that predictions depend on: all but how it plans."""
        return {name: value for name, value in self.about().items() if name != "planning"}

    def trains_jointly(self, device: str) -> bool:
        """Whether ``fit_parts`` trains all parts at once on this device."""
        return self.joint and device != "cpu"

    @abstractmethod
    def part_seconds(self, spec: EnvSpec, agents: int, steps: float) -> float:
        """Estimate how long one core trains a part, from N and the mean steps of a trajectory."""

    @abstractmethod
    def episode_seconds(self, spec: EnvSpec) -> float:
        """Estimate how long one core acts in an episode."""

    @abstractmethod
    def fit_part(self, part: Part) -> Weights:
        """Train one part.

        Raises:
            DivergenceError: the loss became non-finite.
        """

    def fit_parts(self, part: Part, numbers: Sequence[int]) -> list[Weights]:
        """Train several parts, one after the other unless the method ``trains_jointly``."""
        return [self.fit_part(replace(part, number=number)) for number in numbers]

    @abstractmethod
    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """Put all parts, in order, together."""

    @abstractmethod
    def restore(self, weights: Weights, spec: EnvSpec, covariates: Array | None, device: str = "cpu") -> Fitted:
        """Make the fitted method.

        Args:
            weights: from ``assemble``.
            spec: the environment.
            covariates: ``[N, C]`` of the agents that it acts for; only the true environment and PerSim for unseen
                agents look at them. None where they are unknown.
            device: to act on.
        """

    def fit(self, data: Trajectories, spec: EnvSpec, seed: int, device: str = "cpu") -> Fitted:
        """Train all parts here, one after the other."""
        return self.restore(self.train(data, spec, seed, device), spec, data.covariates, device)

    def train(self, data: Trajectories, spec: EnvSpec, seed: int, device: str = "cpu") -> Weights:
        """Train the weights of ``fit``, after those of ``base``."""
        base = None if self.base is None else self.base.train(data, spec, seed, device)
        return self.assemble(self.fit_parts(Part(0, data, spec, seed, device, base=base), range(self.parts)))
