"""The parameters, metrics and dataset of a finished cell in the form that MLflow takes."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from persim.data import Trajectories
from persim.storage.cells import Cell, FinishedCell

PARAMS_PER_BATCH, ENTRIES_PER_BATCH = 100, 1000  # MLflow's limits of one request
_VALUE_LENGTH, _NAME_LENGTH, _DIGEST_LENGTH = 500, 250, 36
_NOT_IN_NAMES = re.compile(r"[^\w/.\- :]")


def dataset_input(cell: Cell, data: Trajectories, source: str) -> Any:
    """What a cell was trained on as an MLflow input; ``source`` is the path or URI of the file."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=f"{cell.env} {cell.regime} N={cell.agents}"[:_VALUE_LENGTH],
        digest=data.content_hash[:_DIGEST_LENGTH],
        source_type=source.partition("://")[0] if "://" in source else "local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"agents": data.n_agents, "transitions": len(data), "seed": cell.seed}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def params(values: Mapping[str, object]) -> dict[str, str]:
    """MLflow parameters; nested mappings become dotted names."""
    return {_name(name): str(value)[:_VALUE_LENGTH] for name, value in _flat(values)}


def cell_params(done: FinishedCell, labels: Mapping[str, object]) -> dict[str, str]:
    """What was measured of which method, with all settings that the method used, and on which machine.

    A setting has its last name where that is unique in the run (``rank``), else its dotted path. ``labels`` are
    parameters that do not follow from the cell.
    """
    cell = done.cell
    own = {"env": cell.env, "regime": cell.regime, "agents": cell.agents, "method": cell.method, "what": cell.what}
    own |= {"seed": cell.seed, "commit": done.commit, **labels}
    paths = _flat({**cell.settings, "measure": cell.measure})
    leaves = [(path, path.rpartition(".")[2], value) for path, value in paths if path != "measure.what"]
    count = Counter([*own, *(leaf for _, leaf, _ in leaves)])
    used = {leaf if count[leaf] == 1 else path: value for path, leaf, value in leaves}
    settings = {f"settings.{name}" if name in own else name: value for name, value in used.items()}
    return params({**settings, **own, **({"machine": done.machine} if done.machine else {})})


def cell_metrics(done: FinishedCell) -> list[Any]:
    """Values of all rows with their means over agents, timings, and the points of all curves."""
    from mlflow.entities import Metric

    metrics = [Metric(name, value, done.ended, 0) for name, value in _values(done.rows)]
    metrics += [Metric(_name(f"seconds/{name}"), value, done.ended, 0) for name, value in done.seconds.items()]
    for name, points in done.curves.items():
        metrics += [Metric(_name(f"curve/{name}"), y, done.started, int(x)) for x, y in points if _finite(y)]
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
    means = ((metric, found) for metric, found in by_metric.items() if all(map(_finite, found)))
    return values + [(f"{metric}/mean", math.fsum(found) / len(found)) for metric, found in means]


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
