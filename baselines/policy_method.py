"""What the methods have in common that learn a policy: one for all agents (-P), or one for each test agent (-A)."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from baselines.common.snapshots import below, under
from persim.data.policies import BatchPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError
from persim.methods import Fitted, Method, Part, Weights
from persim.storage.cells import plain
from persim.storage.store import Arrays

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

GAMMA = 0.99  # discount of all methods that learn a policy
_logger = logging.getLogger(__name__)


class Actor(Protocol):
    """A learnt policy; it knows nothing of agents."""

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Actions ``[B]`` or ``[B, A]`` for states ``[B, S]``."""
        ...


class PolicyMethod(Method):
    """A part is one policy.

    Args:
        settings: how it learns.
        spec: the environment.
        pooled: one policy from the data of all agents (-P); else one for each test agent, from its own (-A).

    Raises:
        InputError: an action of the environment has no bounds.
    """

    predicts, plans = False, False

    def __init__(self, settings: DataclassInstance, spec: EnvSpec, *, pooled: bool) -> None:
        space = spec.action_space
        if isinstance(space, gym.spaces.Box) and not space.is_bounded():
            raise InputError(
                f"BCQ, CQL and MOReL need bounds of every action, but {spec.name} has {space}; give a bounded Box"
            )
        self.pooled, self._about = pooled, asdict(settings)
        self.parts = 1 if pooled else len(spec.test_agents)

    @abstractmethod
    def _actor(self, arrays: Arrays, spec: EnvSpec, device: str) -> Actor:
        """The policy that a part has learnt."""

    def about(self) -> dict[str, Any]:
        """All settings."""
        return {"settings": self._about, "pooled": self.pooled}

    def learns_with(self) -> dict[str, Any]:
        """All settings."""
        return self.about()

    def episode_seconds(self, spec: EnvSpec) -> float:
        """Estimate an episode; a hundred of them act at once."""
        return spec.horizon * (1e-5 if spec.discrete else 2e-3)

    def identity(self, part: Part) -> dict[str, Any]:
        """What tells the training of a part from any other, for its checkpoint."""
        return {"method": plain(self.about()), "data": part.data.content_hash, "part": [part.seed, part.number]}

    def rows_of(self, part: Part) -> Trajectories:
        """What was recorded for a part to learn from, checked."""
        return check_rows(part.data, part.spec, "all agents") if self.pooled else of_agent(part)

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """All policies side by side; the curves are means over them."""
        arrays = {name: v for part, own in enumerate(parts) for name, v in under(f"{part}/", own.arrays).items()}
        abouts = [own.settings["about"] for own in parts]
        curves = {name: _mean_curve([about["curves"][name] for about in abouts]) for name in abouts[0]["curves"]}
        return Weights(arrays, {"about": {"curves": curves, "seconds": sum(about["seconds"] for about in abouts)}})

    def restore(self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu") -> Fitted:
        """The policies."""
        own = [below(f"{part}/", weights.arrays) for part in range(self.parts)]
        return _Policies([self._actor(arrays, spec, device) for arrays in own], self.pooled)


def _mean_curve(curves: Sequence[list[list[float]]]) -> list[list[float]]:
    """Point by point; agents with longer trajectories may have more of them."""
    points = min(len(curve) for curve in curves)
    mean: list[list[float]] = np.mean([curve[:points] for curve in curves], axis=0).tolist()
    return mean


def of_agent(part: Part) -> Trajectories:
    """What was recorded of the agent whose number the part has, checked."""
    return check_rows(part.data.of_agents([part.number]), part.spec, f"agent {part.number + 1}")


def check_rows(data: Trajectories, spec: EnvSpec, who: str) -> Trajectories:
    """Refuses data that no policy can be learnt from; warns of actions that they lack.

    Raises:
        InputError: fewer than two transitions, or the actions are not the environment's.
    """
    if data.action_space != spec.action_space:
        raise InputError(
            f"the actions of the data are {data.action_space}, but those of {spec.name} {spec.action_space}; "
            "give data of this environment"
        )
    if len(data) < 2:
        raise InputError(
            f"the data of {who} have 1 transition, but a policy needs at least 2; give a longer trajectory, or use -P"
        )
    if isinstance(data.action_space, gym.spaces.Discrete):
        lacking = sorted(set(range(int(data.action_space.n))) - set(np.unique(data.action).tolist()))
        if lacking:
            _logger.warning("the data of %s lack action %s: what it does is a guess", who, lacking)
    return data


class _Policies:
    """Acts by the policy of all agents, or by each one's own."""

    def __init__(self, actors: Sequence[Actor], pooled: bool) -> None:
        self._actors, self._pooled = actors, pooled

    def policy(self, agents: NDArray[np.int64]) -> BatchPolicy:
        """The learnt policies of these agents ``[B]``.

        Raises:
            InputError: an agent has no policy of its own.
        """
        which = np.zeros_like(agents) if self._pooled else agents
        if which.max(initial=0) >= len(self._actors):
            raise InputError(
                f"agent {int(agents.max()) + 1} has no policy of its own; only the test agents 1 to "
                f"{len(self._actors)} have, -P has one for all"
            )
        return _Learnt(self._actors, which)


class _Learnt(BatchPolicy):
    def __init__(self, actors: Sequence[Actor], which: NDArray[np.int64]) -> None:
        self._actors, self._which = actors, which

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        order = [(which, np.flatnonzero(self._which == which)) for which in np.unique(self._which)]
        chosen = [self._actors[which].act(states[rows], rng) for which, rows in order]
        places = np.concatenate([rows for _, rows in order])
        return np.asarray(np.concatenate(chosen)[np.argsort(places)])

    def keep(self, running: NDArray[np.bool_]) -> None:
        self._which = self._which[running]
