"""A learner of BCQ or CQL: it learns from batches of transitions, acts, and is saved as named arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.generators import torch_seed
from baselines.common.scale import Scale
from baselines.common.snapshots import adam_arrays, below, copy_of, load_adam, load_net, net_arrays, under
from baselines.model_free.algorithms import build
from baselines.model_free.quiet import d3rlpy
from baselines.model_free.settings import OfflineSettings
from persim.data.policies import BatchPolicy
from persim.data.trajectories import ActionSpace, Trajectories
from persim.planning.cem import to_box
from persim.storage.store import Arrays

Batch: Any = d3rlpy.torch_utility.TorchMiniBatch


class Transitions:
    """The transitions to learn from, as tensors; continuous actions are scaled to [-1, 1], timeouts are no terminals.

    Args:
        sources: trajectories whose transitions are put together.
        device: device of the tensors.
    """

    def __init__(self, sources: Sequence[Trajectories], device: str) -> None:
        def column(name: str) -> Tensor:
            rows = np.concatenate([getattr(data, name) for data in sources])
            return torch.from_numpy(rows.reshape(len(rows), -1).astype(np.float32)).to(device)

        self._device = device
        self._states, self._following = column("observation"), column("next_observation")
        self._rewards, self._terminals = column("reward"), column("terminated")
        self._actions, space = column("action"), sources[0].action_space
        if isinstance(space, gym.spaces.Box):
            low, high = (torch.from_numpy(edge.astype(np.float32)).to(device) for edge in (space.low, space.high))
            self._actions = (self._actions - low) / (high - low) * 2 - 1

    def __len__(self) -> int:
        return len(self._states)

    def normalise(self) -> Scale:
        """Replaces the states by their z-scores; returns the scale, in which a constant dimension has spread 1."""
        scale = Scale.of(self._states)
        self._states, self._following = scale.normalise(self._states), scale.normalise(self._following)
        return scale

    def batch(self, rows: Tensor) -> Any:
        """The transitions number ``rows [B]`` as d3rlpy's batch, with columns ``[B, S]``, ``[B, A]`` and ``[B, 1]``."""
        actions, rewards = self._actions[rows], self._rewards[rows]
        return Batch(
            observations=self._states[rows],
            actions=actions,
            rewards=rewards,
            next_observations=self._following[rows],
            next_actions=actions,  # neither algorithm uses them, nor the returns
            returns_to_go=rewards,
            terminals=self._terminals[rows],
            intervals=torch.ones_like(rewards),
            device=self._device,
        )


class Learner(BatchPolicy):
    """The networks of an algorithm with their optimisers.

    Args:
        settings: their class selects the algorithm.
        state_dim: S.
        space: the action space.
        seed: seed of the initial weights.
        device: device of the networks.

    Attributes:
        scale: the scale of the states ``[S]``, or None if they are not normalised.
    """

    scale: Scale | None = None

    def __init__(
        self, settings: OfflineSettings, state_dim: int, space: ActionSpace, seed: np.random.SeedSequence, device: str
    ) -> None:
        size = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(space.shape[0])
        with torch_seed(seed):
            self._impl = build(settings, state_dim, size, device)
        self._space, self._device = space, device
        modules = vars(self._impl.modules)
        self._nets: dict[str, torch.nn.Module] = self._impl.modules.get_torch_modules()
        self._optimisers = {name: part.optim for name, part in modules.items() if name.endswith("optim") and part}

    def update(self, batch: Any, step: int) -> dict[str, float]:
        """One gradient step of the algorithm, number ``step`` (from 1), on d3rlpy's batch; returns its losses."""
        return dict(self._impl.inner_update(batch, step))

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """The algorithm's best actions ``[B]`` or ``[B, A]`` at states ``[B, S]``; only continuous BCQ samples."""
        rows = torch.from_numpy(np.asarray(states, dtype=np.float32)).to(self._device)
        rows = rows if self.scale is None else self.scale.normalise(rows)
        with torch.no_grad(), torch_seed(np.random.SeedSequence(int(rng.integers(2**63)))):
            best = self._impl.inner_predict_best_action(rows).cpu().numpy()
        return to_box(self._space, best) if isinstance(self._space, gym.spaces.Box) else best.astype(np.int64)

    def arrays(self) -> Arrays:
        """The weights that it acts with: those of all networks except the targets."""
        nets = {f"{name}.": net_arrays(net) for name, net in self._nets.items() if not name.startswith("targ_")}
        scale = {} if self.scale is None else {name: copy_of(value) for name, value in self.scale._asdict().items()}
        return under(nets | {"scale.": scale})

    def load(self, arrays: Arrays) -> None:
        """Loads weights that ``arrays`` or ``state`` returned."""
        if "scale.mean" in arrays:
            self.scale = Scale(*(torch.from_numpy(arrays[f"scale.{name}"]).to(self._device) for name in Scale._fields))
        for name, net in self._nets.items():
            if own := below(f"{name}.", arrays):
                load_net(net, own)

    def state(self) -> Arrays:
        """Everything that the next step depends on: weights, targets, and Adam's moments."""
        nets = {f"{name}.": net_arrays(net) for name, net in self._nets.items()}
        return under(nets | {f"{name}.": adam_arrays(optimiser) for name, optimiser in self._optimisers.items()})

    def load_state(self, arrays: Arrays) -> None:
        """Restores what ``state`` returned."""
        self.load(arrays)
        for name, optimiser in self._optimisers.items():
            load_adam(optimiser, below(f"{name}.", arrays))
