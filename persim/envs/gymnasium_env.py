"""Wrap an EnvSpec as a gymnasium environment of one agent."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from persim.envs.registry import get, names
from persim.envs.spec import Array, pictures
from persim.errors import InputError, check_choice

Observation = NDArray[np.float32]
Info = dict[str, Any]


class AgentEnv(gym.Env[Observation, Any]):
    """The true environment of one agent, with the same dynamics as the batched code.

    Args:
        name: an environment that ``persim.envs.get`` knows.
        render_mode: ``"rgb_array"`` for pictures from ``render``, or None.
        any_covariates: whether values outside the ranges of Table 4 are allowed.
        covariates: values that replace default covariates, such as ``gravity=0.001``.

    Raises:
        InputError: the environment or a covariate is unknown, a value is outside its range, or a
            ``render_mode`` is given for an environment without pictures.
    """

    metadata: Info = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self, name: str, render_mode: str | None = None, any_covariates: bool = False, **covariates: float
    ) -> None:
        spec = get(name)
        self.persim_spec, self.render_mode = spec, render_mode
        self.observation_space, self.action_space = spec.observation_space, spec.action_space
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
            self._frames = pictures(spec)
        for key in covariates:
            check_choice(f"covariate of {name}", key, spec.covariate_names)
        self._covariates = spec.covariate_rows([covariates.get(cov.name, cov.default) for cov in spec.covariates])
        if not any_covariates:
            spec.check_ranges(self._covariates)
        self._state: Array | None = None

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        """Start an episode, at random or in the state ``options={"state": [...]}``; return observation ``[S]``."""
        super().reset(seed=seed)
        state = self.persim_spec.reset(self.np_random, self._covariates)
        if options and "state" in options:
            state = np.asarray(options["state"], dtype=np.float64).reshape(1, -1)
        self._state = state
        return state[0].astype(np.float32), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Step the true dynamics by one action, a number or ``[A]``; the observation returned is ``[S]``.

        Raises:
            InputError: the action is not in the action space, or ``reset`` was not called.
        """
        if self._state is None:
            raise InputError("step was called before reset; call reset first")
        if not self.action_space.contains(action):
            raise InputError(f"action {action!r} is not in {self.action_space}; give an action in that space")
        actions = np.asarray(action)[None]
        before, self._state = self._state, self.persim_spec.step(self._state, actions, self._covariates)
        after = torch.from_numpy(self._state)
        reward = self.persim_spec.reward(torch.from_numpy(before), torch.from_numpy(actions), after)
        done = bool(self.persim_spec.terminated(after)[0])
        return self._state[0].astype(np.float32), float(reward[0]), done, False, {}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]  # gymnasium's is unbound
        """Draw the state as a picture ``[height, width, 3]``; return None without ``render_mode``.

        Raises:
            InputError: ``reset`` was not called.
        """
        if self.render_mode is None:
            return None
        if self._state is None:
            raise InputError("render was called before reset; call reset first")
        return next(iter(self._frames(self._state, self._covariates[0])))


def register_all() -> None:
    """Register the built-in environments with gymnasium, for example as ``PerSim/CartPole-v0``."""
    for name in names():
        spec = get(name)
        entry, limit = "persim.envs.gymnasium_env:AgentEnv", spec.horizon
        gym.register(f"PerSim/{spec.title}-v0", entry, max_episode_steps=limit, kwargs={"name": name})
