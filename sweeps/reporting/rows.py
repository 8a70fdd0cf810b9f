"""Published rows: finished cells as Parquet files, one row per cell, metric and agent.

A file holds the cells of one kind of measurement, sorted, so that the same cells always give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from persim.errors import InputError, check_choice
from persim.methods import PRESETS
from persim.methods.job import HOLDOUT, PREDICTION, REWARD, TENSOR
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, read_finished

VERSION = 3
_BEFORE = 2  # had no machine
KINDS = (PREDICTION, REWARD, HOLDOUT, TENSOR)
SUITES = ("prediction", "reward", "augmentation", "unseen", "scarcity", "same-planner", "planners", "rank_cv",
          "ablations", "theorem1")  # fmt: skip
Cells = dict[str, FinishedCell]

SCHEMA = pa.schema(
    [
        ("version", pa.int32()),
        ("cell", pa.string()),  # the hash of the next seven
        ("env", pa.string()),
        ("regime", pa.string()),
        ("n_agents", pa.int32()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("settings", pa.string()),  # canonical JSON
        ("measure", pa.string()),  # canonical JSON
        ("labels", pa.string()),  # canonical JSON: the preset by suite
        ("commit", pa.string()),
        ("metric", pa.string()),
        ("agent", pa.int32()),  # the paper's number; null if the metric is of no one agent
        ("value", pa.float64()),  # null if it was not finite
        ("train_seconds", pa.float64()),
        ("measure_seconds", pa.float64()),
        ("decision_seconds", pa.float64()),
        ("ended", pa.int64()),  # Unix time in milliseconds
        ("machine", pa.string()),  # canonical JSON; null if it was not recorded
    ]
)
_OF_CELL = ("env", "regime", "method", "seed")
_TIMINGS = ("train", "measure", "decision")
_OF_ROW = ("metric", "agent", "value")
_ORDER = attrgetter("cell.env", "cell.regime", "cell.agents", "cell.method", "cell.seed", "cell.id")


def rows_path(out: Path, kind: str) -> Path:
    """Where the rows of a kind of measurement are kept."""
    return out / f"rows-{kind}.parquet"


def encode(cells: Iterable[FinishedCell]) -> bytes:
    """Write cells as a Parquet file; their order does not matter, and curves are left out."""
    rows = [entry for done in sorted(cells, key=_ORDER) for entry in _rows(done)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def _rows(done: FinishedCell) -> list[dict[str, Any]]:
    cell = done.cell
    shared = {"version": VERSION, "cell": cell.id, "n_agents": cell.agents, "commit": done.commit, "ended": done.ended}
    shared |= {name: getattr(cell, name) for name in _OF_CELL}
    settings = {"settings": cell.settings, "measure": cell.measure, "labels": done.labels}
    shared |= {name: store.canonical_json(value) for name, value in settings.items()}
    shared |= {f"{name}_seconds": done.seconds.get(name) for name in _TIMINGS}
    shared |= {"machine": store.canonical_json(done.machine) if done.machine else None}
    return [shared | entry for entry in sorted(done.rows, key=lambda row: (row["metric"], row["agent"] or 0))]


def read_all(out: Path) -> Cells:
    """Read the cells of every ``rows-*.parquet`` in a folder, by id; none if there is no such file.

    Raises:
        InputError: a file is damaged, of another version or of an unknown kind, or holds a row twice.
    """
    return {done.cell.id: done for path in sorted(out.glob("rows-*.parquet")) for done in read(path)}


def read(path: Path) -> list[FinishedCell]:
    """Read the cells of one file.

    Raises:
        InputError: as of ``read_all``.
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for entry in _entries(path):
        grouped.setdefault(entry["cell"], []).append(entry)
    kind = check_choice(f"{str(path)!r}: the kind of rows", path.stem.removeprefix("rows-"), KINDS)
    return [_cell(path, kind, name, rows) for name, rows in grouped.items()]


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()), page_checksum_verification=True)
        columns = table.schema.names
        entries: list[dict[str, Any]] = table.to_pylist()
    except Exception as error:  # Arrow has no one error for what is damaged
        raise _damaged(path, "it is truncated, changed or no Parquet file") from error
    versions = {entry.get("version") for entry in entries} if "version" in columns else {None}
    if 1 in versions:
        raise InputError(
            f"{str(path)!r} is of version 0.1, whose cells were named differently; convert it as CHANGELOG.md says, "
            "or delete it and collect again with --store"
        )
    if versions == {_BEFORE} and "machine" not in columns:
        table = table.append_column(SCHEMA.field("machine"), pa.nulls(len(table), pa.string()))
        entries = [{**entry, "machine": None} for entry in entries]
    elif versions - {VERSION}:
        came = ", ".join(sorted(map(str, versions - {VERSION})))
        raise InputError(
            f"{str(path)!r} has rows of version {came}, this program reads {VERSION}; "
            "use the program version that wrote them, or delete the file and collect again with --store"
        )
    if not table.schema.equals(SCHEMA):
        raise _damaged(path, "its columns are not those of rows")
    return entries


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{str(path)!r} is damaged: {why}; restore it, or delete it and collect again with --store")


def _cell(path: Path, kind: str, name: str, rows: Sequence[dict[str, Any]]) -> FinishedCell:
    first = rows[0]
    try:
        settings, measure, labels = (store.parse_json(first[column]) for column in ("settings", "measure", "labels"))
        machine = store.parse_json(first["machine"] or "{}")
        own = {column: first[column] for column in _OF_CELL}
        cell = Cell(**own, agents=first["n_agents"], settings=settings, measure=measure)
        texts = [*labels.values(), *machine.values()]
        fits = cell.id == name and cell.what == kind and all(isinstance(text, str) for text in texts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, f"settings, measure, labels or machine of cell {name} cannot be read") from error
    if not fits or any(row[column] != first[column] for row in rows for column in first if column not in _OF_ROW):
        raise _damaged(path, f"cell {name} does not hold what its id says")
    seconds = {each: first[f"{each}_seconds"] for each in _TIMINGS if first[f"{each}_seconds"] is not None}
    times = seconds, first["ended"], first["ended"]
    found = _once(path, name, rows)
    with store.contents_of(path):
        return FinishedCell(cell, found, {}, first["commit"], *times, labels=labels, machine=machine)


def _once(path: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Select metric, agent and value of each row of one file, in which no row may be there twice."""
    found = _measured(f"in {str(path)!r}", name, rows)
    if len(found) < len(rows):
        raise InputError(
            f"cell {name} has the same row twice in {str(path)!r} ({len(rows)} rows, {len(found)} of them different); "
            "restore the file, or delete it and collect again with --store"
        )
    return found


def _measured(where: str, name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Select metric, agent and value of each row, once; no row may be there twice with different values."""
    found: dict[tuple[str, int | None], dict[str, Any]] = {}
    for row in rows:
        entry = {field: row[field] for field in _OF_ROW}
        known = found.setdefault((entry["metric"], entry["agent"]), entry)
        if known["value"] != entry["value"]:
            agent = "" if entry["agent"] is None else f" of agent {entry['agent']}"
            raise InputError(
                f"cell {name} is there twice {where} and its {entry['metric']}{agent} differs: "
                f"{known['value']} and {entry['value']}; find out which is right and remove the other"
            )
    return list(found.values())


def collect(root: Path) -> Cells:
    """Read the finished cells of a store that any of ``SUITES`` asked for.

    Raises:
        InputError: there is none, or one is damaged.
    """
    store.reach(root)
    cells, found = CellStore(root), {}
    labels = cells.labels()
    for name in sorted(cells.finished_ids() & labels.keys()):
        own = {suite: preset for suite, preset in labels[name].items() if suite in SUITES}
        if own:
            path = cells.record_path(name)
            done = read_finished(path)
            found[name] = replace(done, rows=_once(path, name, done.rows), labels=own)
    if not found:
        cells.check_version()
        raise InputError(
            f"store {str(root)!r} has no finished cells of {', '.join(SUITES)}; "
            "give the --store of sweeps/benchmark.py or sweeps/rank_cv.py"
        )
    return found


def merge(ours: Cells, more: Cells, where: str) -> Cells:
    """Join two collections; of a cell that is in both, keep the copy that ended later, with the labels of both.

    Raises:
        InputError: the values of such a cell differ.
    """
    merged = dict(ours)
    for name, done in more.items():
        known = merged.setdefault(name, done)
        if not len(_measured(where, name, [*known.rows, *done.rows])) == len(known.rows) == len(done.rows):
            raise InputError(
                f"cell {name} is there twice {where}, with {len(known.rows)} and {len(done.rows)} rows; "
                "find out which is whole and remove the other"
            )
        later = max(known, done, key=lambda one: one.ended)  # its timings and machine are its own
        both = [*known.labels.items(), *done.labels.items()]
        labels = {suite: fullest(preset for other, preset in both if other == suite) for suite, _ in both}
        merged[name] = replace(later, labels=labels)
    return merged


def fullest(presets: Iterable[str]) -> str:
    """Choose the fullest of these presets; a name that is none comes last."""
    return min(presets, key=lambda name: (*PRESETS, name).index(name))
