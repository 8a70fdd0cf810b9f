"""The data of one iteration, as batches: which trajectories are used, how they are scaled, what is held out."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from baselines.cadm.nets import Batch, Scales
from baselines.cadm.settings import CaDMSettings
from baselines.cadm.windows import Histories, Rows, observations, pairs, split
from baselines.common.scale import Scale
from persim import seeding
from persim.errors import InputError
from persim.methods import Part

_BLOCK = 4096  # held-out transitions evaluated at once


class Table:
    """All T transitions as the networks see them before scaling; the same in every iteration.

    Args:
        part: gives the trajectories, their environment, the seed of the cell and the device of the tensors.
        settings: of CaDM.

    Attributes:
        states: features ``[T, D]``.
        following: features of the next states ``[T, D]``.
        targets: forward targets ``[T, S]``.
        back_targets: backward targets ``[T, S]``.
        actions: encoded actions ``[T, A]``.

    Raises:
        InputError: the data are of another environment.
    """

    def __init__(self, part: Part, settings: CaDMSettings) -> None:
        self.data, self.seed, self.settings, self.device = part.data, part.seed, settings, torch.device(part.device)
        data, self.discrete = part.data, part.spec.discrete
        self.histories = Histories(data, part.spec, settings.history, part.device)
        before, after = (torch.tensor(x, device=self.device) for x in (data.observation, data.next_observation))
        rule = observations(part.spec)
        self.states, self.following = rule.inputs(before), rule.inputs(after)
        self.targets, self.back_targets = rule.targets(before, after), rule.targets(after, before)
        self.actions = self.histories.actions
        self._order = seeding.generator(part.seed, "cadm", "trajectories").permutation(int(data.episode[-1]) + 1)

    def episodes(self, iteration: int) -> Rows:
        """Numbers of the trajectories ``[n]`` that an iteration (from 0) uses; each adds an equal share."""
        return self._order[: math.ceil(len(self._order) * (iteration + 1) / self.settings.iterations)]

    def rows(self, iteration: int) -> Rows:
        """The rows ``[n]`` of these trajectories' transitions."""
        return np.flatnonzero(np.isin(self.data.episode, self.episodes(iteration)))


class Stage:
    """The scaled training and held-out pairs of one iteration; a pair is a window and a transition to explain.

    Args:
        table: all data.
        iteration: number of the iteration, from 0.

    Raises:
        InputError: no pair is left to learn from.
    """

    def __init__(self, table: Table, iteration: int) -> None:
        s, data = table.settings, table.data
        episodes, rows = table.episodes(iteration), table.rows(iteration)
        rng = seeding.generator(table.seed, "cadm", "validation", iteration)
        count = min(int(len(rows) * s.validation), s.max_validation)
        held = split(data, episodes, count, rng, overlap=s.overlapping_validation)
        self.scales = scales = stage_scales(table, iteration)
        self._histories, self._device, self._members = table.histories, table.device, s.members
        columns = [
            scales.states.normalise(table.states),
            scales.actions.normalise(table.actions),
            scales.targets.normalise(table.targets),
            scales.states.normalise(table.following),
            scales.back_targets.normalise(table.back_targets),
        ]
        # Side by side, so that a batch is one gather.
        self._packed, self._widths = torch.cat(columns, dim=1), [column.shape[1] for column in columns]
        self._train, self._held = self._pairs(table, np.setdiff1d(rows, held)), self._pairs(table, held)
        if not len(self):
            raise InputError(f"the data of {data.env} hold no transition to learn from; give longer trajectories")

    def __len__(self) -> int:
        return len(self._train[0])

    def batch(self, chosen: Tensor) -> Batch:
        """The training pairs with the numbers ``chosen [K, B]``."""
        return self._batch(self._train[0][chosen], self._train[1][chosen])

    def held_out(self) -> Iterator[Batch]:
        """All held-out pairs in blocks, the same for every member."""
        for first in range(0, len(self._held[0]), _BLOCK):
            yield self._batch(*(part[first : first + _BLOCK].expand(self._members, -1) for part in self._held))

    def _pairs(self, table: Table, windows: Rows) -> tuple[Tensor, Tensor]:
        if table.settings.skip_first_window:
            windows = windows[table.data.step[windows] > 0]
        before, at = pairs(table.data, windows, table.settings.future)
        return torch.from_numpy(before).to(self._device), torch.from_numpy(at).to(self._device)

    def _batch(self, windows: Tensor, rows: Tensor) -> Batch:
        history = self.scales.history.normalise(self._histories(windows))
        found = self._packed.index_select(0, rows.flatten()).view(*rows.shape, -1)
        states, actions, targets, following, back = torch.split(found, self._widths, dim=-1)
        return Batch(history, states, actions, targets, following, back)


def stage_scales(table: Table, iteration: int) -> Scales:
    """The scales of the transitions that an iteration uses, with the held-out ones (as in CaDM's code)."""
    at = torch.from_numpy(table.rows(iteration)).to(table.device)
    states, targets, back = (Scale.exact(x[at]) for x in (table.states, table.targets, table.back_targets))
    differences = Scale.none(table.settings.history * table.targets.shape[1], table.device)
    if table.discrete:
        actions = Scale.none(table.actions.shape[1], table.device)
        past = Scale.none(table.settings.history * table.actions.shape[1], table.device)
    else:
        actions = Scale.exact(table.actions[at])
        past = Scale.exact(table.histories(at)[:, len(differences.mean) :])
    history = Scale(*(torch.cat(both) for both in zip(differences, past, strict=True)))
    return Scales(states, actions, history, targets, back)
