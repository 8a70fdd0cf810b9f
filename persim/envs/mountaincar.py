"""MountainCar with varied gravity (Appendix E.1): reach the hilltop in as few steps as possible."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.random import Generator
from torch import Tensor

from persim.envs.frames import gymnasium_frames
from persim.envs.spec import Actions, Array, Covariate, EnvSpec, PlanningHints

MIN_POSITION, MAX_POSITION, GOAL_POSITION = -1.2, 0.6, 0.5
MAX_SPEED = 0.07
FORCE = 0.001
PROGRESS_WEIGHT = 0.01


def reset(rng: Generator, covariates: Array) -> Array:
    """Draw initial states ``[B, 2]`` for covariates ``[B, 1]``: at rest, position uniform in [-0.6, -0.4]."""
    position = rng.uniform(-0.6, -0.4, size=len(covariates))
    return np.stack([position, np.zeros_like(position)], axis=1)


def step(states: Array, actions: Actions, covariates: Array) -> Array:
    """Step states ``[B, 2]`` by actions ``[B]`` under gravity ``[B, 1]`` as gymnasium's MountainCar-v0 does.

    A state is (position, velocity). Section 3 of the paper leaves out the clipping at walls and top speed.
    """
    position, velocity = states.T
    velocity = velocity + (actions - 1) * FORCE + np.cos(3 * position) * (-covariates[:, 0])
    velocity = np.clip(velocity, -MAX_SPEED, MAX_SPEED)
    position = np.clip(position + velocity, MIN_POSITION, MAX_POSITION)
    velocity = np.where((position == MIN_POSITION) & (velocity < 0), 0.0, velocity)
    return np.stack([position, velocity], axis=1)


def terminated(next_states: Tensor) -> Tensor:
    """Return whether ``[...]`` the car of states ``[..., 2]`` is at the goal and not rolling back."""
    return (next_states[..., 0] >= GOAL_POSITION) & (next_states[..., 1] >= 0)


def reward(states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
    """Return rewards ``[...]`` of -1 for steps to ``[..., 2]``, 0 at the goal (gymnasium: -1; Table 5 implies 0)."""
    return terminated(next_states).to(next_states.dtype) - 1


def progress(states: Tensor) -> Tensor:
    """Return values ``[...]``, 0.01 times the position of states ``[..., 2]``, to rank plans that miss the goal.

    The paper does not mention this term, but its code has it; without it nearly all plans tie. Plans that
    never climb above their start still tie, and then the previous step's plan is continued. The term never
    outweighs reaching the goal a step earlier, since every plan that reaches the goal climbs as high.
    """
    return PROGRESS_WEIGHT * states[..., 0].clamp(max=MAX_POSITION)


_LIMITS = np.array([(MIN_POSITION, -MAX_SPEED), (MAX_POSITION, MAX_SPEED)], dtype=np.float32)

SPEC = EnvSpec(
    name="mountaincar",
    title="MountainCar",
    covariates=(Covariate("gravity", "position per step squared", 0.0001, 0.0035, 0.0025),),
    test_agents=((0.0001,), (0.0005,), (0.001,), (0.0025,), (0.0035,)),
    policy_agents=((0.0003,), (0.00075,), (0.00175,), (0.0025,), (0.003,)),
    horizon=500,
    observation_space=Box(*_LIMITS),
    action_space=Discrete(3),
    reset=reset,
    step=step,
    reward=reward,
    terminated=terminated,
    planning=PlanningHints(best_reward=0.0, progress=progress, best_progress=PROGRESS_WEIGHT * MAX_POSITION),
    frames=lambda states, agent: gymnasium_frames("MountainCar-v0", states),  # all agents look alike
    state_names=("position", "velocity (per step)"),
)
