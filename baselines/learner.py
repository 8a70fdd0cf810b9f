"""One learner of BCQ or CQL: updates on transitions, acts on states, and is a set of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines import bcq, cql
from baselines.quiet import d3rlpy
from baselines.settings import BCQSettings, CQLSettings, DiscreteBCQSettings, DiscreteCQLSettings, OfflineSettings
from persim.data.trajectories import ActionSpace, Trajectories
from persim.planning.cem import to_box
from persim.store import Arrays

Batch: Any = d3rlpy.torch_utility.TorchMiniBatch
_BUILDERS: dict[type[OfflineSettings], Any] = {
    DiscreteBCQSettings: bcq.discrete_bcq,
    BCQSettings: bcq.bcq,
    DiscreteCQLSettings: cql.discrete_cql,
    CQLSettings: cql.cql,
}


@contextmanager
def torch_seed(seed: np.random.SeedSequence) -> Iterator[None]:
    """d3rlpy draws from torch's global generators; here they are seeded, and afterwards what they were."""
    with torch.random.fork_rng():
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        yield


class Scale(NamedTuple):
    """Mean and spread ``[S]`` of the states that were learnt from."""

    mean: Tensor
    spread: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """States ``[B, S]`` z-scored."""
        return (states - self.mean) / self.spread


class Transitions:
    """Rows to learn from, as tensors; actions of a box scaled to [-1, 1], timeouts are not terminals.

    Args:
        sources: trajectories whose rows are taken together.
        device: of the tensors.
    """

    def __init__(self, sources: Sequence[Trajectories], device: str) -> None:
        def column(name: str) -> Tensor:
            rows = np.concatenate([getattr(data, name) for data in sources])
            return torch.from_numpy(rows.reshape(len(rows), -1).astype(np.float32)).to(device)

        self._device = device
        self._states, self._following = column("observation"), column("next_observation")
        self._rewards, self._terminals = column("reward"), column("terminated")
        self._actions = _unit(sources[0].action_space, column("action"))

    def __len__(self) -> int:
        return len(self._states)

    def normalise(self) -> Scale:
        """Z-scores the states from now on; returns by what. A dimension that never changes keeps its unit."""
        mean, spread = self._states.mean(0), self._states.std(0, correction=0)
        scale = Scale(mean, torch.where(spread > 0, spread, 1))
        self._states, self._following = scale(self._states), scale(self._following)
        return scale

    def batch(self, rows: Tensor) -> Any:
        """The transitions with these numbers ``[B]``."""
        actions, rewards = self._actions[rows], self._rewards[rows]
        return Batch(
            observations=self._states[rows],
            actions=actions,
            rewards=rewards,
            next_observations=self._following[rows],
            next_actions=actions,  # neither algorithm looks at them, nor at the returns
            returns_to_go=rewards,
            terminals=self._terminals[rows],
            intervals=torch.ones_like(rewards),
            device=self._device,
        )


def _unit(space: ActionSpace, actions: Tensor) -> Tensor:
    if isinstance(space, gym.spaces.Discrete):
        return actions
    low, high = (torch.from_numpy(edge.astype(np.float32)).to(actions.device) for edge in (space.low, space.high))
    return (actions - low) / (high - low) * 2 - 1


class Learner:
    """The nets of an algorithm with their optimisers.

    Args:
        settings: say which algorithm.
        state_dim: S.
        space: of the actions.
        seed: of the initial weights.
        device: of the nets.

    Attributes:
        scale: of the states, or None if they are taken as they are.
    """

    scale: Scale | None = None

    def __init__(
        self, settings: OfflineSettings, state_dim: int, space: ActionSpace, seed: np.random.SeedSequence, device: str
    ) -> None:
        size = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(space.shape[0])
        with torch_seed(seed):
            self._impl = _BUILDERS[type(settings)](settings, state_dim, size, device)
        self._space, self._device = space, device
        modules = vars(self._impl.modules)
        self._nets: dict[str, torch.nn.Module] = self._impl.modules.get_torch_modules()
        self._optimisers = {name: part.optim for name, part in modules.items() if name.endswith("optim") and part}

    def update(self, batch: Any, step: int) -> dict[str, float]:
        """One step of the algorithm; ``step`` counts from 1. Returns its losses."""
        return dict(self._impl.inner_update(batch, step))

    def act(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """The algorithm's best actions ``[B]`` or ``[B, A]``; continuous BCQ samples."""
        rows = torch.from_numpy(np.asarray(states, dtype=np.float32)).to(self._device)
        rows = rows if self.scale is None else self.scale(rows)
        with torch.no_grad(), torch_seed(np.random.SeedSequence(int(rng.integers(2**63)))):
            best = self._impl.inner_predict_best_action(rows).cpu().numpy()
        return to_box(self._space, best) if isinstance(self._space, gym.spaces.Box) else best.astype(np.int64)

    def arrays(self) -> Arrays:
        """The weights that it acts with: all but the targets."""
        nets = {name: net for name, net in self._nets.items() if not name.startswith("targ_")}
        own = {f"{name}.{key}": _numpy(value) for name, net in nets.items() for key, value in net.state_dict().items()}
        if self.scale is not None:
            own |= {f"scale.{name}": _numpy(value) for name, value in self.scale._asdict().items()}
        return own

    def load(self, arrays: Arrays) -> None:
        """Takes the weights of ``arrays``, or of ``state``."""
        if "scale.mean" in arrays:
            self.scale = Scale(*(torch.from_numpy(arrays[f"scale.{name}"]).to(self._device) for name in Scale._fields))
        for name, net in self._nets.items():
            if any(key.startswith(f"{name}.") for key in arrays):
                net.load_state_dict({key: torch.from_numpy(arrays[f"{name}.{key}"]) for key in net.state_dict()})

    def state(self) -> Arrays:
        """Everything that the next step depends on: weights, targets, and Adam's averages."""
        found = {f"{name}.{key}": _numpy(v) for name, net in self._nets.items() for key, v in net.state_dict().items()}
        for name, optimiser in self._optimisers.items():
            for index, averages in optimiser.state_dict()["state"].items():
                found |= {f"{name}.{index}.{key}": _numpy(value) for key, value in averages.items()}
        return found

    def load_state(self, arrays: Arrays) -> None:
        """Goes on from ``state``."""
        self.load(arrays)
        for name, optimiser in self._optimisers.items():
            states: dict[int, dict[str, Tensor]] = {}
            for key in (key for key in arrays if key.startswith(f"{name}.")):
                _, index, what = key.split(".")
                states.setdefault(int(index), {})[what] = torch.from_numpy(arrays[key])
            optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})


def _numpy(value: Tensor) -> NDArray[Any]:
    return np.array(value.detach().cpu().numpy())  # a copy: the next step writes into the original
