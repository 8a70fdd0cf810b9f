"""Published rows: finished cells as Parquet files, one row per cell, metric and agent.

A file holds the cells of one suite, sorted, so that the same cells always give the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from persim.errors import InputError, check_choice
from persim.storage import store
from persim.storage.cells import KIND, Cell, FinishedCell

VERSION = 1
SUITES = ("prediction", "reward", "augmentation", "unseen", "scarcity", "rank_cv")
Cells = dict[str, FinishedCell]

SCHEMA = pa.schema(
    [
        ("version", pa.int32()),
        ("cell", pa.string()),
        ("suite", pa.string()),
        ("env", pa.string()),
        ("regime", pa.string()),
        ("n_agents", pa.int32()),
        ("method", pa.string()),
        ("trial", pa.int32()),
        ("settings", pa.string()),  # canonical JSON
        ("budget", pa.string()),  # name of the preset; null if the suite has none
        ("seed", pa.int64()),
        ("commit", pa.string()),
        ("metric", pa.string()),
        ("agent", pa.int32()),  # the paper's number; null if the metric is of no one agent
        ("value", pa.float64()),  # null if it was not finite
        ("train_seconds", pa.float64()),
        ("measure_seconds", pa.float64()),
        ("decision_seconds", pa.float64()),
        ("ended", pa.int64()),  # Unix time in milliseconds
    ]
)
_TIMINGS = ("train", "measure", "decision")


def rows_path(out: Path, suite: str) -> Path:
    """Where the rows of a suite are kept."""
    return out / f"rows-{suite}.parquet"


def encode(cells: Iterable[FinishedCell]) -> bytes:
    """The Parquet file of these cells; their order does not matter, curves are left out."""
    rows = [entry for done in sorted(cells, key=_order) for entry in _rows(done)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def _order(done: FinishedCell) -> tuple[object, ...]:
    cell = done.cell
    return cell.env, cell.regime, cell.agents, cell.method, cell.trial, cell.id


def _rows(done: FinishedCell) -> list[dict[str, Any]]:
    cell = done.cell
    shared = {
        "version": VERSION,
        "cell": cell.id,
        "suite": cell.suite,
        "env": cell.env,
        "regime": cell.regime,
        "n_agents": cell.agents,
        "method": cell.method,
        "trial": cell.trial,
        "settings": store.canonical_json(cell.settings),
        "budget": cell.settings.get("budget", {}).get("name"),
        "seed": done.seed,
        "commit": done.commit,
        **{f"{name}_seconds": done.seconds.get(name) for name in _TIMINGS},
        "ended": done.ended,
    }
    return [shared | entry for entry in sorted(done.rows, key=lambda row: (row["metric"], row["agent"] or 0))]


def read_all(out: Path) -> Cells:
    """The cells of every ``rows-*.parquet`` in a folder, by id; none if there is no such file.

    Raises:
        InputError: a file is damaged, of another version or of an unknown suite, or holds a row twice.
    """
    found: Cells = {}
    for path in sorted(out.glob("rows-*.parquet")):
        suite = check_choice(f"suite of {str(path)!r}:", path.stem.removeprefix("rows-"), SUITES)
        found |= {done.cell.id: done for done in read(path, suite)}
    return found


def read(path: Path, suite: str) -> list[FinishedCell]:
    """The cells of one file.

    Raises:
        InputError: as of ``read_all``.
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for entry in _entries(path):
        grouped.setdefault(entry["cell"], []).append(entry)
    return [_cell(path, suite, name, rows) for name, rows in grouped.items()]


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()), page_checksum_verification=True)
        columns = table.schema.names
        entries: list[dict[str, Any]] = table.to_pylist()
    except Exception as error:  # Arrow has no one error for what is damaged
        raise _damaged(path, "it is truncated, changed or no Parquet file") from error
    versions = {entry.get("version") for entry in entries} if "version" in columns else {None}
    if versions - {VERSION}:
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


def _cell(path: Path, suite: str, name: str, rows: Sequence[dict[str, Any]]) -> FinishedCell:
    first = rows[0]
    try:
        settings = json.loads(first["settings"])
        where = {name: first[name] for name in ("suite", "env", "regime", "method", "trial")}
        cell = Cell(**where, agents=first["n_agents"], settings=settings)
    except (ValueError, TypeError) as error:
        raise _damaged(path, f"the settings of cell {name} cannot be read") from error
    if cell.id != name or cell.suite != suite:
        raise _damaged(path, f"cell {name} does not hold what its id says")
    return FinishedCell(
        cell=cell,
        rows=_once(f"in {str(path)!r}", name, rows),
        curves={},
        seed=first["seed"],
        commit=first["commit"],
        seconds={name: first[f"{name}_seconds"] for name in _TIMINGS if first[f"{name}_seconds"] is not None},
        started=first["ended"],
        ended=first["ended"],
    )


def _once(where: str, name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Metric, agent and value of each row of one file.

    Raises:
        InputError: one is there twice, with the same value or another.
    """
    found = _measured(where, name, rows)
    if len(found) < len(rows):
        raise InputError(
            f"cell {name} has the same row twice {where} ({len(rows)} rows, {len(found)} of them different); "
            "restore the file, or delete it and collect again with --store"
        )
    return found


def _measured(where: str, name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Metric, agent and value of each row, once.

    Raises:
        InputError: one is there twice with different values.
    """
    found: dict[tuple[str, int | None], dict[str, Any]] = {}
    for row in rows:
        entry = {field: row[field] for field in ("metric", "agent", "value")}
        known = found.setdefault((entry["metric"], entry["agent"]), entry)
        if known["value"] != entry["value"]:
            raise _disagreement(name, where, known, entry)
    return list(found.values())


def _disagreement(name: str, where: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> InputError:
    agent = "" if one["agent"] is None else f" of agent {one['agent']}"
    return InputError(
        f"cell {name} is there twice {where} and its {one['metric']}{agent} differs: "
        f"{one['value']} and {other['value']}; find out which is right and remove the other"
    )


def collect(root: Path) -> Cells:
    """The finished cells of a store, of all suites that are reported.

    Raises:
        InputError: it has none, or one is damaged.
    """
    store.reach(root)
    found: Cells = {}
    for suite in SUITES:
        for path in sorted((root / "cells" / suite).glob("*.json"), key=str):
            done = _recorded(path)
            found[done.cell.id] = replace(done, rows=_once(f"in {str(path)!r}", done.cell.id, done.rows))
    if not found:
        raise InputError(
            f"store {str(root)!r} has no finished cells of {', '.join(SUITES)}; "
            "give the --store of sweeps/benchmark.py or sweeps/rank_cv.py"
        )
    return found


def _recorded(path: Path) -> FinishedCell:
    record = store.read_record(path, KIND)
    try:
        return FinishedCell(**{**record, "cell": Cell(**record["cell"])})
    except TypeError as error:
        raise InputError(
            f"{str(path)!r} holds a cell of another version ({error}); remove it from the store"
        ) from error


def merge(ours: Cells, more: Cells, where: str) -> Cells:
    """Both; of a cell that is in both, the one that ended later (its timings, as the values are the same).

    Raises:
        InputError: the values of such a cell differ.
    """
    merged = dict(ours)
    for name, done in more.items():
        known = merged.get(name)
        if known is not None:
            _check_same(name, where, known.rows, done.rows)
        if known is None or known.ended < done.ended:
            merged[name] = done
    return merged


def _check_same(name: str, where: str, known: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> None:
    kept = _measured(where, name, [*known, *new])
    if not len(kept) == len(known) == len(new):
        raise InputError(
            f"cell {name} is there twice {where}, with {len(known)} and {len(new)} rows; "
            "find out which is whole and remove the other"
        )
