"""From cells to tasks: datasets, parts of models, models, measurements, each one file in the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from baselines.registry import METHODS
from persim.storage.cells import Cell, CellStore
from sweeps.grid.suites import dataset_key, method_of, spec_of, weights_key

PREDICTION, REWARD = "prediction", "reward"


@dataclass(frozen=True)
class Task:
    """One piece of work for one worker; it is done when its file is there.

    Attributes:
        key: names it.
        kind: ``data``, ``part``, ``model`` or ``measure``.
        cell: says everything that it depends on (any of the cells that need it).
        output: the file, relative to the store.
        number: of the part, or of the measurement.
        needs: keys of the tasks whose files it reads.
        heavy: whether it gains from a GPU.
    """

    key: str
    kind: str
    cell: Cell
    output: str
    number: int = 0
    needs: tuple[str, ...] = ()
    heavy: bool = False


@dataclass(frozen=True)
class Measurement:
    """A share of what a cell measures: prediction of all test agents, or the reward of one."""

    what: str
    agent: int | None = None


@dataclass
class Plan:
    """All tasks of some cells.

    Attributes:
        tasks: by key; datasets first.
        of_cell: keys of the measurements of each cell id.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    of_cell: dict[str, tuple[str, ...]] = field(default_factory=dict)


def measurements(cell: Cell) -> list[Measurement]:
    """What a cell measures, in pieces that several workers can share."""
    pieces = [Measurement(PREDICTION)] if PREDICTION in cell.settings["measures"] else []
    if REWARD in cell.settings["measures"]:
        pieces += [Measurement(REWARD, agent) for agent in range(len(spec_of(cell).test_agents))]
    return pieces


def dataset_path(cells: CellStore, cell: Cell) -> Path:
    """Where the dataset of a cell is kept."""
    return cells.dataset_path(cell.env, cell.regime, cell.agents, int(cell.settings["seed"]))


def base_cell(cell: Cell) -> Cell | None:
    """Names the weights that the method of a cell starts from; None if it starts from none."""
    base = METHODS[cell.method].base
    return None if base is None else replace(cell, method=base)


def model_output(cell: Cell) -> str:
    """Where its weights are kept, relative to the store."""
    return f"models/{weights_key(cell)}.safetensors"


def part_output(cell: Cell, part: int) -> str:
    """Where a part of them is kept until they are put together."""
    return f"parts/{weights_key(cell)}-{part}.safetensors"


def piece_output(cell: Cell, number: int) -> str:
    """Where a measurement is kept until the cell is finished."""
    return f"pieces/{cell.id}-{number}.json"


def plan(todo: Sequence[Cell], cells: CellStore) -> Plan:
    """The tasks of these cells; what several cells need is there once."""
    result = Plan()
    for cell in todo:
        needs: tuple[str, ...] = ()
        if METHODS[cell.method].learns:
            for task in _learning(cell, cells):
                result.tasks.setdefault(task.key, task)
            needs = (f"model {weights_key(cell)}",)
        for number, _ in enumerate(measurements(cell)):
            key = f"measure {cell.id} {number}"
            result.tasks[key] = Task(key, "measure", cell, piece_output(cell, number), number, needs, heavy=True)
        result.of_cell[cell.id] = tuple(f"measure {cell.id} {n}" for n in range(len(measurements(cell))))
    return result


def _learning(cell: Cell, cells: CellStore) -> Iterator[Task]:
    """The dataset of a cell, what its model starts from, the parts of its model, and the model."""
    data, weights = f"data {dataset_key(cell)}", weights_key(cell)
    path = dataset_path(cells, cell).relative_to(cells.root)
    yield Task(data, "data", cell, str(path))
    needs: tuple[str, ...] = (data,)
    if (base := base_cell(cell)) is not None:
        yield from _learning(base, cells)
        needs = (data, f"model {weights_key(base)}")
    parts = [f"part {weights} {number}" for number in range(method_of(cell).parts)]
    for number, key in enumerate(parts):
        yield Task(key, "part", cell, part_output(cell, number), number, needs, heavy=True)
    yield Task(f"model {weights}", "model", cell, model_output(cell), 0, tuple(parts))


def missing(tasks: dict[str, Task], wanted: Sequence[str], root: Path) -> dict[str, Task]:
    """The tasks that are still to be done for the wanted ones, each after those that it needs."""
    found: dict[str, Task] = {}

    def visit(key: str) -> None:
        task = tasks[key]
        if key in found or (root / task.output).exists():
            return
        for need in task.needs:
            visit(need)
        found[key] = task

    for key in wanted:
        visit(key)
    return found
