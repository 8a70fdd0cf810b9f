"""Shooting: draw many plans at random and take the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Discrete
from numpy.random import Generator

from persim.envs.spec import ActionSpace, Agents, Array
from persim.errors import InputError
from persim.planning.planner import Found, Memory, Planner, PlannerSettings, Plans, pick
from persim.seeding import drawn


def uniform_actions(space: ActionSpace, shape: tuple[int, ...], rng: Generator) -> Plans:
    """Draws actions ``shape`` (discrete) or ``[*shape, A]`` uniformly from the space."""
    if isinstance(space, Discrete):
        return rng.integers(int(space.n), size=shape, dtype=np.int8 if space.n < 128 else np.int64)
    return rng.uniform(space.low, space.high, size=(*shape, *space.shape)).astype(np.float32)


class RandomShooting(Planner):
    """The paper's planner of discrete actions: every action of every plan is drawn independently.

    Candidate 0 is the previous plan, shifted by one step (in the paper's code, not in its text). The
    defaults are the paper's: 1000 plans, horizon 50 (Appendix D.1).
    """

    def search(self, states: Array, agents: Agents, memory: Memory | None, rng: Generator) -> Found:
        """See ``Planner``."""
        plans = self._candidates(len(states), rng)
        if memory is not None:
            plans[:, 0, :-1] = memory[0][:, 1:]
        best = pick(plans, self._scorer(states, agents, plans, 1).argmax(axis=1))
        return best, (best,)

    def _candidates(self, episodes: int, rng: Generator) -> Plans:
        """Draws ``[B, P, H]`` or ``[B, P, H, A]``, with H outermost in memory, as the scorer reads them."""
        space, plans, horizon = self._space, self._settings.plans, self._settings.horizon
        actions = drawn(rng, episodes, lambda g, n: uniform_actions(space, (horizon, n, plans), g), axis=1)
        return np.moveaxis(actions, 0, 2)


@dataclass(frozen=True)
class PersistentSettings(PlannerSettings):
    """Settings of ``PersistentShooting``.

    Attributes:
        hold: probabilities that a step repeats the previous action; each is used by an equal share of the plans.

    Raises:
        InputError: there is no probability, or one is outside [0, 1).
    """

    hold: tuple[float, ...] = (0.0, 0.5, 0.8, 0.9, 0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hold or not all(0 <= p < 1 for p in self.hold):
            raise InputError(f"hold is {self.hold}, but it has to be one or more probabilities, at least 0 and below 1")


class PersistentShooting(RandomShooting):
    """Shooting with plans that hold an action for several steps.

    Independent actions rarely push the same way for long, as a swinging car needs. Here each step repeats
    the previous action with a probability that differs between plans.
    """

    settings_type = PersistentSettings

    def _candidates(self, episodes: int, rng: Generator) -> Plans:
        plans = np.moveaxis(super()._candidates(episodes, rng), 2, 0)
        hold = np.resize(np.array(self._settings.hold, dtype=np.float32), self._settings.plans)
        chances = drawn(rng, episodes, lambda g, n: g.random((len(plans), n, len(hold)), dtype=np.float32), axis=1)
        held = chances < hold
        for step in range(1, len(plans)):
            plans[step, held[step]] = plans[step - 1, held[step]]
        return np.moveaxis(plans, 0, 2)
