"""The dataset type: transitions of many agents, stored as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from persim.envs.spec import ActionSpace as ActionSpace
from persim.envs.spec import HasActions
from persim.errors import InputError, check_at_least, check_name
from persim.storage import store

KIND = "trajectories"
_TYPES: dict[str, type[np.generic]] = {
    "agent": np.int64,
    "step": np.int64,
    "observation": np.float32,
    "action": np.float32,  # of discrete ones int64
    "next_observation": np.float32,
    "reward": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
}
_COLUMNS = tuple(_TYPES)
_MOST_AGENTS = 10**6


def _space_to_settings(space: ActionSpace) -> dict[str, object]:
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "discrete", "n": int(space.n)}
    return {"type": "box", "low": space.low.tolist(), "high": space.high.tolist()}


def _space_from_settings(settings: dict[str, Any]) -> ActionSpace:
    if settings["type"] == "discrete":
        return gym.spaces.Discrete(int(settings["n"]))
    low, high = (np.array(settings[key], dtype=np.float32) for key in ("low", "high"))
    return gym.spaces.Box(low, high)


@dataclass(frozen=True)
class Trajectories(HasActions):
    """Transitions, one per row, ordered by agent, episode and step.

    Columns of another width, such as float64 states or int32 actions, are converted; those of another kind are refused.

    Axis letters: M rows, N agents, S state dimensions, A action dimensions, C covariates.

    Attributes:
        env: name of the environment.
        n_agents: N; agent ids run from 0 to N - 1 (the paper's agent 1 is id 0).
        action_space: the space that every action lies in.
        agent: ``[M]`` int64, id of the agent.
        step: ``[M]`` int64, number of the step in its episode; 0 starts an episode.
        observation: ``[M, S]`` float32, state before the step.
        action: ``[M]`` int64 if discrete, else ``[M, A]`` float32.
        next_observation: ``[M, S]`` float32, state after the step.
        reward: ``[M]`` float32.
        terminated: ``[M]`` bool, whether the environment ended the episode here.
        truncated: ``[M]`` bool, whether the step limit ended the episode here.
        covariates: ``[N, C]`` float64, or None where they are unknown.
        regime: how the actions were chosen, such as ``"random"``.
        synthetic: whether a model made the data; ``regime`` is then that of the model's training data.

    Raises:
        InputError: the columns do not fit each other, are of another kind, a value is not finite, an agent id or
            action is out of range, or the steps of an episode do not count up from 0.
    """

    env: str
    n_agents: int
    action_space: ActionSpace
    agent: NDArray[np.int64]
    step: NDArray[np.int64]
    observation: NDArray[np.float32]
    action: NDArray[Any]
    next_observation: NDArray[np.float32]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    covariates: NDArray[np.float64] | None = None
    regime: str = ""
    synthetic: bool = False

    def __post_init__(self) -> None:
        check_at_least("trajectories: n_agents", self.n_agents, 1, most=_MOST_AGENTS)
        for name, kind in _TYPES.items():
            kind = np.int64 if name == "action" and self.discrete else kind
            object.__setattr__(self, name, _converted(name, getattr(self, name), kind))
        if self.covariates is not None:
            object.__setattr__(self, "covariates", _converted("covariates", self.covariates, np.float64))
        _check_shapes(self)
        _check_values(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and value.flags.writeable:
                frozen = value.view()
                frozen.flags.writeable = False
                object.__setattr__(self, field.name, frozen)

    def __len__(self) -> int:
        return len(self.agent)

    @property
    def state_dim(self) -> int:
        """The number S of state dimensions."""
        return int(self.observation.shape[1])

    @property
    def delta(self) -> NDArray[np.float32]:
        """State differences ``[M, S]``, which the model is trained to predict (Algorithm 1, line 7)."""
        return self.next_observation - self.observation

    @property
    def episode(self) -> NDArray[np.int64]:
        """The number ``[M]``, from 0, of each row's episode."""
        return np.cumsum(self.step == 0) - 1

    def returns(self) -> NDArray[np.float64]:
        """Sum the rewards of each agent ``[N]`` over all its episodes."""
        return np.asarray(np.bincount(self.agent, self.reward, self.n_agents), dtype=np.float64)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of all columns and settings; equal data have equal hashes."""
        return store.content_hash(self._arrays(), self._settings())

    def of_agents(self, agents: Sequence[int]) -> Trajectories:
        """Select the rows of these agents; the ids stay as they are.

        Raises:
            InputError: an id is out of range, or no row is left.
        """
        rows = np.isin(self.agent, self.agent_ids(agents))
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})

    def agent_ids(self, agents: Sequence[int]) -> NDArray[np.int64]:
        """Return these agents as an array of ids ``[B]``.

        Raises:
            InputError: an id is out of range, or there is no id.
        """
        ids = np.asarray(agents, dtype=np.int64)
        if ids.size == 0 or ids.min() < 0 or ids.max() >= self.n_agents:
            raise InputError(f"agents {list(agents)} are not all in 0..{self.n_agents - 1}; give ids in that range")
        return ids

    def save(self, path: Path) -> str:
        """Write one file with a checksum and return the content hash."""
        return store.write_arrays(path, self._arrays(), KIND, self._settings())

    @classmethod
    def load(cls, path: Path) -> Trajectories:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is missing, damaged, or does not hold valid trajectories.
        """
        arrays, settings = store.read_arrays(path, KIND)
        lacking = [name for name in _COLUMNS if name not in arrays]
        lacking += [name for name in ("env", "n_agents", "regime", "action_space") if name not in settings]
        if lacking:
            raise InputError(f"{str(path)!r} lacks {', '.join(map(repr, lacking))}; record the dataset again")
        with store.contents_of(path):
            about: dict[str, Any] = {name: arrays[name] for name in _COLUMNS}
            about |= {"env": check_name("env", settings["env"]), "n_agents": settings["n_agents"]}
            about |= {"regime": settings["regime"] and check_name("regime", settings["regime"])}
            about |= {"covariates": arrays.get("covariates"), "synthetic": bool(settings.get("synthetic", False))}
            return cls(action_space=_space_from_settings(settings["action_space"]), **about)

    def _arrays(self) -> store.Arrays:
        arrays = {name: getattr(self, name) for name in _COLUMNS}
        return arrays if self.covariates is None else arrays | {"covariates": self.covariates}

    def _settings(self) -> dict[str, object]:
        settings: dict[str, object] = {"env": self.env, "n_agents": self.n_agents, "regime": self.regime}
        settings["action_space"] = _space_to_settings(self.action_space)
        # Left out for recorded data, whose hashes are older than this field.
        return settings | ({"synthetic": True} if self.synthetic else {})


def _converted(name: str, column: Any, kind: type[np.generic]) -> NDArray[Any]:
    """The column ``[M, ...]`` as this type, which only its width may have to change for."""
    found = np.asarray(column)
    if found.dtype == kind:
        return found
    if not np.can_cast(found.dtype, kind, "same_kind") or (found.dtype == np.bool_) != (kind is np.bool_):
        wanted = np.dtype(kind).name
        raise InputError(f"trajectories: column {name!r} has type {found.dtype}; give {wanted}, or what fits into it")
    with np.errstate(over="ignore"):  # what becomes infinite is refused with what is not finite
        return found.astype(kind)


def _check_shapes(data: Trajectories) -> None:
    rows = len(data.agent) if data.agent.ndim else 0
    if rows == 0:
        raise InputError("trajectories hold no transition; give at least one")
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(_COLUMNS, (rows,))
    states = (rows, *data.observation.shape[-1:])
    wanted |= dict.fromkeys(("observation", "next_observation"), states)
    wanted["action"] = (rows,) if data.discrete else (rows, data.action_dim)
    if data.covariates is not None:
        wanted["covariates"] = (data.n_agents, *data.covariates.shape[1:])
    for name, shape in wanted.items():
        found = getattr(data, name).shape
        if found != shape:
            raise InputError(f"trajectories: column {name!r} has shape {found}; give shape {shape}")


def _check_values(data: Trajectories) -> None:
    for name in ("observation", "next_observation", "reward", "action", "covariates"):
        column = getattr(data, name)
        if column is not None and not np.isfinite(column).all():
            raise InputError(f"trajectories: column {name!r} holds a non-finite value; remove those transitions")
    if data.agent.min() < 0 or data.agent.max() >= data.n_agents:
        given = f"{data.agent.min()} to {data.agent.max()}"
        raise InputError(f"trajectories: agent ids run from {given}; give ids in 0..{data.n_agents - 1}")
    space = data.action_space
    low, high = (0, space.n - 1) if isinstance(space, gym.spaces.Discrete) else (space.low, space.high)
    fitting = not data.discrete or np.issubdtype(data.action.dtype, np.integer)
    if not fitting or ((data.action < low) | (data.action > high)).any():
        raise InputError(f"trajectories: column 'action' holds a value outside {space}; give actions in that space")
    starts = data.step == 0
    goes_on = (data.step[1:] == data.step[:-1] + 1) & (data.agent[1:] == data.agent[:-1])
    if not (starts[0] and (starts[1:] | goes_on).all()):
        raise InputError("trajectories: column 'step' has to count 0, 1, 2, ... in every episode of one agent")
