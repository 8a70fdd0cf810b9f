"""A system with a hidden push, its data, and small settings, for the tests of CaDM."""

import gymnasium as gym
import numpy as np
import torch

from baselines.cadm import ActingSettings, CaDM, CaDMSettings
from persim.data.collect import collect
from persim.data.policies import UniformPolicy
from persim.envs.spec import Covariate, EnvSpec
from persim.methods.persim import PlanningSettings

SMALL = {
    "widths": (32, 32), "encoder_widths": (32,), "decays": (1e-5, 1e-5, 1e-5), "encoder_decays": (1e-5, 1e-5),
    "batch_size": 64, "learning_rate": 3e-3, "iterations": 2, "epochs": 50, "updates": 500,
}  # fmt: skip


def pushed(space=None, ends=9.0):
    """Each agent is pushed by a force of its own, of either sign, which only its transitions reveal.

    Every action has an effect: PE-TS gives more and more weight to what it predicts well, so an action whose effect
    needs no context would keep it from learning one.
    """

    def step(states, actions, covariates):
        force = covariates[:, 0] * (2 * actions - 1.0 if space is None else actions[:, 0])
        return np.stack([0.9 * states[:, 0] + force, 0.8 * states[:, 1] + 0.5 * force], axis=1)

    return EnvSpec(
        name="pushed", title="Pushed", covariates=(Covariate("push", "", -1, 1, 0.5),),
        test_agents=((-0.8,), (-0.3,), (0.5,)), policy_agents=(), horizon=30,
        observation_space=gym.spaces.Box(-9, 9, (2,)), action_space=space or gym.spaces.Discrete(2),
        reset=lambda rng, covariates: rng.uniform(-1, 1, (len(covariates), 2)), step=step,
        reward=lambda states, actions, following: following[..., 0],
        terminated=lambda following: following[..., 0].abs() > ends,
    )  # fmt: skip


PUSHED = pushed()
GLIDE = pushed(gym.spaces.Box(-1, 1, (2,)))


def recorded(spec=PUSHED, agents=12, horizon=30):
    covariates = spec.sample_agents(agents, np.random.default_rng(0))
    return collect(spec, covariates, UniformPolicy(spec.action_space), np.random.default_rng(1), horizon=horizon)


def planning(spec, planner=None, **options):
    return PlanningSettings.of(spec, planner, **{"plans": 20, "horizon": 5, **options})


def method(settings, spec=PUSHED, particles=None, **acting):
    particles = particles or (10 if settings.probabilistic else 1)
    how = planning(spec, "random_shooting" if spec.discrete else "cem", **({} if spec.discrete else {"elites": 5}))
    return CaDM(settings, ActingSettings(how, particles, **acting), spec)


def vanilla(**changes):
    return CaDMSettings.vanilla(**{**SMALL, **changes})


def pets(**changes):
    return CaDMSettings.pets(**{**SMALL, **changes})


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
