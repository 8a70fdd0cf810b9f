"""The trained models of a benchmark's store, found by the finished cells that they belong to."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from baselines.registry import PRESETS
from persim.data import REGIMES
from persim.data.collect import population
from persim.envs import EnvSpec, get
from persim.envs.spec import Array
from persim.errors import InputError
from persim.learning.model import KIND as MODEL_KIND
from persim.methods import Fitted, Weights
from persim.storage import store
from persim.storage.cells import KIND, Cell
from sweeps.grid.suites import ENVS, SUITES, method_of
from sweeps.grid.tasks import model_output

_log = logging.getLogger(__name__)
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


def stored_models(roots: Sequence[Path], methods: Sequence[str], agents: int, seed: int) -> list[StoredModel]:
    """One model for each environment, regime and method, in the paper's order; the one of the fullest budget.

    Args:
        roots: the stores; of equal models that of the first counts.
        methods: names of ``baselines.registry``, in the order that is wanted.
        agents: N.
        seed: of the trial.

    Raises:
        InputError: a record is damaged.
    """
    best: dict[tuple[str, str, str], StoredModel] = {}
    for root, cell in _finished(roots):
        if cell.method not in methods or (cell.agents, cell.settings["seed"]) != (agents, seed):
            continue
        path = _path(root, cell)
        if path is None:
            _log.warning(
                "cell %s (%s in %s): its model is gone or of another version; left out", cell.id, cell.method, cell.env
            )
            continue
        found = StoredModel(cell, path)
        key = (cell.env, cell.regime, cell.method)
        if key not in best or _merit(found) < _merit(best[key]):
            best[key] = found
    order = product(ENVS, REGIMES, methods)
    return [best[key] for key in order if key in best]


def _finished(roots: Sequence[Path]) -> Iterator[tuple[Path, Cell]]:
    """The finished cells of all suites, each with its store; other sweeps keep theirs beside them."""
    for root, suite in product(roots, SUITES):
        for path in sorted((root / "cells" / suite).glob("*.json")):
            yield root, Cell(**store.read_record(path, KIND)["cell"])


def _path(root: Path, cell: Cell) -> Path | None:
    """Where its weights are; None if this program, which names them by the method's settings, finds none."""
    try:
        path = root / model_output(cell)
    except (KeyError, TypeError, InputError):  # a setting that was not there yet, or is not there any more
        return None
    return path if path.exists() else None


def _merit(model: StoredModel) -> tuple[int, bool, str]:
    """Less is better: the fullest budget, at the paper's rank; the name decides between equals."""
    known = model.budget in _FULLEST_FIRST
    place = _FULLEST_FIRST.index(model.budget) if known else len(_FULLEST_FIRST)
    return place, model.cell.settings["rank"] is not None, model.path.name
