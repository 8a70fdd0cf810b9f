"""Convert published rows of version 0.1 to the rows of version 2, which name a cell by its measurement alone.

    python scripts/convert_0_1.py OLD NEW

Reads OLD/rows-*.parquet (of ``sweeps/report.py``, version 0.1) and writes NEW/rows-KIND.parquet. Cells that are left
in a store of version 0.1 are collected first, by ``report.py --store`` of that version. No value changes. Settings
that a row lacks, because its program did not have them yet, stay missing; a sweep of ranks gets the defaults.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from baselines.registry import make_method
from persim import console
from persim.envs import get
from persim.envs.spec import EnvSpec
from persim.errors import InputError
from persim.learning.ensemble import EnsembleSettings
from persim.methods import Options, PerSim
from persim.methods.holdout import STREAM, holdouts
from persim.methods.job import predictions, rewards
from persim.storage import store
from persim.storage.cells import Cell, FinishedCell, plain
from sweeps.reporting import rows as row_files

Row = Mapping[str, Any]
_REWARD_METRICS = ("reward", "reward_std", "length")
# Settings of PerSim that no number depends on, or that were there twice.
_GONE = {"nets": ("rank", "batch_size"), "train": ("checkpoint_every", "holdout_every")}
_TRAINING = ("epochs", "batch_size", "learning_rate", "halve_every", "average_last")


def read(path: Path) -> list[list[Row]]:
    """Read the rows of each cell of a file of version 0.1.

    Raises:
        InputError: the file is damaged, or of another version.
    """
    try:
        entries = pq.read_table(io.BytesIO(path.read_bytes()), page_checksum_verification=True).to_pylist()
    except Exception as error:  # Arrow has no one error for what is damaged
        raise InputError(f"{str(path)!r} is damaged: it is truncated, changed or no Parquet file") from error
    grouped: dict[str, list[Row]] = {}
    for row in entries:
        if row.get("version") != 1:
            raise InputError(f"{str(path)!r} has rows of version {row.get('version')}; only version 1 is converted")
        grouped.setdefault(row["cell"], []).append(row)
    for name, rows in grouped.items():
        about = {field: rows[0][field] for field in ("suite", "env", "regime", "method", "trial")}
        about |= {"agents": rows[0]["n_agents"], "settings": json.loads(rows[0]["settings"])}
        if store.settings_hash(about) != name:
            raise InputError(f"{str(path)!r} is damaged: cell {name} does not hold what its id says")
    return list(grouped.values())


def today(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the settings that a method told about itself to the form that they have today."""
    found = {name: today(value) if name == "simulator" else value for name, value in settings.items()}
    for part in _GONE.keys() & found.keys():
        found[part] = {name: value for name, value in found[part].items() if name not in _GONE[part]}
    return found


def convert(rows: list[Row]) -> Iterator[FinishedCell]:
    """Convert one cell; a cell of suite ``unseen`` that measured two things becomes two."""
    first, settings = rows[0], json.loads(rows[0]["settings"])
    spec = get(first["env"])
    if first["suite"] == "rank_cv":
        yield _finished(rows, "persim", _trial_settings(spec, settings), _trial_measure(spec, settings, first["trial"]))
        return
    unseen, method = settings.get("unseen", ()), today(settings["method"])
    played = [row for row in rows if row["metric"] in _REWARD_METRICS]
    predicted = [row for row in rows if row["metric"] not in _REWARD_METRICS]
    if played:
        plans = make_method(first["method"], spec).plans
        episodes = settings["budget"]["episodes" if plans else "policy_episodes"]
        yield _finished(played, first["method"], method, rewards(episodes, unseen=unseen))
    if predicted:
        if played:
            predicted = [{**row, "measure_seconds": None, "decision_seconds": None} for row in predicted]
        known = {name: value for name, value in method.items() if name != "planning"}
        if "acting" in known:  # CaDM, whose predictions depend on its particles alone
            known["acting"] = {name: known["acting"][name] for name in ("particles", "mixed_members")}
        yield _finished(predicted, first["method"], known, predictions(spec, unseen))


def _trial_settings(spec: EnvSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give PerSim's settings in a trial of a rank, which trained one member."""
    made = make_method("persim", spec, Options(rank=settings["rank"]))
    assert isinstance(made, PerSim)
    training = replace(made.settings.train, **{name: settings[name] for name in _TRAINING if name in settings})
    chosen = replace(made.settings, size=EnsembleSettings(1, 1), train=training)
    return today(plain(PerSim(chosen).predicts_with()))


def _trial_measure(spec: EnvSpec, settings: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Give the measurement of a trial; its test episodes were drawn from a stream of the sweep's own."""
    return holdouts(settings["holdout"], number, {**predictions(spec), "stream": STREAM})


def _finished(rows: list[Row], method: str, settings: Mapping[str, Any], measure: Mapping[str, Any]) -> FinishedCell:
    first = rows[0]
    seconds = {name: first[f"{name}_seconds"] for name in ("train", "measure", "decision")}
    return FinishedCell(
        Cell(first["env"], first["regime"], first["n_agents"], method, first["seed"], plain(settings), plain(measure)),
        [{name: row[name] for name in ("metric", "agent", "value")} for row in rows],
        curves={},
        commit=first["commit"],
        seconds={name: value for name, value in seconds.items() if value is not None},
        started=first["ended"],
        ended=first["ended"],
        labels={first["suite"]: first["budget"] or ""},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a folder; returns the exit status."""
    parser = console.Parser(prog="convert_0_1.py", description=__doc__)
    parser.add_argument("old", type=Path, help="folder with the rows of version 0.1")
    parser.add_argument("new", type=Path, help="folder for the rows of version 2; has none yet")
    args = parser.parse_args(argv)
    if any(args.new.glob("rows-*.parquet")):
        raise InputError(f"new {str(args.new)!r} has rows already; give another folder")
    found: row_files.Cells = {}
    for path in sorted(args.old.glob("rows-*.parquet")):
        for done in (done for rows in read(path) for done in convert(rows)):
            found = row_files.merge(found, {done.cell.id: done}, f"(in {str(args.old)!r})")
    if not found:
        raise InputError(f"old {str(args.old)!r} has no rows-*.parquet; give the folder of the report")
    for kind in row_files.KINDS:
        own = [done for done in found.values() if done.cell.what == kind]
        if own:
            store.write_atomic(row_files.rows_path(args.new, kind), row_files.encode(own))
            print(f"{row_files.rows_path(args.new, kind)}: {len(own)} cells")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
