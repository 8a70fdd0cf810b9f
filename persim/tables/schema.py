"""Say what the columns of a table are: agent, time, state, action, known input, static covariate, reward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from persim.errors import InputError, check_at_least, check_choice, nearest

CALENDAR = {"M": 30.436875 * 86400, "Q": 91.310625 * 86400, "Y": 365.2425 * 86400}  # mean lengths in seconds
_ALIASES = {"MS": "M", "ME": "M", "QS": "Q", "QE": "Q", "YS": "Y", "YE": "Y"} | {key: key for key in CALENDAR}
_LISTS = ("state", "action", "known", "static", "labels")

Span = float | str  # a length of time: a number in the unit of a number column, or an offset such as "15min"


@dataclass(frozen=True)
class Schema:
    """The roles of a table's columns, and what of the past a model sees.

    Attributes:
        agent: the column that names the patient, machine or building.
        time: the column of times: numbers in any unit, or timestamps (ISO 8601, such as ``2026-03-01 14:15``).
        state: columns that the simulator predicts; at least one.
        action: columns that a planner chooses; may be empty.
        known: inputs that are known ahead, such as meals, weather or the calendar.
        static: columns with one value per agent.
        reward: a column with a recorded reward, or None.
        trajectory: a column that tells several trajectories of one agent apart, or None.
        every: the step of the grid that rows are put on: a number in the unit of ``time``, or for timestamps an
            offset such as ``"15min"``, ``"1h"``, ``"1D"`` or a calendar step ``"MS"``, ``"QS"`` or ``"YS"`` (month,
            quarter, year). None takes the most common difference of consecutive times.
        lags: how many values of each state column the model sees: the present one and ``lags - 1`` before it.
        memory: time constants of exponential memories of state, action or known columns, in the form of ``every``.
        discrete: whether the one action column holds categories, such as whole numbers or words.
        labels: the categories in the order of their codes; empty takes those of the data, sorted.
        fill: what a missing value of an input column means, such as ``{"carbs": 0}`` where only meals are recorded.

    Raises:
        InputError: a column has two roles, no column is a state, or a value is not usable.
    """

    agent: str
    time: str
    state: tuple[str, ...]
    action: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    reward: str | None = None
    trajectory: str | None = None
    every: Span | None = None
    lags: int = 1
    memory: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    discrete: bool = False
    labels: tuple[str, ...] = ()
    fill: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _LISTS:
            object.__setattr__(self, name, tuple(_text(name, one) for one in _several(name, getattr(self, name))))
        for name in ("memory", "fill"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"schema: {name} is {getattr(self, name)!r}; give a mapping of columns, such as {{}}")
        spans = {column: _several(f"memory of {column!r}", given) for column, given in self.memory.items()}
        object.__setattr__(self, "memory", spans)
        object.__setattr__(self, "fill", dict(self.fill))
        self._check_columns()
        self._check_values()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that act on the state: actions, then known inputs."""
        return self.action + self.known

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that hold numbers, but for time: states, continuous actions, known inputs, statics, reward."""
        actions = () if self.discrete else self.action
        return self.state + actions + self.known + self.static + ((self.reward,) if self.reward else ())

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that have a role."""
        return tuple(column for _, column in self.roles())

    def roles(self) -> Iterator[tuple[str, str]]:
        """Give each column with its role, as ``(role, column)``."""
        for role in ("agent", "trajectory", "time", "state", "action", "known", "static", "reward"):
            given = getattr(self, role)
            for column in given if isinstance(given, tuple) else (given,):
                if column is not None:
                    yield role, column

    def save(self, path: str | Path) -> None:
        """Write the schema as YAML, without what is at its default.

        Raises:
            InputError: the file cannot be written.
        """
        import yaml

        given = {one.name: getattr(self, one.name) for one in fields(self)}
        defaults: dict[str, object] = {
            one.name: one.default if one.default_factory is MISSING else one.default_factory() for one in fields(self)
        }
        plain = {name: _plain(value) for name, value in given.items() if value != defaults[name]}
        try:
            Path(path).write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
        except OSError as error:
            raise InputError(f"schema {str(path)!r} cannot be written ({error.strerror})") from error

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a schema from YAML.

        Raises:
            InputError: the file cannot be read, is no mapping, lacks a key or has an unknown one, or the schema is
                not usable.
        """
        import yaml

        try:
            given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # a date that is none is a ValueError
            raise InputError(f"schema {str(path)!r} cannot be read ({' '.join(str(error).split())})") from error
        if not isinstance(given, dict):
            raise InputError(f"schema {str(path)!r} is no YAML mapping; give lines such as 'agent: patient'")
        return cls.of_mapping(given, f"schema {str(path)!r}")

    @classmethod
    def of_mapping(cls, given: Mapping[str, Any], what: str = "schema") -> Schema:
        """Make a schema of a mapping, as YAML or JSON has it; ``what`` stands in messages.

        Raises:
            InputError: a key is unknown or lacking, or the schema is not usable.
        """
        for key in given:
            check_choice(f"{what}: key", str(key), [one.name for one in fields(cls)])
        for key in ("agent", "time", "state"):
            if not given.get(key):
                raise InputError(f"{what} has no {key!r}; name the column{'s' * (key == 'state')} of the {key}")
        return cls(**{key: value for key, value in given.items() if value is not None})

    def to_mapping(self) -> dict[str, Any]:
        """Give the schema as plain lists, mappings and values, for YAML or JSON; ``of_mapping`` reads it."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    def _check_columns(self) -> None:
        seen: dict[str, str] = {}
        for role, column in self.roles():
            if not isinstance(column, str) or not column:
                raise InputError(f"schema: {role} is {column!r}; give the name of a column")
            if column in seen:
                same = f"twice as {role}" if seen[column] == role else f"as {seen[column]} and as {role}"
                raise InputError(f"schema: column {column!r} is named {same}; give each column one role")
            seen[column] = role
        if not self.state:
            raise InputError("schema: state names no column; give at least one that the simulator shall predict")
        remembered = self.state + (self.known if self.discrete else self.inputs)
        filled = self.known if self.discrete else self.inputs
        for name, given, allowed in (("memory", self.memory, remembered), ("fill", self.fill, filled)):
            for column in given:
                if column not in allowed:
                    hint = f"{nearest(str(column), allowed)}; use one of: {', '.join(allowed) or 'none'}"
                    raise InputError(f"schema: {name} of {column!r}, which is no column that can have it{hint}")

    def _check_values(self) -> None:
        if not isinstance(self.lags, int):
            raise InputError(f"schema: lags is {self.lags!r}; give a whole number of at least 1")
        if not isinstance(self.discrete, bool):
            raise InputError(f"schema: discrete is {self.discrete!r}; give true or false")
        check_at_least("schema: lags", self.lags, 1)
        spans = [self.every] if self.every is not None else []
        spans += [span for given in self.memory.values() for span in given]
        for span in spans:
            seconds(span)
        for column, value in self.fill.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"schema: fill of {column!r} is {value!r}; give a finite number")
        if self.discrete and len(self.action) != 1:
            raise InputError(f"schema: discrete needs exactly one action column, not {len(self.action)}")
        if self.labels and not self.discrete:
            raise InputError("schema: labels are of discrete actions; say discrete=True, or leave them out")


def calendar(span: Span) -> str | None:
    """Return ``"M"``, ``"Q"`` or ``"Y"`` where the span is a month, a quarter or a year; else None."""
    return _ALIASES.get(span.removeprefix("1")) if isinstance(span, str) else None


def seconds(span: Span) -> float:
    """Return a span as a number: offsets in seconds (the mean length of calendar steps), numbers as they are.

    Raises:
        InputError: the span is no positive length of time.
    """
    wanted = 'give a positive number, or for timestamps an offset such as "15min", "1h", "1D" or "MS"'
    if step := calendar(span):
        return CALENDAR[step]
    value = math.nan
    if isinstance(span, str):
        import pandas as pd

        try:
            value = pd.Timedelta(span if span[:1].isdigit() else f"1{span}").total_seconds()
        except ValueError as error:
            raise InputError(f"schema: {span!r} is no length of time; {wanted}") from error
    elif isinstance(span, int | float) and not isinstance(span, bool):
        value = float(span)
    if not 0 < value < math.inf:
        raise InputError(f"schema: {span!r} is no length of time; {wanted}")
    return value


def _several(name: str, given: object) -> tuple[Any, ...]:
    """Return a list, or the one value that stands for it, as a tuple."""
    if given is None:
        return ()
    if isinstance(given, str | int | float):
        return (given,)
    if not isinstance(given, Sequence):
        raise InputError(f"schema: {name} is {given!r}; give a list")
    return tuple(given)


def _text(name: str, given: object) -> str:
    if isinstance(given, bool):  # YAML takes on, off, yes and no for these
        raise InputError(f"schema: {name} has {given}; put quotes around on, off, yes and no")
    return str(given)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return list(value) if isinstance(value, tuple) else value
