"""Read a file or frame with one row per agent and time, and check every value."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persim.errors import InputError, nearest
from persim.tables.schema import Schema

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_GONE = ("", "na", "n/a", "nan", "null", "none", "<na>", "nat")  # texts that mean a missing number, in lower case


@dataclass(frozen=True)
class Rows:
    """The columns of a source before they are on a grid; T rows as they came.

    Attributes:
        source: the name of the file, or ``"table"``.
        agents: the agents' ids ``[T]``.
        trajectories: the trajectories' ids ``[T]``, empty texts where there is no such column.
        time: ``[T]``, in seconds since 1970 for timestamps.
        stamps: whether the times are timestamps.
        values: columns of numbers ``[T]`` with NaN where missing; a discrete action has its code.
    """

    source: str
    agents: NDArray[np.object_]
    trajectories: NDArray[np.object_]
    time: Array
    stamps: bool
    values: dict[str, Array]

    def error(self, row: int, column: str, what: str) -> InputError:
        """Make the message about one value; ``row`` counts from 0."""
        return _error(self.source, self.agents, row, column, what)


def load_frame(source: Any, roles: Collection[tuple[str, str]]) -> tuple[pd.DataFrame, str]:
    """Return the frame of a path (CSV, TSV, Parquet), a pandas frame or anything with ``to_pandas``, and its name.

    Columns of text files are left as text, so that ids such as ``007`` stay what they are.

    Raises:
        InputError: the file is not there or holds no such table, or a column of ``roles`` is not there.
    """
    import pandas as pd

    name = "table"
    if isinstance(source, str | Path):
        name = Path(source).name
        frame = _read_file(Path(source), name)
    else:
        frame = source.to_pandas() if hasattr(source, "to_pandas") else source
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"table is a {type(source).__name__}; give a path, or a pandas frame")
    if {column for _, column in roles} & {*frame.index.names} - {*frame.columns}:
        frame = frame.reset_index()
    frame = frame.set_axis(frame.columns.map(str), axis=1)
    for role, column in roles:
        _check_there(frame, name, role, column)
    if not len(frame):
        raise InputError(f"{name} has no rows; give at least a few for each agent")
    return frame.reset_index(drop=True), name


def _check_there(frame: pd.DataFrame, name: str, role: str, column: str) -> None:
    found = int((frame.columns == column).sum())
    if found == 0:
        have = f"{nearest(column, frame.columns)}; it has: {', '.join(frame.columns)}"
        raise InputError(f"{name} has no column {column!r} ({role} in the schema){have}")
    if found > 1:
        raise InputError(f"{name} has {found} columns named {column!r}; rename all but one")


def _read_file(path: Path, name: str) -> pd.DataFrame:
    import pandas as pd

    if not name.lower().endswith(SUFFIXES):
        raise InputError(f"{str(path)!r} is no table that can be read; give a file that ends in {', '.join(SUFFIXES)}")
    try:
        if name.lower().endswith(".parquet"):
            return pd.DataFrame(pd.read_parquet(path))
        text: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
        sep = "\t" if ".tsv" in name.lower() else ","
        head = pd.read_csv(path, sep=sep, nrows=0, **text).columns
        if len(head) == 1 and ";" in head[0]:
            sep = ";"
        frame: pd.DataFrame = pd.read_csv(path, sep=sep, skipinitialspace=True, index_col=False, **text)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {str(path)!r}") from error
    except (OSError, ValueError, ImportError) as error:  # pandas' and pyarrow's own are ValueErrors
        why = " ".join(str(error).split())
        raise InputError(f"{str(path)!r} cannot be read as a table ({why})") from error
    return pd.DataFrame(frame.fillna(""))


def read_rows(source: Any, schema: Schema) -> tuple[Rows, Schema]:
    """Check and convert the columns of a source; the schema that returns has labels of its discrete action.

    Raises:
        InputError: as ``load_frame``; an id or time is missing, or a value is no finite number.
    """
    frame, name = load_frame(source, [*schema.roles()])
    agents = _agents(frame[schema.agent], name)
    trajectories = np.full(len(frame), "", dtype=object)
    if schema.trajectory is not None:
        trajectories = _ids(frame[schema.trajectory])
        for row in np.flatnonzero(trajectories == "")[:1]:
            raise _error(name, agents, row, schema.trajectory, "the trajectory is missing; give its id")
    time, stamps = _times(frame[schema.time], schema, name, agents)
    values = {column: _numbers(frame[column], name, agents) for column in schema.numbers}
    if schema.discrete:
        (column,) = schema.action
        values[column], labels = _codes(frame[column], schema.labels, name, agents)
        schema = replace(schema, labels=labels)
    return Rows(name, agents, trajectories, time, stamps, values), schema


def read_static(source: Any, schema: Schema) -> tuple[tuple[str, ...], Array]:
    """Read the ids of N agents and their static columns ``[N, G]``, for agents of whom nothing else is known.

    Raises:
        InputError: the source is not usable, or an agent has two rows.
    """
    roles = [(role, column) for role, column in schema.roles() if role in ("agent", "static")]
    frame, name = load_frame(source, roles)
    agents = _agents(frame[schema.agent], name)
    for row in np.flatnonzero(frame[schema.agent].duplicated())[:1]:
        raise _error(name, agents, row, schema.agent, "the agent has another row; give one for each agent")
    columns = [_numbers(frame[column], name, agents) for column in schema.static]
    return tuple(agents), np.stack(columns, 1) if columns else np.empty((len(agents), 0))


def _agents(column: pd.Series[Any], source: str) -> NDArray[np.object_]:
    agents = _ids(column)
    for row in np.flatnonzero(agents == "")[:1]:
        raise InputError(f"{source}: data row {row + 1}, column {column.name!r}: the agent is missing; give its id")
    return agents


def _error(source: str, agents: NDArray[np.object_], row: int, column: str, what: str) -> InputError:
    return InputError(f"{source}: agent {agents[row]!r}, data row {row + 1}, column {column!r}: {what}")


def _ids(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Return ids as texts ``[T]``, empty where missing; whole floats lose their ``.0``."""
    import pandas as pd

    gone = column.isna().to_numpy()
    if pd.api.types.is_float_dtype(column.dtype) and (column.dropna() % 1 == 0).all():
        column = column.fillna(0).astype("int64")
    ids = column.astype(str).str.strip().to_numpy(dtype=object)
    ids[gone] = ""
    return np.asarray(ids)


def _parsed(column: pd.Series[Any]) -> tuple[Array, NDArray[np.bool_]]:
    """Return numbers ``[T]``, NaN where there is none, and whether there is anything ``[T]``."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column.dtype):  # booleans, too
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return values, ~np.isnan(values)
    text = column.astype(str).str.strip().str.lower()
    given = ~(column.isna() | text.isin(_GONE)).to_numpy(dtype=bool)
    text = text.where(given, "nan").replace({"true": "1", "false": "0"})
    return pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan), given


def _numbers(column: pd.Series[Any], source: str, agents: NDArray[np.object_]) -> Array:
    values, given = _parsed(column)
    name = str(column.name)
    for row in np.flatnonzero(given & np.isnan(values))[:1]:
        hint = "write numbers with a point" if "," in str(column[row]) else "leave it empty where it is unknown"
        raise _error(source, agents, row, name, f"{str(column[row])!r} is no number; {hint}")
    for row in np.flatnonzero(np.isinf(values))[:1]:
        raise _error(source, agents, row, name, "the value is infinite; leave it empty where it is unknown")
    return values


def _codes(
    column: pd.Series[Any], labels: tuple[str, ...], source: str, agents: NDArray[np.object_]
) -> tuple[Array, tuple[str, ...]]:
    """Return the codes ``[T]`` of categories, NaN where missing, and their labels in order (numbers by size)."""
    ids = _ids(column)
    found = {str(one) for one in ids if str(one).lower() not in _GONE}
    if not labels:
        plain = all(one.lstrip("-").isdigit() for one in found)
        labels = tuple(sorted(found, key=int) if plain else sorted(found))
    code = {label: float(number) for number, label in enumerate(labels)}
    for row in np.flatnonzero(np.isin(ids, sorted(found - code.keys())))[:1]:
        hint = f"{nearest(ids[row], labels)}; the labels are: {', '.join(labels)}"
        raise _error(source, agents, row, str(column.name), f"{ids[row]!r} is no label{hint}")
    return np.array([code.get(one, np.nan) for one in ids]), labels


def _times(column: pd.Series[Any], schema: Schema, source: str, agents: NDArray[np.object_]) -> tuple[Array, bool]:
    """Return times ``[T]``, timestamps as seconds since 1970 in UTC, and whether they are timestamps."""
    import pandas as pd

    dates = column.dtype.kind == "M" if hasattr(column.dtype, "kind") else False
    values, given = _parsed(column) if not dates else (np.full(len(column), np.nan), ~column.isna().to_numpy())
    stamps = bool(dates or (given.any() and np.isfinite(values[given]).mean() < 0.5))
    if stamps:
        moments = pd.to_datetime(column.astype(str), format="ISO8601", utc=True, errors="coerce")
        since = (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta("1s")
        values = since.to_numpy(dtype=np.float64, na_value=np.nan)
    for row in np.flatnonzero(~np.isfinite(values))[:1]:
        if not given[row]:
            raise _error(source, agents, row, schema.time, "the time is missing; give one for every row")
        wanted = "a timestamp such as 2026-03-01 14:15, or a number"
        raise _error(source, agents, row, schema.time, f"{str(column[row])!r} is no time; give {wanted}")
    spans = [span for given in schema.memory.values() for span in given]
    for name, span in [("every", schema.every)] * (schema.every is not None) + [("memory", span) for span in spans]:
        if isinstance(span, str) != stamps:
            kind, wanted = (
                ("timestamps", 'an offset such as "15min"') if stamps else ("numbers", "a number in its unit")
            )
            raise InputError(f"schema: {name} is {span!r}, but {schema.time!r} holds {kind}; give {wanted}")
    return np.asarray(values), stamps
