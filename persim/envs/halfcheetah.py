"""HalfCheetah with varied mass and damping (Appendix E.1): run as fast as possible."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from persim.envs.spec import Actions, Array, Covariate, EnvSpec

STEP_S = 0.05
FRAMES = 5
POSITIONS, VELOCITIES = slice(1, 9), slice(9, 18)  # of the 18 state dimensions; 0 is the root's velocity
RESET_NOISE = 0.001
CONTROL_COST = 0.1
CACHED_MODELS = 4096
MAX_STATE = 1e10  # MuJoCo's own limit (mjMAXVAL), beyond which it calls a state unstable


@cache
def _original() -> Any:
    """Gymnasium's model, compiled once a process (importing this module compiles nothing)."""
    import mujoco

    path = Path(gym.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
    # MuJoCo prints that this file uses settotalmass, and any instability, and writes both into MUJOCO_LOG.TXT
    # in the working folder. The first is harmless; the second comes back from ``step`` as NaN.
    mujoco.set_mju_user_warning(lambda message: None)
    model = mujoco.MjModel.from_xml_path(str(path))
    # An unstable state has to come back as it is; MuJoCo would silently start the episode anew.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return model


_models: OrderedDict[tuple[float, float], Any] = OrderedDict()


def agent_model(mass: float, damping: float) -> Any:
    """The MuJoCo model of an agent: body masses and joint dampings scaled, inertias as they are."""
    key = (mass, damping)
    if key not in _models:
        model = copy.copy(_original())
        model.body_mass[:] *= mass
        model.dof_damping[:] *= damping
        _models[key] = model
        if len(_models) > CACHED_MODELS:
            _models.popitem(last=False)
    return _models[key]


class _Pool:
    """MuJoCo's threads, one per core, made at the first step of this process."""

    def __init__(self) -> None:
        import mujoco
        from mujoco import rollout

        self.process = os.getpid()
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.rollout = rollout.Rollout(nthread=self.threads)
        self.data = [mujoco.MjData(_original()) for _ in range(self.threads)]


_pool: list[_Pool] = []


def _threads() -> _Pool:
    if not _pool or _pool[0].process != os.getpid():  # threads do not survive a fork
        _pool[:] = [_Pool()]
    return _pool[0]


def reset(rng: np.random.Generator, covariates: Array) -> Array:
    """Gaussian noise of 0.001 around rest, root velocity 0; returns ``[B, 18]``."""
    states = rng.normal(scale=RESET_NOISE, size=(len(covariates), 18))
    states[:, 0] = 0
    return states


def step(states: Array, actions: Actions, covariates: Array) -> Array:
    """Five frames of 0.01 s for many agents at once, on all cores.

    A state is (root velocity m/s over the step before, 8 positions without the root's x, 9 velocities). It
    holds all that MuJoCo needs, since nothing depends on x; its solver starts each step cold, so a
    step depends on nothing else, and a batch steps bit for bit as its rows do.

    Returns:
        Next states ``[B, 18]``; NaN where MuJoCo's state was or became unusable.
    """
    pool = _threads()
    good = np.asarray((np.abs(states) < MAX_STATE).all(1))  # false for NaN, too
    start = np.zeros((len(states), 19))  # time, x, positions, velocities
    start[:, 2:] = np.where(good[:, None], states[:, 1:], 0)
    control = np.clip(np.asarray(actions, dtype=np.float64), -1, 1)[:, None].repeat(FRAMES, axis=1)
    models = [agent_model(mass, damping) for mass, damping in covariates.tolist()]
    after, _ = pool.rollout.rollout(models, pool.data, start, control)
    after = after[:, -1]
    following = np.concatenate([after[:, 1:2] / STEP_S, after[:, 2:]], axis=1)
    following[~(good & (np.abs(following) < MAX_STATE).all(1))] = np.nan
    return following


def terminated(next_states: torch.Tensor) -> torch.Tensor:
    """Never."""
    return torch.zeros_like(next_states[..., 0], dtype=torch.bool)


def with_control_cost(cost: float) -> EnvSpec:
    """HalfCheetah with another control cost, such as the 0.05 of Appendix E.1 (the tables were made with 0.1)."""

    def reward(states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor) -> torch.Tensor:
        """Root velocity of the step, less the control cost."""
        return next_states[..., 0] - cost * actions.square().sum(-1)

    return replace(_BASE, reward=reward)


_BASE = EnvSpec(
    name="halfcheetah",
    title="HalfCheetah",
    covariates=(Covariate("mass", "", 0.2, 1.8, 1.0), Covariate("damping", "", 0.2, 1.8, 1.0)),
    test_agents=((0.3, 1.7), (1.7, 0.3), (0.3, 0.3), (1.7, 1.7), (1.0, 1.0)),
    policy_agents=((0.6, 1.4), (1.4, 0.6), (0.6, 0.6), (1.4, 1.4)),
    horizon=1000,
    observation_space=gym.spaces.Box(-np.inf, np.inf, (18,), np.float32),
    action_space=gym.spaces.Box(-1.0, 1.0, (6,), np.float32),
    reset=reset,
    step=step,
    reward=lambda states, actions, next_states: next_states[..., 0],
    terminated=terminated,
)

SPEC = with_control_cost(CONTROL_COST)
SPEC_COST_005 = replace(with_control_cost(0.05), name="halfcheetah-cost-0.05")
