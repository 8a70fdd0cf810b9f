"""A trained simulator as MLflow loads it: from code and a safetensors file, never pickled.

MLflow copies this file into the model and runs it when the model is loaded; persim has to be installed there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch

from persim.errors import InputError
from persim.learning.model import LowRankDynamics


class Simulator(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped
    """Predicts next states, as the mean over the ensemble's members."""

    def load_context(self, context: Any) -> None:
        """Read the weights; MLflow calls it once."""
        self.dynamics, _ = LowRankDynamics.load(Path(context.artifacts["simulator"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The columns ``next_state_0`` ... of a batch with the columns ``agent`` (ids from 0), ``state_0`` ..., and
        ``action`` if actions are whole numbers, else ``action_0`` ....

        Raises:
            InputError: an agent or a discrete action that the model does not know.
        """
        shape = self.dynamics.settings
        agents = _ids(model_input, "agent", shape.n_agents)
        states = _columns(model_input, "state", shape.state_dim)
        actions = (_ids if shape.discrete else _columns)(model_input, "action", shape.action_dim)
        with torch.no_grad():
            following = self.dynamics(agents, states, actions).mean(0)
        names = [f"next_state_{i}" for i in range(shape.state_dim)]
        return pd.DataFrame(following.numpy().astype(np.float64), columns=names)


def _columns(rows: pd.DataFrame, name: str, number: int) -> torch.Tensor:
    columns = [f"{name}_{i}" for i in range(number)]
    return torch.from_numpy(rows[columns].to_numpy(dtype=np.float32, copy=True))


def _ids(rows: pd.DataFrame, name: str, number: int) -> torch.Tensor:
    ids = rows[name].to_numpy(dtype=np.int64, copy=True)
    if len(ids) and not (ids.min() >= 0 and ids.max() < number):
        raise InputError(f"column {name!r} holds {ids.min()} to {ids.max()}; give whole numbers in 0..{number - 1}")
    return torch.from_numpy(ids)


mlflow.models.set_model(Simulator())
