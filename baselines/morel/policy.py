"""The policy's training: stable-baselines3's PPO on episodes in the pessimistic MDP."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from baselines.common.generators import global_seed
from baselines.common.snapshots import adam_arrays, below, copy_of, load_adam, load_net, net_arrays, under
from baselines.morel.episodes import Episodes
from baselines.morel.quiet import PPO, Logger
from baselines.morel.settings import PPOSettings
from persim.learning.training import DivergenceError
from persim.storage.store import Arrays


class PolicyTraining:
    """PPO with its episodes; stands still between two updates, and can be stored there.

    The nets stay on the CPU, which is faster at their size, wherever the dynamics are.

    Args:
        settings: of PPO.
        episodes: to learn from.
        seed: of the initial weights.
    """

    def __init__(self, settings: PPOSettings, episodes: Episodes, seed: np.random.SeedSequence) -> None:
        s = self._settings = settings
        self._episodes = episodes
        with global_seed(seed):
            self._ppo: Any = PPO(
                "MlpPolicy",
                episodes,
                learning_rate=s.learning_rate,
                n_steps=s.update_steps // s.episodes,
                batch_size=s.update_steps // s.minibatches,
                n_epochs=s.epochs,
                gamma=s.gamma,
                gae_lambda=s.lam,
                clip_range=s.clip,
                clip_range_vf=s.clip_value,
                ent_coef=s.entropy,
                vf_coef=s.value / 2,  # stable-baselines3 does not halve the squared error
                max_grad_norm=s.gradient_norm,
                policy_kwargs={
                    "net_arch": {"pi": list(s.widths), "vf": list(s.widths)},
                    "activation_fn": torch.nn.Tanh,
                },
                device="cpu",
            )
        self._ppo.set_logger(Logger(folder=None, output_formats=[]))  # its own makes a folder in /tmp

    def advance(self, start: int, stop: int, seed: np.random.SeedSequence) -> dict[str, float]:
        """Updates number ``start`` + 1 to ``stop``.

        Returns:
            Means over the episodes meanwhile: their length and return, and the share that the detector ended.

        Raises:
            DivergenceError: a loss became non-finite.
        """
        self._episodes.count_anew()
        with global_seed(seed):
            self._episodes.rng = np.random.default_rng(seed.spawn(1)[0])
            self._learn((stop - start) * self._settings.update_steps, stop)
        steps, rewards, ended, halted = self._episodes.totals.tolist()
        episodes = max(ended, 1)
        return {
            "policy_length": steps / episodes,
            "policy_return": rewards / episodes,
            "policy_halt_share": halted / episodes,
        }

    def _learn(self, steps: int, update: int) -> None:
        ppo = self._ppo
        trouble: Exception | None = None
        try:
            ppo.learn(steps, reset_num_timesteps=False)
        except ValueError as error:  # a normal or categorical distribution refuses NaN
            trouble = error
        loss = float(ppo.logger.name_to_value["train/loss"])
        finite = math.isfinite(loss) and all(bool(value.isfinite().all()) for value in ppo.policy.parameters())
        if not finite:
            step = update * self._settings.update_steps
            raise DivergenceError(
                f"the policy's loss became non-finite by step {step} of PPO; lower the learning rate"
            ) from trouble
        if trouble is not None:
            raise trouble

    def actor(self) -> Arrays:
        """What the policy acts with; see ``StochasticActor``."""
        policy = self._ppo.policy
        linear = [layer for layer in policy.mlp_extractor.policy_net if hasattr(layer, "weight")]
        found: Arrays = {}
        for index, layer in enumerate([*linear, policy.action_net]):
            found |= {f"{index}.weight": copy_of(layer.weight), f"{index}.bias": copy_of(layer.bias)}
        return found if not hasattr(policy, "log_std") else {**found, "log_spread": copy_of(policy.log_std)}

    def state(self) -> Arrays:
        """Everything that the next update depends on: weights, Adam's averages, and where the episodes stand."""
        policy = self._ppo.policy
        return {
            **under("net/", net_arrays(policy)),
            **under("adam/", adam_arrays(policy.optimizer)),
            **under("episodes/", self._episodes.state()),
            "starts": np.array(self._ppo._last_episode_starts),
        }

    def load_state(self, arrays: Arrays) -> None:
        """Goes on from ``state``, taken after at least one update."""
        policy = self._ppo.policy
        load_net(policy, below("net/", arrays))
        load_adam(policy.optimizer, below("adam/", arrays))
        self._episodes.load_state(below("episodes/", arrays))
        self._ppo._last_obs = arrays["episodes/states"].copy()
        self._ppo._last_episode_starts = arrays["starts"].copy()
