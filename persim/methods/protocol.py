"""What a method is, ours or a baseline: data in, a policy for every agent out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from persim.data.policies import BatchPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, EnvSpec
from persim.evaluation.prediction import History
from persim.planning.planner import Plans
from persim.storage.store import Arrays

Report = Callable[[float], None]  # called now and then with the share that is done, 0 to 1


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
        self,
        agents: NDArray[np.int64],
        states: NDArray[Any],
        actions: NDArray[Any],
        history: History | None = None,
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
        parts: how many there are; 0 if nothing is learnt.
        predicts: whether a ``Fitted`` is a ``Predictor``.
        base: the method whose fitted weights every part starts from, on the same data and seed; None if there is none.
    """

    parts: int
    predicts: bool
    base: Method | None = None

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """All settings, as JSON can hold them."""

    @abstractmethod
    def learns_with(self) -> dict[str, Any]:
        """The settings that the weights depend on; methods that share them can share their weights."""

    @abstractmethod
    def fit_part(self, part: Part) -> Weights:
        """Trains one part.

        Raises:
            DivergenceError: the loss became non-finite.
        """

    @abstractmethod
    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """All parts, in order, as one."""

    @abstractmethod
    def restore(self, weights: Weights, spec: EnvSpec, covariates: Array | None, device: str = "cpu") -> Fitted:
        """The fitted method.

        Args:
            weights: from ``assemble``.
            spec: the environment.
            covariates: ``[N, C]`` of the agents that it acts for; only the true environment and PerSim for unseen
                agents look at them. None where they are unknown.
            device: to act on.
        """

    def fit(self, data: Trajectories, spec: EnvSpec, seed: int, device: str = "cpu") -> Fitted:
        """Trains all parts here, one after the other."""
        return self.restore(self.train(data, spec, seed, device), spec, data.covariates, device)

    def train(self, data: Trajectories, spec: EnvSpec, seed: int, device: str = "cpu") -> Weights:
        """The weights of ``fit``, after those of ``base``."""
        base = None if self.base is None else self.base.train(data, spec, seed, device)
        parts = [self.fit_part(Part(part, data, spec, seed, device, base=base)) for part in range(self.parts)]
        return self.assemble(parts)
