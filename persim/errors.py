"""Errors that a user can correct: one line that says what came, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 30  # allowed names in a message at most


class InputError(ValueError):
    """Raised for unusable input; the message is a single line for the user."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the closest allowed name, or an empty string."""
    lower = {one.lower(): one for one in allowed}
    close = difflib.get_close_matches(name.lower(), list(lower), n=1)
    return f" (did you mean {lower[close[0]]!r}?)" if close else ""


def check_choice(field: str, value: str, allowed: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``allowed``.

    Raises:
        InputError: it is not one of them; the message suggests the closest.
    """
    names = list(allowed)
    if value not in names:
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        shown = ", ".join(names[:SHOWN]) + more
        raise InputError(f"{field} {value!r} is unknown{nearest(value, names)}; use one of: {shown}")
    return value


def check_at_least(field: str, value: int, low: int, advice: str = "") -> int:
    """Returns ``value`` if it is a whole number of at least ``low``.

    Raises:
        InputError: it is not; the message ends with ``advice``.
    """
    if isinstance(value, bool) or int(value) != value or value < low:
        hint = f" ({advice})" if advice else ""
        raise InputError(f"{field} is {value}; give a whole number of at least {low}{hint}")
    return int(value)


def check_between(field: str, value: float, low: float, high: float, *, closed: bool = False) -> float:
    """Returns ``value`` if it lies strictly between ``low`` and ``high``; where ``closed``, it may be ``low``, too.

    Raises:
        InputError: it lies outside, or is NaN.
    """
    if not (low < value < high or (closed and value == low)):
        wanted = f"of at least {low} and below {high}" if closed else f"strictly between {low} and {high}"
        raise InputError(f"{field} is {value}; give a number {wanted}")
    return float(value)
