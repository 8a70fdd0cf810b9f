"""From cells to tasks: datasets, parts of models, models and measurements, each of which leaves files in the store."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from persim.methods import measure
from persim.methods.job import REWARD, Job
from persim.storage import store
from persim.storage.cells import CellStore

PIECE = "piece"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One piece of work for one worker; it is done when its files are there.

    Attributes:
        key: names it.
        kind: ``data``, ``part``, ``model`` or ``measure``.
        job: any of the cells that need it; it says everything that the task depends on.
        outputs: the files, relative to the store.
        numbers: of the parts, or of the piece of the measurement.
        needs: keys of the tasks whose files it reads.
        heavy: whether it gains from a GPU.
    """

    key: str
    kind: str
    job: Job
    outputs: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()
    heavy: bool = False


@dataclass
class Plan:
    """All tasks of some cells.

    Attributes:
        tasks: by key; datasets first.
        of_cell: keys of the measurements of each cell id.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    of_cell: dict[str, tuple[str, ...]] = field(default_factory=dict)


def plan(todo: Sequence[Job], cells: CellStore, device: str = "cpu") -> Plan:
    """The tasks of these cells; what several cells need is there once.

    Args:
        todo: the cells with their methods.
        cells: the store.
        device: on a GPU all members of an ensemble are one task.
    """
    result = Plan()
    for job in todo:
        needs: tuple[str, ...] = ()
        if job.method.parts:
            for task in _learning(job, cells, device):
                result.tasks.setdefault(task.key, task)
            needs = (f"model {job.weights_name}",)
        heavy = _measuring_gains(job)
        pieces = measure.piece_groups(job, device if heavy else "cpu")
        groups = {f"measure {job.cell.id} {group[0]}": group for group in pieces}
        for key, group in groups.items():
            result.tasks[key] = Task(key, "measure", job, tuple(map(job.piece_file, group)), group, needs, heavy)
        result.of_cell[job.cell.id] = tuple(groups)
    return result


def _learning(job: Job, cells: CellStore, device: str) -> Iterator[Task]:
    """The dataset of a cell, what its model starts from, the parts of its model, and the model."""
    path, name = cells.dataset_path(*job.data_key), job.weights_name
    data = f"data {path.stem}"
    yield Task(data, "data", job, (str(path.relative_to(cells.root)),))
    needs: tuple[str, ...] = (data,)
    if job.base is not None:
        yield from _learning(job.base, cells, device)
        needs = (data, f"model {job.base.weights_name}")
    heavy = _training_gains(job)
    groups = measure.part_groups(job, device if heavy else "cpu")
    parts = [f"part {name} {'-'.join(map(str, group))}" for group in groups]
    for key, group in zip(parts, groups, strict=True):
        yield Task(key, "part", job, tuple(map(job.part_file, group)), group, needs, heavy)
    yield Task(f"model {name}", "model", job, (job.model_file,), needs=tuple(parts))


def _training_gains(job: Job) -> bool:
    """Whether a GPU shortens training: of members side by side, or large networks; not where calls are the cost."""
    method = job.method
    return bool(method.parts) and (not job.spec.discrete or (method.joint and not method.trains_jointly("cpu")))


def _measuring_gains(job: Job) -> bool:
    """Whether a GPU shortens the measurement: planning with a learnt model; other measurements take seconds."""
    method = job.method
    return job.cell.what == REWARD and bool(method.parts) and method.plans and (method.joint or not job.spec.discrete)


def missing(tasks: dict[str, Task], wanted: Sequence[str], root: Path) -> dict[str, Task]:
    """The tasks that are still to be done for the wanted ones, each after those that it needs."""
    found: dict[str, Task] = {}

    def visit(key: str) -> None:
        task = tasks[key]
        if key in found or is_done(task, root):
            return
        for need in task.needs:
            visit(need)
        found[key] = task

    for key in wanted:
        visit(key)
    return found


def is_done(task: Task, root: Path) -> bool:
    """Whether the files of a task are there."""
    return all((root / output).exists() for output in task.outputs)


def perform(task: Task, root: Path, device: str) -> None:
    """Do a task, unless its files are there already; in halves where a GPU has not enough memory for all at once.

    Args:
        task: what to do.
        root: the store.
        device: ``cpu`` or ``cuda``.
    """
    if is_done(task, root):
        return
    many = len(task.numbers) > 1
    if many and task.kind == "part" and not task.job.method.trains_jointly(device):  # planned for a GPU, done on a CPU
        for place in range(len(task.numbers)):
            perform(_some(task, slice(place, place + 1)), root, device)
        return
    try:
        _do(task, root, device)
    except torch.OutOfMemoryError:
        if not many:
            raise
        half = len(task.numbers) // 2
        _log.warning("%s: too little GPU memory for %d at once; half of them at a time", task.key, len(task.numbers))
        torch.cuda.empty_cache()
        perform(_some(task, slice(half)), root, device)
        perform(_some(task, slice(half, None)), root, device)


def _some(task: Task, which: slice) -> Task:
    """The same task for some of its parts or pieces."""
    return replace(task, numbers=task.numbers[which], outputs=task.outputs[which])


def _do(task: Task, root: Path, device: str) -> None:
    cells, job = CellStore(root), task.job
    if task.kind == "data":
        measure.dataset(job, cells)
    elif task.kind == "part":
        measure.train_parts(job, task.numbers, measure.dataset(job, cells), cells, device)
    elif task.kind == "model":
        measure.assemble(job, cells)
    else:
        records = measure.measure_pieces(job, task.numbers, cells, device)
        for output, record in zip(task.outputs, records, strict=True):
            store.write_record(root / output, PIECE, record)


def finish(job: Job, cells: CellStore) -> None:
    """Put the measured pieces of a cell together, record it, and remove them.

    Raises:
        InputError: a piece is missing or damaged.
    """
    paths = [cells.root / job.piece_file(number) for number in range(len(job.pieces))]
    cells.finish(measure.finished_cell(job, [store.read_record(path, PIECE) for path in paths]))
    for path in paths:
        path.unlink(missing_ok=True)
