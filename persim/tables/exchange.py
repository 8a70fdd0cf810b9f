"""Tables from and to episodes, as Minari and d3rlpy have them."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persim.errors import InputError
from persim.tables.reading import Array
from persim.tables.schema import Schema
from persim.tables.table import Table

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)
AGENT, EPISODE, STEP, REWARD = "agent", "episode", "step", "reward"  # names of columns that episodes do not name


@dataclass(frozen=True)
class Episode:
    """One trajectory of an agent of T steps.

    Attributes:
        agent: its id.
        observations: ``[T, S]``, or ``[T + 1, S]`` with the state after the last step.
        actions: ``[T]`` of whole numbers, or ``[T, A]``.
        rewards: ``[T]``.
    """

    agent: str
    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]


def of_episodes(
    dataset: Any,
    agents: Sequence[Hashable] | None = None,
    *,
    state: Sequence[str] | None = None,
    action: Sequence[str] | None = None,
    static: pd.DataFrame | None = None,
    **more: Any,
) -> Table:
    """Make a table of the episodes of a Minari dataset, a d3rlpy dataset, or any list of such episodes.

    An episode has ``observations`` ``[T, S]`` or ``[T + 1, S]``, ``actions`` ``[T]`` or ``[T, A]`` and ``rewards``
    ``[T]``. Neither library knows agents, so each episode's has to be given.

    Args:
        dataset: has ``iterate_episodes()`` (Minari) or ``episodes`` (d3rlpy), or is a list of episodes.
        agents: the id of the agent of each episode, in the order of the dataset; may be left out for a dataset of
            ``to_minari``, which has them.
        state: names of the S state columns; ``state_0`` and so on if not given.
        action: names of the action columns; ``action_0`` and so on, or ``action`` if discrete.
        static: a frame with one row per agent, whose index has the ids and whose columns are covariates.
        more: further fields of the schema, such as ``lags=4``.

    Raises:
        InputError: the episodes have no flat observations, do not match ``agents``, or are no usable table.
    """
    found = (
        dataset.iterate_episodes() if hasattr(dataset, "iterate_episodes") else getattr(dataset, "episodes", dataset)
    )
    episodes = list(found)
    if agents is None:
        storage = getattr(dataset, "storage", None)
        about = list(storage.get_episode_metadata(dataset.episode_indices)) if storage is not None else [{}]
        if not all(AGENT in one for one in about):
            raise InputError("the episodes do not say whose they are; give the id of the agent of each as agents")
        agents = [one[AGENT] for one in about]
    if len(episodes) != len(agents):
        raise InputError(f"{len(agents)} agents for {len(episodes)} episodes; give the agent of each episode")
    named = [
        Episode(str(agent), *(_array(one, name) for name in ("observations", "actions", "rewards")))
        for agent, one in zip(agents, episodes, strict=True)
    ]
    return table_of(named, state, action, static, more)


def _array(episode: Any, name: str) -> NDArray[Any]:
    if not hasattr(episode, name):
        raise InputError(f"an episode is a {type(episode).__name__} without {name!r}; give those of Minari or d3rlpy")
    return np.asarray(getattr(episode, name))


def table_of(
    episodes: Sequence[Episode],
    state: Sequence[str] | None,
    action: Sequence[str] | None,
    static: pd.DataFrame | None,
    more: Mapping[str, Any],
) -> Table:
    """Make a table of episodes; the other arguments are those of ``of_episodes``.

    Raises:
        InputError: the observations are not flat, or names or covariates do not fit.
    """
    import pandas as pd

    if not episodes:
        raise InputError("there is no episode; give at least one for each agent")
    discrete = all(
        np.issubdtype(one.actions.dtype, np.integer) and one.actions.size == len(one.actions) for one in episodes
    )
    parts = []
    for number, one in enumerate(episodes):
        states, actions = one.observations, one.actions.reshape(len(one.actions), -1)
        if states.ndim != 2 or len(states) - len(actions) not in (0, 1):
            raise InputError(
                f"episode {number} has observations of shape {states.shape} and actions of {one.actions.shape}; "
                "give flat observations [T, S] or [T + 1, S] for T actions"
            )
        known, rows = np.arange(len(states)) < len(actions), len(states)
        columns: dict[str, Any] = {AGENT: [one.agent] * rows, EPISODE: [str(number)] * rows, STEP: np.arange(rows)}
        columns |= dict(zip(_names("state", state, states.shape[1]), states.T, strict=True))
        for name, values in zip(_names("action", action, actions.shape[1], discrete), actions.T, strict=True):
            columns[name] = pd.array([*values, *[None] * (~known).sum()], dtype="Int64" if discrete else "Float64")
        columns[REWARD] = [*one.rewards.reshape(-1), *[np.nan] * (~known).sum()]
        parts.append(pd.DataFrame(columns))
    frame = pd.concat(parts, ignore_index=True)
    covariates = [] if static is None else [str(name) for name in static.columns]
    if static is not None:
        ids = static.index.map(str)
        if gone := sorted(set(frame[AGENT]) - set(ids)):
            raise InputError(f"static has no row for agent {gone[0]!r}; give one for each, with its id in the index")
        frame = frame.join(static.set_axis(ids).set_axis(covariates, axis=1), on=AGENT)
    rest = [name for name in frame.columns if name not in (AGENT, EPISODE, STEP, REWARD, *covariates)]
    width = episodes[0].observations.shape[1]
    about = {"agent": AGENT, "trajectory": EPISODE, "time": STEP, "state": rest[:width], "action": rest[width:],
             "static": covariates, "reward": REWARD, "every": 1, "discrete": discrete}  # fmt: skip
    return Table.of_frame(frame, Schema.of_mapping(about | dict(more)))


def _names(role: str, given: Sequence[str] | None, size: int, single: bool = False) -> list[str]:
    if given is None:
        return [role] if single else [f"{role}_{number}" for number in range(size)]
    if len(given) != size:
        raise InputError(f"{len(given)} names for {size} columns of {role}; give one for each")
    return list(given)


def to_episodes(table: Table, reward: Array | None = None) -> list[Episode]:
    """Cut a table into episodes ``[T, S + C + G]`` in which nothing is missing, for libraries that know no agents.

    An observation has the states, then the known inputs, then the agent's static columns; a row that lacks one of
    them, an action or the reward ends an episode. ``reward`` ``[T]`` stands for a recorded one.

    Raises:
        InputError: there is no reward, or no two full rows follow each other.
    """
    reward = table.reward if reward is None else np.asarray(reward, dtype=np.float64)
    if reward is None or reward.shape != (len(table),):
        raise InputError(f"the table has no reward column; give a reward of shape ({len(table)},)")
    observations = np.concatenate([table.state, table.known, table.static[table.agent]], axis=1)
    full = np.isfinite(np.concatenate([observations, table.action, reward[:, None]], axis=1)).all(1)
    opens = full & ~(np.append(False, full[:-1]) & (table.step > 0))
    run = np.cumsum(opens)[full]
    starts = np.flatnonzero(np.append(True, run[1:] != run[:-1])) if len(run) else np.zeros(0, dtype=np.int64)
    actions = table.action[:, 0].astype(np.int64) if table.schema.discrete else table.action.astype(np.float32)
    pieces = [np.split(column[full], starts[1:]) for column in (table.agent, observations, actions, reward)]
    episodes = [
        Episode(table.names[agent[0]], seen.astype(np.float32), acts, gains.astype(np.float32))
        for agent, seen, acts, gains in zip(*pieces, strict=True)
        if len(agent) > 1
    ]
    if not episodes:
        raise InputError("no two rows follow each other in which nothing is missing; there is no episode to give")
    lost = len(table) - sum(len(one.observations) for one in episodes)
    if lost:
        _logger.warning("%d of %d rows are left out: they or their neighbours are not complete", lost, len(table))
    return episodes


def to_mdp_dataset(table: Table, reward: Array | None = None) -> Any:
    """Make a ``d3rlpy.dataset.MDPDataset`` of the episodes of ``to_episodes``, none of which terminates.

    ``reward`` ``[T]`` stands for a recorded one.

    Raises:
        InputError: as ``to_episodes``, or d3rlpy is not installed.
    """
    try:
        from d3rlpy.constants import ActionSpace
        from d3rlpy.dataset import MDPDataset
    except ImportError as error:
        raise InputError("d3rlpy is not installed; install it with pip install d3rlpy") from error
    episodes, discrete = to_episodes(table, reward), table.schema.discrete
    actions = np.concatenate([one.actions for one in episodes])
    ends = np.concatenate([np.arange(len(one.rewards)) == len(one.rewards) - 1 for one in episodes])
    return MDPDataset(
        observations=np.concatenate([one.observations for one in episodes]),
        actions=actions.reshape(len(actions), -1),
        rewards=np.concatenate([one.rewards for one in episodes])[:, None],
        terminals=np.zeros(len(ends), dtype=np.float32),
        timeouts=ends.astype(np.float32),
        action_space=ActionSpace.DISCRETE if discrete else ActionSpace.CONTINUOUS,
        action_size=len(table.labels) if discrete else actions.shape[1],
    )


def to_minari(table: Table, dataset_id: str, reward: Array | None = None, **about: Any) -> Any:
    """Create a Minari dataset of the episodes of ``to_episodes`` and return it; their metadata have the agents' ids.

    Args:
        table: the table.
        dataset_id: a name such as ``glucose/patients-v0``.
        reward: ``[T]``, instead of a recorded one.
        about: further arguments of ``minari.create_dataset_from_buffers``, such as ``author``.

    Raises:
        InputError: as ``to_episodes``, Minari is not installed, or it refuses the dataset.
    """
    from gymnasium.spaces import Box, Discrete

    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise InputError('minari is not installed; install it with pip install "minari[arrow]"') from error
    episodes = to_episodes(table, reward)
    buffers = [
        EpisodeBuffer(
            observations=list(one.observations),
            actions=list(one.actions[:-1]),
            rewards=list(one.rewards[:-1]),
            terminations=[False] * (len(one.rewards) - 1),
            truncations=[False] * (len(one.rewards) - 2) + [True],
        )
        for one in episodes
    ]
    whole = Box(-np.inf, np.inf, episodes[0].observations.shape[1:], np.float32)
    acts = Box(-np.inf, np.inf, episodes[0].actions.shape[1:], np.float32)
    spaces = {
        "observation_space": whole,
        "action_space": Discrete(len(table.labels)) if table.schema.discrete else acts,
    }
    try:
        dataset = minari.create_dataset_from_buffers(dataset_id, buffers, **(spaces | about))
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise InputError(f"minari refuses the dataset ({' '.join(str(error).split())})") from error
    dataset.storage.update_episode_metadata([{AGENT: one.agent} for one in episodes])
    return dataset
