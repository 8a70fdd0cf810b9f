"""The base of all methods that learn a policy: one for all agents (-P), or one for each test agent (-A)."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from baselines.common.chunks import Trainee, train
from baselines.common.snapshots import below, under
from persim.data.policies import BatchPolicy
from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError
from persim.methods import Fitted, Method, Part, Weights
from persim.storage.cells import plain
from persim.storage.store import Arrays

GAMMA = 0.99  # discount of all methods that learn a policy
_logger = logging.getLogger(__name__)


class PolicyMethod(Method):
    """A part is one policy.

    Args:
        settings: how it learns, a dataclass.
        spec: the environment.
        pooled: one policy from the data of all agents (-P); else one for each test agent, from its own (-A).

    Raises:
        InputError: an action of the environment has no bounds.
    """

    predicts, plans = False, False

    def __init__(self, settings: Any, spec: EnvSpec, *, pooled: bool) -> None:
        space = spec.action_space
        if isinstance(space, gym.spaces.Box) and not space.is_bounded():
            raise InputError(
                f"BCQ, CQL and MOReL need bounds of every action, but {spec.name} has {space}; give a bounded Box"
            )
        self.settings, self.pooled = settings, pooled
        self.parts = 1 if pooled else len(spec.test_agents)

    def _training(self, part: Part) -> Trainee:
        """Make the training of one policy; a method that learns in another way overrides ``fit_part`` instead."""
        raise NotImplementedError(f"{type(self).__name__} needs a _training or its own fit_part")

    @abstractmethod
    def _actor(self, arrays: Arrays, spec: EnvSpec, device: str) -> BatchPolicy:
        """The policy that a part has learnt, for states of any agents."""

    def about(self) -> dict[str, Any]:
        """All settings."""
        return {"settings": asdict(self.settings), "pooled": self.pooled}

    def learns_with(self) -> dict[str, Any]:
        """All settings."""
        return self.about()

    def episode_seconds(self, spec: EnvSpec) -> float:
        """Estimate an episode; a hundred of them act at once."""
        return spec.horizon * (1e-5 if spec.discrete else 2e-3)

    def fit_part(self, part: Part) -> Weights:
        """Train one policy on the data of all agents or of the test agent of that number."""
        identity = {"method": plain(self.about()), "data": part.data.content_hash, "part": [part.seed, part.number]}
        return train(self._training(part), part, identity)

    def rows_of(self, part: Part) -> Trajectories:
        """Return what was recorded for a part to learn from, and warn of actions that it lacks.

        Raises:
            InputError: fewer than two transitions, or the actions are not the environment's.
        """
        data, who = part.data, "all agents"
        if not self.pooled:
            data, who = data.of_agents([part.number]), f"agent {part.number + 1}"
        if data.action_space != part.spec.action_space:
            raise InputError(
                f"the actions of the data are {data.action_space}, but those of {part.spec.name} "
                f"{part.spec.action_space}; give data of this environment"
            )
        if len(data) < 2:
            raise InputError(
                f"the data of {who} have 1 transition, but a policy needs at least 2; give longer ones, or use -P"
            )
        lacking = np.setdiff1d(np.arange(data.action_dim), data.action).tolist() if data.discrete else []
        if lacking:
            _logger.warning("the data of %s lack action %s: what it does is a guess", who, lacking)
        return data

    def assemble(self, parts: Sequence[Weights]) -> Weights:
        """All policies side by side; the curves are means over them, point by point."""
        arrays = under({f"{part}/": own.arrays for part, own in enumerate(parts)})
        abouts = [own.settings["about"] for own in parts]
        curves: dict[str, list[list[float]]] = {}
        for name in abouts[0]["curves"]:
            found = [about["curves"][name] for about in abouts]
            points = min(map(len, found))  # agents with longer trajectories may have more of them
            curves[name] = np.mean([curve[:points] for curve in found], axis=0).tolist()
        return Weights(arrays, {"about": {"curves": curves, "seconds": sum(about["seconds"] for about in abouts)}})

    def restore(self, weights: Weights, spec: EnvSpec, covariates: Array | None = None, device: str = "cpu") -> Fitted:
        """Make the policies; covariates ``[N, C]`` are not needed."""
        own = [below(f"{part}/", weights.arrays) for part in range(self.parts)]
        return _Policies([self._actor(arrays, spec, device) for arrays in own], self.pooled)


class _Policies:
    """Acts by the policy of all agents, or by each one's own."""

    def __init__(self, actors: Sequence[BatchPolicy], pooled: bool) -> None:
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
    def __init__(self, actors: Sequence[BatchPolicy], which: NDArray[np.int64]) -> None:
        self._actors, self._which = actors, which

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        order = [(which, np.flatnonzero(self._which == which)) for which in np.unique(self._which)]
        chosen = [self._actors[which].act(states[rows], rng) for which, rows in order]
        places = np.concatenate([rows for _, rows in order])
        return np.asarray(np.concatenate(chosen)[np.argsort(places)])

    def keep(self, running: NDArray[np.bool_]) -> None:
        self._which = self._which[running]
