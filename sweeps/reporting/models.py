"""The trained models that a benchmark left in its store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from baselines.registry import make_method
from persim.data import REGIMES
from persim.envs import EnvSpec, get
from persim.envs.spec import Array
from persim.learning.model import KIND as MODEL_KIND
from persim.methods import PRESETS, Fitted, Method, Options, Weights
from persim.methods.job import Job, predictions
from persim.storage import store
from persim.storage.cells import Cell
from sweeps.grid.suites import ENVS


@dataclass(frozen=True)
class StoredModel:
    """A model that the prediction error is measured with.

    Attributes:
        job: that measurement.
        budget: name of the preset that it was trained with.
        path: its file.
    """

    job: Job
    budget: str
    path: Path

    @property
    def cell(self) -> Cell:
        """The cell of the measurement."""
        return self.job.cell

    @property
    def method(self) -> Method:
        """The method that was trained."""
        return self.job.method

    @property
    def spec(self) -> EnvSpec:
        """Its environment."""
        return self.job.spec

    @property
    def seed(self) -> int:
        """The seed that it was trained with."""
        return self.cell.seed

    @property
    def covariates(self) -> Array:
        """Covariates ``[N, C]`` of the agents of its data."""
        return self.job.covariates

    def fitted(self) -> Fitted:
        """Read the method after training.

        Raises:
            InputError: the file is damaged.
        """
        weights = Weights(*store.read_arrays(self.path, MODEL_KIND))
        return self.method.restore(weights, self.spec, self.covariates)


def stored_models(roots: Sequence[Path], methods: Sequence[str], agents: int, seed: int) -> list[StoredModel]:
    """Find one model for each environment, regime and method, in the paper's order: the one of the fullest budget.

    Args:
        roots: the stores; of equal models that of the first counts.
        methods: keys of ``baselines.registry``, in the order that is wanted.
        agents: N.
        seed: of the training.
    """
    found = []
    for env, regime, name in product(ENVS, REGIMES, methods):
        spec = get(env)
        for preset, root in product(PRESETS, roots):
            job = Job.of(make_method(name, spec, Options(preset)), env, regime, agents, seed, predictions(spec))
            if (root / job.model_file).exists():
                found.append(StoredModel(job, preset, root / job.model_file))
                break
    return found
