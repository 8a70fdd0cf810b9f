"""Training the DQN policies that act in the paper's experiments (Section 5.2), with stable-baselines3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from persim import seeding
from persim.data.collect import collect
from persim.data.policies import GreedyQPolicy
from persim.envs.spec import EnvSpec
from persim.errors import InputError, check_choice

EVALUATION_EPISODES = 100
EVALUATE_EVERY = 500
TOLERANCE = 0.03


@dataclass(frozen=True)
class PolicyRecipe:
    """How to train a policy, and the reward at which to stop.

    Attributes:
        target: mean reward on the default agent (Section 5.2 and E.2: "approximately").
        steps: the most environment steps to spend.
        dqn: settings of stable-baselines3's DQN.
    """

    target: float
    steps: int
    dqn: dict[str, Any]


# Settings after rl-baselines3-zoo; 64 x 64 nets are enough and keep the weights at 20 KB.
TEST_RECIPES = {
    "mountaincar": PolicyRecipe(
        target=-150.0,
        steps=300_000,
        dqn={
            "learning_rate": 4e-3,
            "batch_size": 128,
            "buffer_size": 10_000,
            "learning_starts": 1_000,
            "gamma": 0.98,
            "target_update_interval": 600,
            "train_freq": 16,
            "gradient_steps": 8,
            "exploration_fraction": 0.2,
            "exploration_final_eps": 0.07,
        },
    ),
    "cartpole": PolicyRecipe(
        target=150.0,
        steps=100_000,
        dqn={
            "learning_rate": 1e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1_000,
            "gamma": 0.99,
            "target_update_interval": 500,
            "train_freq": 4,
            "gradient_steps": 2,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
        },
    ),
}


def mean_reward(spec: EnvSpec, policy: GreedyQPolicy, covariates: NDArray[np.float64], seed: int) -> float:
    """Mean reward over 100 episodes with one agent's covariates ``[C]``."""
    agents = np.tile(covariates, (EVALUATION_EPISODES, 1))
    episodes = collect(spec, agents, policy, seeding.generator(seed, "policy-evaluation"))
    return float(episodes.reward.sum()) / EVALUATION_EPISODES


def _greedy(model: Any) -> GreedyQPolicy:
    """A copy of the online Q network of a stable-baselines3 DQN."""
    linear = [layer for layer in model.policy.q_net.q_net if hasattr(layer, "weight")]
    return GreedyQPolicy([(_copy(layer.weight), _copy(layer.bias)) for layer in linear])


def _copy(parameter: Any) -> NDArray[np.float32]:
    return np.array(parameter.detach().numpy(), dtype=np.float32)


def train_test_policy(
    spec: EnvSpec, seed: int, progress: Callable[[int, int, float], None] | None = None
) -> tuple[GreedyQPolicy, dict[str, object]]:
    """Trains the test policy on the default agent until its mean reward is near the target.

    DQN's reward jumps between evaluations, so the policy of the evaluation nearest to the target is
    kept, and training stops as soon as one is within 3 % of it.

    Args:
        spec: the environment.
        seed: of everything random.
        progress: called with steps done, the most steps, and the latest mean reward.

    Returns:
        The policy, and how it was made, with its measured reward.

    Raises:
        InputError: no recipe for this environment, or stable-baselines3 is missing.
    """
    recipe = TEST_RECIPES[check_choice("environment", spec.name, TEST_RECIPES)]
    try:
        from stable_baselines3 import DQN
        from stable_baselines3.common.callbacks import BaseCallback
    except ImportError as error:
        raise InputError("stable-baselines3 is missing; install it with: pip install 'persim[policies]'") from error

    best: list[tuple[float, float, GreedyQPolicy, int]] = []

    class _StopNearTarget(BaseCallback):  # type: ignore[misc]  # imported late, untyped
        def _on_step(self) -> bool:
            if self.num_timesteps % EVALUATE_EVERY:
                return True
            policy = _greedy(self.model)
            reward = mean_reward(spec, policy, spec.default_agent, seed)
            gap = abs(reward - recipe.target)
            if not best or gap < best[0][0]:
                best[:] = [(gap, reward, policy, self.num_timesteps)]
            if progress is not None:
                progress(self.num_timesteps, recipe.steps, reward)
            return gap > TOLERANCE * abs(recipe.target)

    env = gym.make(f"PerSim/{spec.title}-v0")
    dqn = DQN(
        "MlpPolicy",
        env,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seeding.integer(seed, "policy", spec.name),
        device="cpu",
        **recipe.dqn,
    )
    dqn.learn(recipe.steps, callback=_StopNearTarget())
    gap, reward, policy, steps = best[0]
    if gap > 5 * TOLERANCE * abs(recipe.target):
        raise InputError(
            f"the nearest reward reached was {reward:.0f}, but about {recipe.target:.0f} is wanted; try another --seed"
        )
    made: dict[str, object] = {"env": spec.name, "seed": seed, "steps": steps, "mean_reward": reward}
    return policy, made | {
        "recipe": asdict(recipe),
        "command": f"train-policies --env {spec.name} --seed {seed}",
    }
