"""MOReL's policy: its training by stable-baselines3's PPO in the pessimistic MDP, and how it acts afterwards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from baselines.common.generators import global_seed
from baselines.common.snapshots import adam_arrays, below, copy_of, load_adam, load_net, net_arrays, under
from baselines.morel.settings import PPOSettings
from persim.data.policies import BatchPolicy
from persim.data.trajectories import ActionSpace
from persim.learning.training import DivergenceError
from persim.storage.store import Arrays

if TYPE_CHECKING:  # acting needs no stable-baselines3, which takes seconds to import
    from baselines.morel.mdp import Episodes


class StochasticActor(BatchPolicy):
    """The policy after training, in NumPy; it draws its actions, as the evaluation in the public code does.

    Args:
        arrays: ``<layer>.weight [out, in]`` and ``<layer>.bias [out]`` of each layer, numbered from 0; for continuous
            actions also ``log_spread [A]``.
        space: the action space.
    """

    def __init__(self, arrays: Arrays, space: ActionSpace) -> None:
        count = sum(name.endswith(".weight") for name in arrays)
        self._layers = [(arrays[f"{layer}.weight"], arrays[f"{layer}.bias"]) for layer in range(count)]
        self._spread = np.exp(arrays.get("log_spread", np.zeros(0)))
        self._space = space

    def head(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """The network's outputs ``[B, A]`` for states ``[B, S]``: logits, or the means of continuous actions."""
        hidden = np.asarray(states, dtype=np.float32)
        for weight, bias in self._layers[:-1]:
            hidden = np.tanh(hidden @ weight.T + bias)
        weight, bias = self._layers[-1]
        return np.asarray(hidden @ weight.T + bias)

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draws actions ``[B]`` or ``[B, A]`` for states ``[B, S]``; continuous ones are clipped to their bounds."""
        head = self.head(states)
        if isinstance(self._space, gym.spaces.Box):
            drawn = head + self._spread * rng.standard_normal(head.shape)
            return np.asarray(drawn.clip(self._space.low, self._space.high), dtype=np.float32)
        return np.asarray((head + rng.gumbel(size=head.shape)).argmax(axis=1), dtype=np.int64)


class PolicyTraining:
    """PPO with its episodes; its state can be stored between two updates.

    The networks stay on the CPU, which is faster at their size, wherever the dynamics are.

    Args:
        settings: of PPO.
        episodes: the episodes to learn from.
        seed: seed of the initial weights.
    """

    def __init__(self, settings: PPOSettings, episodes: Episodes, seed: np.random.SeedSequence) -> None:
        from baselines.morel.quiet import PPO, Logger

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
                policy_kwargs={"net_arch": list(s.widths), "activation_fn": torch.nn.Tanh},
                device="cpu",
            )
        self._ppo.set_logger(Logger(folder=None, output_formats=[]))  # PPO's own makes a folder in /tmp

    def advance(self, start: int, stop: int, seed: np.random.SeedSequence) -> dict[str, float]:
        """Makes updates number ``start`` + 1 to ``stop``.

        Returns:
            Mean length and mean return of the episodes meanwhile, and the fraction that the detector ended.

        Raises:
            DivergenceError: a loss became non-finite.
        """
        self._episodes.totals[:] = 0
        with global_seed(seed):
            self._episodes.rng = np.random.default_rng(seed.spawn(1)[0])
            self._learn((stop - start) * self._settings.update_steps, stop)
        steps, rewards, ended, halted = self._episodes.totals.tolist()
        totals = {"policy_length": steps, "policy_return": rewards, "policy_halt_share": halted}
        return {name: total / max(ended, 1) for name, total in totals.items()}

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
            message = f"the policy's loss became non-finite by step {step} of PPO; lower the learning rate"
            raise DivergenceError(message) from trouble
        if trouble is not None:
            raise trouble

    def actor(self) -> Arrays:
        """The arrays that ``StochasticActor`` takes."""
        policy = self._ppo.policy
        linear = [layer for layer in policy.mlp_extractor.policy_net if hasattr(layer, "weight")]
        found: Arrays = {}
        for index, layer in enumerate([*linear, policy.action_net]):
            found |= {f"{index}.weight": copy_of(layer.weight), f"{index}.bias": copy_of(layer.bias)}
        return found if not hasattr(policy, "log_std") else {**found, "log_spread": copy_of(policy.log_std)}

    def state(self) -> Arrays:
        """Everything that the next update depends on: weights, Adam's moments, and the state of the episodes."""
        policy, episodes = self._ppo.policy, self._episodes.state()
        parts = {"net/": net_arrays(policy), "adam/": adam_arrays(policy.optimizer), "episodes/": episodes}
        return under(parts) | {"starts": np.array(self._ppo._last_episode_starts)}

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned after at least one update."""
        policy = self._ppo.policy
        load_net(policy, below("net/", arrays))
        load_adam(policy.optimizer, below("adam/", arrays))
        self._episodes.load_state(below("episodes/", arrays))
        self._ppo._last_obs = arrays["episodes/states"].copy()
        self._ppo._last_episode_starts = arrays["starts"].copy()
