"""A simulator as a gymnasium environment of one agent."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from persim.errors import check_at_least
from persim.tables.planning import space_of
from persim.tables.reading import Array
from persim.tables.rewards import Reward, RewardOf
from persim.tables.simulator import Simulator


class SimulatedAgent(gym.Env[NDArray[np.float32], Any]):
    """An episode starts at the end of the agent's data and follows one member of the ensemble, drawn at its start.

    Observations are histories (states, earlier states, memories; ``Features``) and, if there are some, the known inputs
    of the step, ``[X + C]`` float32. Actions lie within what was recorded of the agent. The reward is that of the
    state after a step. Episodes are cut off after ``steps`` steps and never end before.

    Args:
        simulator: the simulator.
        agent: its id.
        steps: length of an episode.
        reward: as in ``persim.tables.planning.plan``.
        known: a frame with the known inputs of the steps of an episode; needed where the schema has any.

    Raises:
        InputError: the agent is unknown, it has no history, or something does not fit.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own form)

    def __init__(
        self, simulator: Simulator, agent: str, steps: int, *, reward: Reward | None = None, known: Any = None
    ) -> None:
        self._simulator, self._agent = simulator, np.array([simulator.number(agent)])
        self._start = simulator.start(agent, None)
        self._steps = check_at_least("steps", steps, 1)
        self._known = simulator.known_inputs(known, steps)
        self._reward = RewardOf(simulator.schema, reward, simulator.rewards)
        self.action_space: Box | Discrete = space_of(simulator, int(self._agent[0]), {})
        width = len(self._start) + self._known.shape[1]
        self.observation_space = Box(-np.inf, np.inf, (width,), np.float32)
        self._history, self._step, self._member = torch.from_numpy(self._start), 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin again at the end of the agent's data; return the observation ``[X + C]`` and the member."""
        super().reset(seed=seed)
        members = self._simulator.dynamics.theta.shape[0]
        self._history, self._step = torch.from_numpy(self._start), 0
        self._member = int(self.np_random.integers(members))
        return self._observation(), {"member": self._member}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take a step with an action ``[A]``, or a code if it is discrete; return an observation ``[X + C]``."""
        dynamics, states = self._simulator.dynamics, len(self._simulator.schema.state)
        given: Array = np.asarray(action, dtype=np.float64).reshape(1, -1)
        known = self._known[self._step][None]
        acts = torch.from_numpy(dynamics.features.acts(given, known))
        self._history = dynamics.follow(self._agent, self._history[None, None], acts)[self._member, 0]
        self._step += 1
        reward = self._reward(self._history[None, :states].numpy(), given, known)
        return self._observation(), float(reward[0]), False, self._step >= self._steps, {}

    def _observation(self) -> NDArray[np.float32]:
        known = self._known[min(self._step, self._steps - 1)]
        return np.concatenate([self._history.numpy(), known]).astype(np.float32)
