"""MountainCar with varied gravity (Appendix E.1): reach the hilltop in as few steps as possible."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from persim.envs.frames import gymnasium_frames
from persim.envs.spec import Actions, Array, Covariate, EnvSpec, PlanningHints

MIN_POSITION, MAX_POSITION, GOAL_POSITION = -1.2, 0.6, 0.5
MAX_SPEED = 0.07
FORCE = 0.001
PROGRESS_WEIGHT = 0.01


def reset(rng: np.random.Generator, covariates: Array) -> Array:
    """Start at rest, position uniform in [-0.6, -0.4]; returns ``[B, 2]``."""
    position = rng.uniform(-0.6, -0.4, size=len(covariates))
    return np.stack([position, np.zeros_like(position)], axis=1)


def step(states: Array, actions: Actions, covariates: Array) -> Array:
    """True dynamics of gymnasium's MountainCar-v0; a state is (position, velocity).

    Section 3 of the paper states them without the clipping at walls and top speed.
    """
    position, velocity = states[:, 0], states[:, 1]
    gravity = covariates[:, 0]
    velocity = velocity + (actions - 1) * FORCE + np.cos(3 * position) * (-gravity)
    velocity = np.clip(velocity, -MAX_SPEED, MAX_SPEED)
    position = np.clip(position + velocity, MIN_POSITION, MAX_POSITION)
    velocity = np.where((position == MIN_POSITION) & (velocity < 0), 0.0, velocity)
    return np.stack([position, velocity], axis=1)


def terminated(next_states: torch.Tensor) -> torch.Tensor:
    """True where the car is at the goal and not rolling back."""
    return (next_states[..., 0] >= GOAL_POSITION) & (next_states[..., 1] >= 0)


def reward(states: torch.Tensor, actions: torch.Tensor, next_states: torch.Tensor) -> torch.Tensor:
    """-1 a step, 0 for the step that reaches the goal (gymnasium pays -1 there; Table 5 implies 0)."""
    return terminated(next_states).to(next_states.dtype) - 1


def progress(states: torch.Tensor) -> torch.Tensor:
    """0.01 times the position: among plans that miss the goal, those that climb higher are better.

    Plans that never climb above where they start tie, and then the plan of the step before goes on.

    The paper does not mention it, its code does it; without it nearly all plans tie. It never outweighs
    reaching the goal a step earlier: whoever reaches it has climbed as high.
    """
    return PROGRESS_WEIGHT * states[..., 0].clamp(max=MAX_POSITION)


def frames(states: Array, covariates: Array) -> Iterator[NDArray[np.uint8]]:
    """Gymnasium's pictures of these states; all agents look alike."""
    return gymnasium_frames("MountainCar-v0", states)


SPEC = EnvSpec(
    name="mountaincar",
    title="MountainCar",
    covariates=(Covariate("gravity", "position per step squared", 0.0001, 0.0035, 0.0025),),
    test_agents=((0.0001,), (0.0005,), (0.001,), (0.0025,), (0.0035,)),
    policy_agents=((0.0003,), (0.00075,), (0.00175,), (0.0025,), (0.003,)),
    horizon=500,
    observation_space=gym.spaces.Box(
        np.array([MIN_POSITION, -MAX_SPEED], dtype=np.float32),
        np.array([MAX_POSITION, MAX_SPEED], dtype=np.float32),
    ),
    action_space=gym.spaces.Discrete(3),
    reset=reset,
    step=step,
    reward=reward,
    terminated=terminated,
    planning=PlanningHints(best_reward=0.0, progress=progress, best_progress=PROGRESS_WEIGHT * MAX_POSITION),
    frames=frames,
    state_names=("position", "velocity (per step)"),
)
