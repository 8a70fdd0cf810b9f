"""A walk on a line, whose best policy is known."""

import gymnasium as gym
import numpy as np
import torch

from persim.data.collect import collect
from persim.data.policies import UniformPolicy
from persim.envs.spec import Covariate, EnvSpec
from persim.evaluation.reward import average_rewards

COLUMNS = ("agent", "step", "observation", "action", "next_observation", "reward", "terminated", "truncated")


def line(space, move):
    """A walk on a line in steps of ``push``: an agent earns most by going to 0 and staying there."""
    return EnvSpec(
        name="line", title="Line", covariates=(Covariate("push", "", 0.1, 0.5, 0.3),),
        test_agents=((0.2,), (0.4,)), policy_agents=(), horizon=10,
        observation_space=gym.spaces.Box(-5, 5, (1,)), action_space=space,
        reset=lambda rng, covariates: rng.uniform(-1, 1, (len(covariates), 1)),
        step=lambda states, actions, covariates: (states + covariates * move(actions).reshape(-1, 1)).clip(-1, 1),
        reward=lambda states, actions, following: -10 * following[..., 0].abs(),
        terminated=lambda following: torch.zeros_like(following[..., 0], dtype=torch.bool),
    )  # fmt: skip


WALK = line(gym.spaces.Discrete(3), lambda actions: actions - 1.0)
GLIDE = line(gym.spaces.Box(-2, 2, (1,)), lambda actions: actions / 2)


def recorded(spec, agents=8, horizon=40):
    covariates = spec.sample_agents(agents, np.random.default_rng(0))
    return collect(spec, covariates, UniformPolicy(spec.action_space), np.random.default_rng(1), horizon=horizon)


def earned(spec, data, fitted):
    result = average_rewards(spec, data.covariates, fitted.policy, np.random.default_rng(5), agents=(0, 1), episodes=20)
    return np.array([agent.mean for agent in result.agents])


def best_possible(spec, data):
    """Goes straight to 0, in whole steps or, with continuous actions, exactly as far as needed."""

    class Straight(UniformPolicy):
        def __init__(self, agents):
            self.push = data.covariates[agents]

        def act(self, states, rng):
            wanted = -states / self.push
            return np.round(wanted.clip(-1, 1)[:, 0]).astype(int) + 1 if spec.discrete else (2 * wanted).clip(-2, 2)

        def keep(self, running):
            self.push = self.push[running]

    result = average_rewards(spec, data.covariates, Straight, np.random.default_rng(5), agents=(0, 1), episodes=20)
    return np.array([agent.mean for agent in result.agents])


def random_reward(spec, data):
    result = average_rewards(
        spec, data.covariates, lambda agents: UniformPolicy(spec.action_space), np.random.default_rng(5),
        agents=(0, 1), episodes=20,
    )  # fmt: skip
    return np.array([agent.mean for agent in result.agents])


def share_of_the_way(spec, data, fitted):
    """The reward of both test agents, scaled so that random actions get 0 and the best policy gets 1."""
    best, chance = best_possible(spec, data), random_reward(spec, data)
    return (earned(spec, data, fitted) - chance) / (best - chance)
