"""What a file holds, whoever wrote it: parsed without surprises, and checked against the type that it is read as.

A checksum says that a file is as it was written, not that what was written makes sense.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from persim.errors import LARGEST_SEED, InputError

T = TypeVar("T")
_WRONG = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)


def parse_json(data: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none, holds NaN or infinity, which are not JSON, or is nested too deeply.
    """
    try:
        return json.loads(data, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which is not JSON")


@contextmanager
def contents_of(path: Path | str) -> Iterator[None]:
    """Read what a file holds in the ``with`` block: whatever goes wrong there is the file's fault.

    Raises:
        InputError: something went wrong; the message names the file.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{str(path)!r} does not hold what its kind does: {error}") from error
    except _WRONG as error:
        why = f"{type(error).__name__}: {error}"
        raise InputError(f"{str(path)!r} does not hold what its kind does ({why}); delete it, or restore it") from error


def build(kind: type[T], given: object) -> T:
    """Make a dataclass of a mapping as JSON has it; every value has to be of the type of its field.

    Raises:
        InputError: a field is missing, unknown or of another type.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"{kind.__name__} is {type(given).__name__}; give an object with its fields")
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]  # a dataclass
    for name in given:
        if name not in known:
            raise InputError(f"{kind.__name__} has no field {name!r}; leave it out")
    needed = (name for name, field in known.items() if field.default is field.default_factory is MISSING)
    for name in needed:
        if name not in given:
            raise InputError(f"{kind.__name__} lacks {name!r}; give it")
    hints = _hints(kind)  # type: ignore[arg-type]  # types are hashable
    return kind(**{name: _checked(f"{kind.__name__}.{name}", hints[name], value) for name, value in given.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _checked(field: str, kind: Any, value: object) -> Any:
    """The value as a field of this type has it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _of_union(field, inner, value)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        fixed = origin is tuple and Ellipsis not in inner and len(inner) == len(value)
        kinds = inner if fixed else inner[:1] * len(value)
        return origin(_checked(field, each, item) for each, item in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _checked(f"{field}.{name}", inner[1], item) for name, item in value.items()}
    if is_dataclass(kind):
        return build(kind, value)  # type: ignore[arg-type]  # a type
    if origin is None and _is(kind, value):
        return float(value) if kind is float else value  # type: ignore[arg-type]  # a number
    raise InputError(f"{field} is {str(value)[:40]!r}; give {getattr(kind, '__name__', kind)}")


def _of_union(field: str, kinds: Sequence[Any], value: object) -> Any:
    for kind in kinds:
        try:
            return _checked(field, kind, value)
        except InputError as error:
            failure = error
    raise failure


def _is(kind: Any, value: object) -> bool:
    """Whether a value is of a plain type; numbers are finite, and whole ones fit into 64 bits."""
    if kind is Any or kind is NoneType:
        return kind is Any or value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_SEED
    return isinstance(value, kind)
