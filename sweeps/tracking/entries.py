"""What MLflow shows of a finished cell: its parameters, metrics and dataset, within MLflow's limits."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from persim.storage.cells import FinishedCell

PARAMS_PER_BATCH, ENTRIES_PER_BATCH = 100, 1000  # MLflow's limits of one request
_VALUE_LENGTH, _NAME_LENGTH, _DIGEST_LENGTH = 500, 250, 36
_NOT_IN_NAMES = re.compile(r"[^\w/.\- :]")


@dataclass(frozen=True)
class DatasetNote:
    """What a cell was trained on.

    Attributes:
        name: of the dataset.
        digest: content hash; MLflow keeps its first 36 digits.
        source: path or URI of the file.
        profile: numbers to show, such as ``{"agents": 500, "transitions": 98000}``.
    """

    name: str
    digest: str
    source: str
    profile: Mapping[str, object] = field(default_factory=dict)


def dataset_input(note: DatasetNote) -> Any:
    """The dataset as an MLflow input of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=note.name[:_VALUE_LENGTH],
        digest=note.digest[:_DIGEST_LENGTH],
        source_type=note.source.partition("://")[0] if "://" in note.source else "local",
        source=json.dumps({"uri": note.source}),
        profile=json.dumps(dict(note.profile)),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def params(values: Mapping[str, object]) -> list[Any]:
    """MLflow parameters; nested mappings become dotted names."""
    from mlflow.entities import Param

    return [Param(_name(name), str(value)[:_VALUE_LENGTH]) for name, value in _flat(values)]


def cell_params(done: FinishedCell, more: Mapping[str, object]) -> list[Any]:
    """Who, what and with which settings; the fields of the cell win over settings of the same name."""
    cell = done.cell
    fixed = {"env": cell.env, "regime": cell.regime, "agents": cell.agents, "method": cell.method}
    return params({**cell.settings, **more, **fixed, "trial": cell.trial, "seed": done.seed, "commit": done.commit})


def cell_metrics(done: FinishedCell) -> list[Any]:
    """Values of all rows with their means over agents, timings, and the points of all curves."""
    from mlflow.entities import Metric

    metrics = [Metric(name, value, done.ended, 0) for name, value in _values(done.rows)]
    metrics += [Metric(_name(f"seconds/{name}"), value, done.ended, 0) for name, value in done.seconds.items()]
    for name, points in done.curves.items():
        curve = _name(f"curve/{name}")
        metrics += [Metric(curve, y, done.started, int(x)) for x, y in points if _finite(y)]
    return metrics


def _values(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Named values; MLflow has no infinity, so what ran away is left out, and with it the mean it would enter."""
    values, by_metric = [], dict[str, list[Any]]()
    for entry in rows:
        metric, agent, value = _name(entry["metric"]), entry["agent"], entry["value"]
        if agent is not None:
            by_metric.setdefault(metric, []).append(value)
        if _finite(value):
            values.append((metric if agent is None else f"{metric}/agent_{agent}", float(value)))
    for metric, found in by_metric.items():
        if all(_finite(value) for value in found):
            values.append((f"{metric}/mean", math.fsum(found) / len(found)))
    return values


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _name(text: str) -> str:
    """A name that MLflow takes."""
    return _NOT_IN_NAMES.sub("_", text)[:_NAME_LENGTH]
