"""HalfCheetah with varied mass and damping (Appendix E.1): run as fast as possible."""

from __future__ import annotations

import copy
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from persim.envs.frames import mujoco_frames
from persim.envs.spec import Actions, Array, Covariate, EnvSpec
from persim.errors import check_between

STEP_S = 0.05
FRAMES = 5
POSITIONS = slice(1, 9)  # of the 18 state dimensions
SPEEDS = np.r_[0, 9:18]
RESET_NOISE = 0.001
CONTROL_COST = 0.1
CACHED_MODELS = 4096
MIN_ROWS_PER_TASK, TASKS_PER_THREAD = 8, 4  # small tasks balance the load where other processes use some cores
MAX_STATE = 1e10  # MuJoCo's own limit (mjMAXVAL), beyond which it calls a state unstable
# m/s or rad/s from which a state counts as unstable. In recorded trajectories the root stays below 11 m/s and joints
# below 62 rad/s; a planner on the true dynamics of lightly damped agents drives the integration to thousands.
MAX_SPEED = 200.0
_FILE = str(Path(gym.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml")


class _Quiet:
    """Silence MuJoCo's warnings while at least one thread is inside, and restore their handler afterwards.

    MuJoCo warns that gymnasium's file uses settotalmass and of every instability; it prints both, and writes them
    into MUJOCO_LOG.TXT in the working folder. The first is harmless; ``step`` returns NaN for the second.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._before: Callable[[str], None] | None = None

    def __enter__(self) -> None:
        import mujoco

        with self._lock:
            if not self._users:
                self._before = mujoco.get_mju_user_warning()
                mujoco.set_mju_user_warning(lambda message: None)
            self._users += 1

    def __exit__(self, *error: object) -> None:
        import mujoco

        with self._lock:
            self._users -= 1
            if not self._users:
                mujoco.set_mju_user_warning(self._before)

    def after_fork(self) -> None:
        """Reset the state in a forked child, where the threads that may have been inside do not exist."""
        self._lock = threading.Lock()
        if self._users:
            self._users = 1
            self.__exit__()


_quiet = _Quiet()
_local = threading.local()


@cache
def _original() -> Any:
    """Compile gymnasium's model, once per process and without work on import.

    Its textures are left out: they are 97 % of the 500 kB that each agent's copy would take.
    """
    import mujoco

    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MjSpec warns of settotalmass, too
        spec = mujoco.MjSpec.from_file(_FILE)
        for geom in spec.geoms:
            geom.material = ""
        for unused in [*spec.materials, *spec.textures]:
            spec.delete(unused)
        model = spec.compile()
    # Return an unstable state as it is; by default MuJoCo silently resets it to the start.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return model


@lru_cache(maxsize=CACHED_MODELS)
def agent_model(mass: float, damping: float) -> Any:
    """Build the MuJoCo model of an agent: scale body masses and joint dampings, but not the inertias.

    ``body_invweight0``, which MuJoCo derives from the masses at compilation and which sets how soft contacts
    are, stays that of the default agent: ``mj_setConst`` is not called.
    """
    model = copy.copy(_original())
    model.body_mass[:] *= mass
    model.dof_damping[:] *= damping
    return model


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="halfcheetah")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_executor.cache_clear)  # its threads live in the parent only
    os.register_at_fork(after_in_child=_quiet.after_fork)


def _simulate(models: list[Any], start: Array, control: Array, after: Array) -> None:
    """Simulate from ``start`` ``[B, 19]`` under ``control`` ``[B, FRAMES, 6]`` into ``after`` ``[B, FRAMES, 19]``.

    Each thread keeps its own MuJoCo data, and MuJoCo releases the interpreter lock meanwhile. MuJoCo's own thread
    pool is not used: it hangs in a forked child, and crashes when two threads call it at once.
    """
    import mujoco
    from mujoco import rollout

    if not hasattr(_local, "data"):
        _local.rollout, _local.data = rollout.Rollout(nthread=0), mujoco.MjData(_original())
    # The shapes are known to fit, and MuJoCo's checks of every model would take longer than the rest of this function.
    options = {"skip_checks": True, "nstep": FRAMES, "initial_warmstart": None}
    _local.rollout.rollout(models, [_local.data], start, control, state=after, **options)


def reset(rng: Generator, covariates: Array) -> Array:
    """Draw initial states ``[B, 18]`` for covariates ``[B, 2]``: at rest with noise of 0.001, root velocity 0."""
    states = rng.normal(scale=RESET_NOISE, size=(len(covariates), 18))
    states[:, 0] = 0
    return states


def step(states: Array, actions: Actions, covariates: Array) -> Array:
    """Step states ``[B, 18]`` by actions ``[B, 6]`` with covariates ``[B, 2]``: five frames of 0.01 s on all cores.

    A state is (root velocity m/s over the previous step, 8 positions without the root's x, 9 velocities). It is
    all that MuJoCo needs, since nothing depends on x. The solver has no warm start, so each row gives the same
    result, bit for bit, in any batch. The next states ``[B, 18]`` are NaN where the state was or became unstable
    (``MAX_STATE``, ``MAX_SPEED``), or the action was not finite; an episode ends there, and a plan that leads
    there is lost.
    """
    control = np.clip(np.asarray(actions, dtype=np.float64), -1, 1)
    # False for NaN, too; MuJoCo would silently replace an action that is not a number.
    good = np.asarray((np.abs(states) < MAX_STATE).all(1) & np.isfinite(control).all(1))
    control = np.where(good[:, None], control, 0)[:, None].repeat(FRAMES, axis=1)
    start = np.zeros((len(states), 19))  # time, x, positions, velocities
    start[:, 2:] = np.where(good[:, None], states[:, 1:], 0)
    after = np.empty((len(states), FRAMES, 19))
    models = [agent_model(mass, damping) for mass, damping in covariates.tolist()]
    tasks = max(1, min(_cores() * TASKS_PER_THREAD, len(states) // MIN_ROWS_PER_TASK))
    rows = [slice(*ends) for ends in pairwise(np.linspace(0, len(states), tasks + 1).astype(int).tolist())]
    with _quiet:
        run = map if tasks == 1 else _executor().map
        list(run(lambda part: _simulate(models[part], start[part], control[part], after[part]), rows))
    following = np.concatenate([after[:, -1, 1:2] / STEP_S, after[:, -1, 2:]], axis=1)
    stable = (np.abs(following) < MAX_STATE).all(1) & (np.abs(following[:, SPEEDS]) < MAX_SPEED).all(1)
    following[~(good & stable)] = np.nan
    return following


def terminated(next_states: Tensor) -> Tensor:
    """Return False ``[...]`` for all states ``[..., 18]``: only the step limit ends an episode."""
    return torch.zeros_like(next_states[..., 0], dtype=torch.bool)


def frames(states: Array, covariates: Array) -> Iterator[NDArray[np.uint8]]:
    """Draw states ``[T, 18]`` with MuJoCo, the root's x summed from its velocities; all agents ``[2]`` look alike."""
    import mujoco

    with _quiet:
        model = mujoco.MjModel.from_xml_path(_FILE)
    x = np.cumsum(states[:, 0] * STEP_S)
    return mujoco_frames(model, np.column_stack([x, states[:, POSITIONS]]), "track")


def with_control_cost(cost: float) -> EnvSpec:
    """Build HalfCheetah with another control cost, such as the 0.05 of Appendix E.1 (the tables used 0.1).

    Its name contains the cost, so that data and models of different costs are not confused.

    Raises:
        InputError: the cost is negative or not finite.
    """
    check_between("control cost", cost, 0, math.inf, closed=True)

    def reward(states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
        """Return rewards ``[...]``: root velocity of next states ``[..., 18]`` less cost of actions ``[..., 6]``."""
        return next_states[..., 0] - cost * actions.square().sum(-1)

    return EnvSpec(
        name="halfcheetah" if cost == CONTROL_COST else f"halfcheetah-cost-{cost:g}",
        title="HalfCheetah",
        covariates=(Covariate("mass", "", 0.2, 1.8, 1.0), Covariate("damping", "", 0.2, 1.8, 1.0)),
        test_agents=((0.3, 1.7), (1.7, 0.3), (0.3, 0.3), (1.7, 1.7), (1.0, 1.0)),
        policy_agents=((0.6, 1.4), (1.4, 0.6), (0.6, 0.6), (1.4, 1.4)),
        horizon=1000,
        observation_space=Box(-np.inf, np.inf, (18,), np.float32),
        action_space=Box(-1.0, 1.0, (6,), np.float32),
        reset=reset,
        step=step,
        reward=reward,
        terminated=terminated,
        frames=frames,
    )


SPEC = with_control_cost(CONTROL_COST)
SPEC_COST_005 = with_control_cost(0.05)
