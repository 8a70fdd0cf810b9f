"""The trained models of a benchmark's store, found by the finished cells that they belong to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from baselines.registry import PRESETS
from persim import store
from persim.cells import KIND, Cell
from persim.data.collect import population
from persim.envs import EnvSpec, get
from persim.envs.spec import Array
from persim.methods import Fitted, Weights
from persim.model import KIND as MODEL_KIND
from sweeps.suites import SUITES, method_of
from sweeps.tasks import model_output

_FULLEST_FIRST = list(PRESETS)


@dataclass(frozen=True)
class StoredModel:
    """A model that a finished cell was measured with.

    Attributes:
        cell: any of those that were.
        path: its file.
    """

    cell: Cell
    path: Path

    @property
    def spec(self) -> EnvSpec:
        """Its environment."""
        return get(self.cell.env)

    @property
    def seed(self) -> int:
        """Of its trial."""
        return int(self.cell.settings["seed"])

    @property
    def budget(self) -> str:
        """Name of the budget that it was trained with."""
        return str(self.cell.settings["budget"]["name"])

    @property
    def covariates(self) -> Array:
        """Those of the agents of its data ``[N, C]``."""
        return population(self.spec, self.cell.agents, self.seed)

    def fitted(self) -> Fitted:
        """The method after training.

        Raises:
            InputError: the file is damaged.
        """
        weights = Weights(*store.read_arrays(self.path, MODEL_KIND))
        return method_of(self.cell).restore(weights, self.spec, self.covariates)


def stored_models(root: Path, methods: Collection[str], agents: int, seed: int) -> list[StoredModel]:
    """One model for each environment, regime and method, in that order; the one of the fullest budget.

    Args:
        root: the store.
        methods: names of ``baselines.registry``, as columns of a table are wanted.
        agents: N.
        seed: of the trial.

    Raises:
        InputError: a record is damaged.
    """
    best: dict[tuple[str, str, str], StoredModel] = {}
    for cell in _finished(root):
        if cell.method not in methods or (cell.agents, cell.settings["seed"]) != (agents, seed):
            continue
        found = StoredModel(cell, root / model_output(cell))
        key = (cell.env, cell.regime, cell.method)
        if found.path.exists() and (key not in best or _merit(found) < _merit(best[key])):
            best[key] = found
    order = list(methods)
    return sorted(best.values(), key=lambda model: (model.cell.env, model.cell.regime, order.index(model.cell.method)))


def _finished(root: Path) -> Iterator[Cell]:
    """The finished cells of all suites; other sweeps keep theirs beside them."""
    for suite in SUITES:
        for path in sorted((root / "cells" / suite).glob("*.json")):
            yield Cell(**store.read_record(path, KIND)["cell"])


def _merit(model: StoredModel) -> tuple[int, bool, str]:
    """Less is better: the fullest budget, at the paper's rank; the name decides between equals."""
    known = model.budget in _FULLEST_FIRST
    place = _FULLEST_FIRST.index(model.budget) if known else len(_FULLEST_FIRST)
    return place, model.cell.settings["rank"] is not None, model.path.name
