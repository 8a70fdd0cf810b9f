"""The data of one iteration: which trajectories, how they are scaled, what is held out; and batches of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from baselines.cadm.losses import Batch
from baselines.cadm.observations import Observations, observations
from baselines.cadm.scales import Scale, Scales
from baselines.cadm.settings import CaDMSettings
from baselines.cadm.windows import Histories, Rows, pairs, split
from persim import seeding
from persim.data.trajectories import Trajectories
from persim.envs.spec import EnvSpec
from persim.errors import InputError

_BLOCK = 4096  # transitions looked at together where no gradient is wanted


class Table:
    """What is the same in every iteration: all transitions as the nets see them, not yet scaled.

    Args:
        data: the trajectories.
        spec: their environment.
        settings: of CaDM.
        seed: of the cell.
        device: of the tensors.

    Raises:
        InputError: the data are of another environment.
    """

    def __init__(self, data: Trajectories, spec: EnvSpec, settings: CaDMSettings, seed: int, device: str) -> None:
        self.data, self.settings, self.seed, self.device = data, settings, seed, torch.device(device)
        self.discrete = spec.discrete
        self.histories = Histories(data, spec, settings.history, device)
        before, after = (torch.tensor(x, device=device) for x in (data.observation, data.next_observation))
        rule: Observations = observations(spec)
        self.states, self.following = rule.inputs(before), rule.inputs(after)
        self.targets, self.back_targets = rule.targets(before, after), rule.targets(after, before)
        self.actions = self.histories.actions
        self._order = seeding.generator(seed, "cadm", "trajectories").permutation(int(data.episode[-1]) + 1)

    def episodes(self, iteration: int) -> Rows:
        """Numbers of the trajectories in use: an equal share more in each iteration (from 0)."""
        return self._order[: math.ceil(len(self._order) * (iteration + 1) / self.settings.iterations)]

    def rows(self, iteration: int) -> Rows:
        """Their transitions."""
        return np.flatnonzero(np.isin(self.data.episode, self.episodes(iteration)))


class Stage:
    """One iteration's data.

    Args:
        table: all data.
        iteration: its number, from 0.

    Raises:
        InputError: nothing is left to learn from.
    """

    def __init__(self, table: Table, iteration: int) -> None:
        s, data = table.settings, table.data
        episodes, rows = table.episodes(iteration), table.rows(iteration)
        rng = seeding.generator(table.seed, "cadm", "validation", iteration)
        count = min(int(len(rows) * s.validation), s.max_validation)
        held = split(data, episodes, count, rng, overlap=s.overlapping_validation)
        self.scales = stage_scales(table, iteration)
        self._histories, self._device = table.histories, table.device
        self._packed, self._widths = _packed(table, self.scales)
        self._train, self._held = self._pairs(table, np.setdiff1d(rows, held)), self._pairs(table, held)
        self._members = s.members
        if not len(self):
            raise InputError(f"the data of {data.env} hold no transition to learn from; give longer trajectories")

    def __len__(self) -> int:
        return len(self._train[0])

    def batch(self, chosen: Tensor) -> Batch:
        """The pairs for training with these numbers ``[K, B]``."""
        return self._batch(self._train[0][chosen], self._train[1][chosen])

    def held_out(self) -> Iterator[Batch]:
        """All pairs that are held out, in blocks, the same for every member."""
        for rows in zip(*(torch.split(part, _BLOCK) for part in self._held), strict=True):
            yield self._batch(*(part.expand(self._members, -1) for part in rows))

    def _pairs(self, table: Table, windows: Rows) -> tuple[Tensor, Tensor]:
        if table.settings.skip_first_window:
            windows = windows[table.data.step[windows] > 0]
        before, at = pairs(table.data, windows, table.settings.future)
        return torch.from_numpy(before).to(self._device), torch.from_numpy(at).to(self._device)

    def _batch(self, windows: Tensor, rows: Tensor) -> Batch:
        history = self.scales.history.apply(self._histories(windows))
        found = self._packed.index_select(0, rows.flatten()).view(*rows.shape, -1)
        states, actions, targets, following, back = torch.split(found, self._widths, dim=-1)
        return Batch(history, states, actions, targets, following, back)


def stage_scales(table: Table, iteration: int) -> Scales:
    """Statistics of the transitions in use, held out or not (as in CaDM's code)."""
    at = torch.from_numpy(table.rows(iteration)).to(table.device)
    actions = Scale.none(table.actions.shape[1], table.device)
    slots = table.settings.history
    history = Scale.none(slots * (table.targets.shape[1] + len(actions.mean)), table.device)
    if not table.discrete:
        actions = Scale.of(table.actions[at])
        first = slots * table.targets.shape[1]
        past = Scale.of(table.histories(at)[:, first:])
        history = Scale(*(torch.cat([a[:first], b]) for a, b in zip(_parts(history), _parts(past), strict=True)))
    states, targets, back = (Scale.of(x[at]) for x in (table.states, table.targets, table.back_targets))
    return Scales(states, actions, history, targets, back)


def _parts(scale: Scale) -> tuple[Tensor, Tensor]:
    return scale.mean, scale.spread


def _packed(table: Table, scales: Scales) -> tuple[Tensor, list[int]]:
    """All scaled columns side by side, so that a batch is one gather; and their widths."""
    columns = [
        scales.states.apply(table.states),
        scales.actions.apply(table.actions),
        scales.targets.apply(table.targets),
        scales.states.apply(table.following),
        scales.back_targets.apply(table.back_targets),
    ]
    return torch.cat(columns, dim=1), [column.shape[1] for column in columns]
