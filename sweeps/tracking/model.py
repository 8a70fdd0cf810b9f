"""Logging a trained simulator as an MLflow model of a run."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from persim.learning.model import LowRankDynamics
from persim.storage.owners import mark

NAME = "simulator"
_SCRIPT = Path(__file__).with_name("simulator.py")
_PACKAGES = ("mlflow", "numpy", "pandas", "safetensors", "torch")


def logger_of(file: Path) -> Callable[[Any, str, str], None]:
    """What logs the simulator in a file, given a client and the ids of experiment and run.

    Raises:
        InputError: the file is missing or damaged.
    """
    shape = LowRankDynamics.load(file)[0].settings
    actions = [ColSpec(DataType.long, "action")] if shape.discrete else _columns("action", shape.action_dim)
    given = [ColSpec(DataType.long, "agent"), *_columns("state", shape.state_dim), *actions]
    return partial(_log, file, ModelSignature(Schema(given), Schema(_columns("next_state", shape.state_dim))))


def _columns(name: str, number: int) -> list[ColSpec]:
    return [ColSpec(DataType.double, f"{name}_{i}") for i in range(number)]


def _log(file: Path, signature: ModelSignature, client: Any, experiment_id: str, run_id: str) -> None:
    """Make a model and tie it to a run, step by step: MLflow's one call for it writes to the process's default URI."""
    made = client.create_logged_model(experiment_id, NAME, source_run_id=run_id, model_type="LowRankDynamics")
    about = Model(run_id=run_id, model_id=made.model_id, model_uuid=made.model_id, artifact_path=made.artifact_location)
    warnings.filterwarnings("ignore", message=".*An input example was not provided")  # the signature says it all
    with tempfile.TemporaryDirectory(prefix=f"persim-{mark()}-") as folder:
        mlflow.pyfunc.save_model(
            Path(folder) / NAME,
            python_model=str(_SCRIPT),
            artifacts={"simulator": str(file.resolve())},
            signature=signature,
            # Package indexes do not know the mark of a CPU or CUDA build.
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in _PACKAGES],
            mlflow_model=about,
        )
        client.log_model_artifacts(made.model_id, str(Path(folder) / NAME))
    client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
