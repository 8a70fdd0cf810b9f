"""Train the policies that act in the paper's experiments (Sections 5.1 and 5.2) with stable-baselines3."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from persim import seeding
from persim.data.collect import collect
from persim.data.policies import KIND, TEST_EPSILON, TEST_STEPS, WEIGHTS_FOLDER, EpsilonPolicy, NetworkPolicy
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError, check_choice
from persim.storage import store

MANIFEST = "manifest.json"

Progress = Callable[[int, int, float], None] | None


@dataclass(frozen=True)
class PolicyRecipe:
    """How to train the policies of an environment, and the rewards at which to stop.

    Attributes:
        test_target: mean reward that the test policy should earn on the default agent (Section 5.2).
        target: mean reward of training episodes at which a behaviour policy is good enough (Section 5.1).
        steps: maximal number of environment steps.
        settings: keyword arguments of the algorithm.
        window: number of latest training episodes over which that mean is taken.
        episodes: number of episodes that measure a policy's reward.
        every: environment steps between two checks of the reward.
        algorithm: name of the stable-baselines3 class.
        layers: widths of the hidden layers of its networks.
        tolerance: share of ``test_target`` by which the test policy may miss it.
        test_steps: steps, of the 60 of the prediction test, that the test policy has to keep every test agent going
            for on average; 0 where episodes end by success.
    """

    test_target: float
    target: float
    steps: int
    settings: dict[str, Any]
    window: int = 20
    episodes: int = 100
    every: int = 500
    algorithm: str = "DQN"
    layers: tuple[int, ...] = (64, 64)  # enough for DQN, and the weights take 20 KB only
    tolerance: float = 0.03
    test_steps: float = 0.0


# Settings follow rl-baselines3-zoo.
RECIPES = {
    "mountaincar": PolicyRecipe(test_target=-150.0, target=-200.0, steps=300_000, settings={
        "learning_rate": 4e-3, "batch_size": 128, "buffer_size": 10_000, "learning_starts": 1_000, "gamma": 0.98,
        "target_update_interval": 600, "train_freq": 16, "gradient_steps": 8,
        "exploration_fraction": 0.2, "exploration_final_eps": 0.07}),
    "cartpole": PolicyRecipe(test_target=150.0, target=120.0, steps=100_000, settings={
        "learning_rate": 1e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1_000, "gamma": 0.99,
        "target_update_interval": 500, "train_freq": 4, "gradient_steps": 2,
        "exploration_fraction": 0.16, "exploration_final_eps": 0.04}, test_steps=58.0),
    "halfcheetah": PolicyRecipe(test_target=4000.0, target=3000.0, steps=1_000_000, settings={
        "learning_rate": 1e-3, "batch_size": 256, "learning_starts": 10_000, "gamma": 0.99},
        window=5, episodes=10, every=10_000, algorithm="TD3", layers=(256, 256), tolerance=0.05),
}  # fmt: skip


def mean_reward(spec: EnvSpec, policy: NetworkPolicy, covariates: Array, seed: int, episodes: int = 100) -> float:
    """Measure the mean reward of a policy over episodes of one agent with covariates ``[C]``."""
    rng = seeding.generator(seed, "policy-evaluation")
    data = collect(spec, np.tile(covariates, (episodes, 1)), policy, rng)
    return float(data.reward.sum()) / episodes


def policy_names(spec: EnvSpec) -> tuple[str, ...]:
    """List the policies that can be trained: ``test``, and the policy-training agents numbered from 1."""
    return ("test", *(str(number + 1) for number in range(len(spec.policy_agents))))


def policy_target(spec: EnvSpec, which: str) -> float:
    """Return the reward at which training of this policy stops."""
    recipe = RECIPES[check_choice("environment", spec.name, RECIPES)]
    return recipe.test_target if which == "test" else recipe.target


def _weights(model: Any) -> NetworkPolicy:
    """Copy the network that acts: DQN's online Q network, or TD3's actor."""
    network, head = (model.policy.q_net.q_net, "argmax") if hasattr(model.policy, "q_net") else (model.actor.mu, "tanh")
    # The parameters of a Sequential alternate: weight and bias of the first layer, of the second, and so on.
    copies = [np.array(parameter.detach().numpy(), dtype=np.float32) for parameter in network.parameters()]
    return NetworkPolicy(list(zip(copies[::2], copies[1::2], strict=True)), head)


class _Rule(ABC):
    """Decides when a training has reached its target, and keeps the policy to use."""

    def __init__(self, measure: Callable[[NetworkPolicy], float], recipe: PolicyRecipe) -> None:
        self.measure, self.recipe, self.rewards = measure, recipe, deque[float](maxlen=recipe.window)
        self.policy: NetworkPolicy | None = None
        self.steps, self.latest, self.reached = 0, math.nan, False

    @abstractmethod
    def stop(self, model: Any, step: int) -> bool:
        """Tell whether to stop; ``rewards`` are those of the latest training episodes."""


class _NearTarget(_Rule):
    """Stop the test policy's training near its target, and keep the policy nearest to it (DQN's reward jumps).

    A policy that lets a test agent's episodes end early is passed over: predictions are to be compared over the
    whole test. ``steps_of`` measures for how many steps it keeps the worst test agent going.
    """

    gap = math.inf

    def __init__(
        self,
        measure: Callable[[NetworkPolicy], float],
        recipe: PolicyRecipe,
        steps_of: Callable[[NetworkPolicy], float],
    ) -> None:
        super().__init__(measure, recipe)
        self._steps_of = steps_of

    def stop(self, model: Any, step: int) -> bool:
        policy, target = _weights(model), self.recipe.test_target
        self.latest = self.measure(policy)
        gap, tolerated = abs(self.latest - target), self.recipe.tolerance * abs(target)
        if gap < self.gap and self._steps_of(policy) >= self.recipe.test_steps:
            self.gap, self.policy, self.steps = gap, policy, step
        self.reached = self.gap <= 5 * tolerated
        return self.gap <= tolerated


class _GoodEnough(_Rule):
    """Stop a behaviour policy's training once its latest episodes, exploration included, earn the target on average.

    Where gravity is low, exploration alone can earn the target, so the policy has to earn it without, too.
    """

    def stop(self, model: Any, step: int) -> bool:
        if len(self.rewards) < self.recipe.window:
            return False
        self.latest = float(np.mean(self.rewards))
        if self.latest >= self.recipe.target:
            self.policy, self.steps = _weights(model), step
            self.latest = min(self.latest, self.measure(self.policy))
            self.reached = self.latest >= self.recipe.target
        return self.reached


def train_policy(
    spec: EnvSpec, which: str, seed: int, progress: Progress = None
) -> tuple[NetworkPolicy, dict[str, object]]:
    """Train the test policy on the default agent, or a behaviour policy on its training agent (Table 4).

    It returns the policy, and a record of its training with its measured reward.

    Args:
        spec: the environment.
        which: one of ``policy_names``.
        seed: determines everything random.
        progress: called every 500 steps with the steps done, the maximal steps and the latest reward.

    Raises:
        InputError: the environment has no recipe, the policy is unknown, stable-baselines3 is missing, or
            the reward was not reached.
    """
    recipe = RECIPES[check_choice("environment", spec.name, RECIPES)]
    check_choice("policy", which, policy_names(spec))
    covariates = spec.default_agent if which == "test" else np.array(spec.policy_agents[int(which) - 1])

    def measure(policy: NetworkPolicy) -> float:
        return mean_reward(spec, policy, covariates, seed, recipe.episodes)

    named = dict(zip(spec.covariate_names, covariates.tolist(), strict=True))

    def steps_of(policy: NetworkPolicy) -> float:
        agents = np.repeat(np.array(spec.test_agents), recipe.episodes, axis=0)
        acting, rng = EpsilonPolicy(policy, TEST_EPSILON, spec.action_space), seeding.generator(seed, "policy-steps")
        data = collect(spec, agents, acting, rng, horizon=TEST_STEPS)
        return float(np.bincount(data.agent, minlength=len(agents)).reshape(-1, recipe.episodes).mean(1).min())

    rule = _NearTarget(measure, recipe, steps_of) if which == "test" else _GoodEnough(measure, recipe)
    names = ("policy", spec.name) if which == "test" else ("policy", spec.name, which)
    steps = _learn(spec, named, seeding.integer(seed, *names), rule, progress)
    if rule.policy is None or not rule.reached:
        missed = f"about {policy_target(spec, which):.0f} in {steps} steps (the latest reward was {rule.latest:.0f})"
        raise InputError(f"policy {which} of {spec.name} did not reach {missed}; try another --seed")
    made = {"env": spec.name, "policy": which, "covariates": named, "seed": seed, "steps": rule.steps}
    command = f"train-policies --env {spec.name} --policies {which} --seed {seed}"
    return rule.policy, {**made, "mean_reward": measure(rule.policy), "recipe": asdict(recipe), "command": command}


def _learn(spec: EnvSpec, covariates: dict[str, Any], seed: int, rule: _Rule, progress: Progress) -> int:
    """Train until the rule stops it or the steps are used up; return the number of steps taken."""
    try:
        import stable_baselines3 as sb3
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.logger import Logger
    except ImportError as error:
        raise InputError("stable-baselines3 is missing; install it with: pip install stable-baselines3") from error

    recipe = rule.recipe

    class _Stop(BaseCallback):  # type: ignore[misc]  # imported late, untyped
        def _on_step(self) -> bool:
            rule.rewards.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
            stop = self.num_timesteps % recipe.every == 0 and rule.stop(self.model, self.num_timesteps)
            if progress is not None and (stop or self.num_timesteps % 500 == 0):
                progress(self.num_timesteps, recipe.steps, rule.latest)
            return not stop

    settings = {**recipe.settings, "policy_kwargs": {"net_arch": list(recipe.layers)}}
    if recipe.algorithm == "TD3":
        still, noise = np.zeros(spec.action_dim), np.full(spec.action_dim, 0.1)
        settings["action_noise"] = sb3.common.noise.NormalActionNoise(still, noise)
    env = gym.make(f"PerSim/{spec.title}-v0", **covariates)
    model = getattr(sb3, recipe.algorithm)("MlpPolicy", env, seed=seed, device="cpu", **settings)
    model.set_logger(Logger(None, []))  # the default logger would leave a folder in /tmp
    model.learn(recipe.steps, callback=_Stop())
    return int(model.num_timesteps)


def write_manifest(folder: Path = WEIGHTS_FOLDER) -> None:
    """Write a list of the policies in a folder, with their training settings and measured rewards."""
    entries, keys = {}, ("env", "policy", "covariates", "mean_reward", "steps", "seed", "command", "note")
    for path in sorted(folder.glob("*.safetensors")):
        arrays, made = store.read_arrays(path, KIND)
        contents = {"parameters": sum(a.size for a in arrays.values()), "sha256": store.content_hash(arrays, made)}
        entries[path.name] = {key: made[key] for key in keys if key in made} | contents
    store.write_record(folder / MANIFEST, "policies", entries)
