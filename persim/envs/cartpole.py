"""CartPole with varied push force and pole length (Appendix E.1): keep the pole up for 200 steps."""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.random import Generator
from torch import Tensor

from persim.envs.frames import gymnasium_frames
from persim.envs.spec import Actions, Array, Covariate, EnvSpec, PlanningHints

GRAVITY_M_S2 = 9.8
CART_MASS_KG, POLE_MASS_KG = 1.0, 0.1
TOTAL_MASS_KG = CART_MASS_KG + POLE_MASS_KG
STEP_S = 0.02
MAX_POSITION_M = 2.4
MAX_ANGLE_RAD = 12 * 2 * math.pi / 360
SAFETY_WEIGHT = 0.01


def reset(rng: Generator, covariates: Array) -> Array:
    """Draw initial states ``[B, 4]`` for covariates ``[B, 2]``, every dimension uniform in [-0.05, 0.05]."""
    return rng.uniform(-0.05, 0.05, size=(len(covariates), 4))


def step(states: Array, actions: Actions, covariates: Array) -> Array:
    """Step states ``[B, 4]`` by actions ``[B]`` as gymnasium's CartPole-v1 does (explicit Euler); 1 pushes right.

    A state is (position m, velocity m/s, angle rad, angular velocity rad/s). Covariates ``[B, 2]`` are the force
    and, as in gymnasium, the distance from the pivot to the pole's centre of mass, half the pole.
    """
    _, velocity, angle, angular_velocity = states.T
    force, length = covariates.T
    push = np.where(actions == 1, force, -force)
    cosine, sine = np.cos(angle), np.sin(angle)
    moment = POLE_MASS_KG * length
    shared = (push + moment * np.square(angular_velocity) * sine) / TOTAL_MASS_KG
    resistance = length * (4.0 / 3.0 - POLE_MASS_KG * np.square(cosine) / TOTAL_MASS_KG)
    angular_acceleration = (GRAVITY_M_S2 * sine - cosine * shared) / resistance
    acceleration = shared - moment * angular_acceleration * cosine / TOTAL_MASS_KG
    return states + STEP_S * np.stack([velocity, acceleration, angular_velocity, angular_acceleration], axis=1)


def terminated(next_states: Tensor) -> Tensor:
    """Return whether ``[...]`` the cart of states ``[..., 4]`` is off the track or the pole leans over 12 degrees."""
    return (next_states[..., 0].abs() > MAX_POSITION_M) | (next_states[..., 2].abs() > MAX_ANGLE_RAD)


def reward(states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
    """Return a reward ``[...]`` of 1 for every step to ``[..., 4]``, also when the pole falls (as in gymnasium)."""
    return torch.ones_like(next_states[..., 0])


def safety(next_states: Tensor) -> Tensor:
    """Return values ``[...]`` from 0.01 for centred, upright states ``[..., 4]`` down to 0 at both limits.

    The paper has no such term. Without it, a planner that only has to survive the next 50 steps drifts out of
    the region of the random data (within 0.7 m) and fails there. It never outweighs a survived step.
    """
    position = next_states[..., 0].abs().clamp(max=MAX_POSITION_M) / MAX_POSITION_M
    angle = next_states[..., 2].abs().clamp(max=MAX_ANGLE_RAD) / MAX_ANGLE_RAD
    return SAFETY_WEIGHT * (1 - (position + angle) / 2)


_LIMIT = np.array([MAX_POSITION_M * 2, np.inf, MAX_ANGLE_RAD * 2, np.inf], dtype=np.float32)

SPEC = EnvSpec(
    name="cartpole",
    title="CartPole",
    covariates=(Covariate("force", "N", 2.0, 18.0, 10.0), Covariate("pole_length", "m", 0.15, 0.85, 0.5)),
    test_agents=((2.0, 0.5), (10.0, 0.5), (18.0, 0.5), (10.0, 0.85), (10.0, 0.15)),
    policy_agents=((6.0, 0.5), (14.0, 0.5), (10.0, 0.5), (10.0, 0.675), (10.0, 0.325)),
    horizon=200,
    observation_space=Box(-_LIMIT, _LIMIT),
    action_space=Discrete(2),
    reset=reset,
    step=step,
    reward=reward,
    terminated=terminated,
    planning=PlanningHints(best_reward=1.0, safety=safety, best_safety=SAFETY_WEIGHT),
    frames=lambda states, agent: gymnasium_frames("CartPole-v1", states, length=float(agent[1])),
    state_names=("position (m)", "velocity (m/s)", "angle (rad)", "angular velocity (rad/s)"),
)
