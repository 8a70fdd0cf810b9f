"""Errors that a user can correct: one line that says what came, what is allowed and what to do."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Iterable
from numbers import Real

MOST = 10**9  # of anything that is counted, unless its own limit is lower
LARGEST_SEED = 2**63 - 1
_NAME = re.compile(r"\w[\w.:-]*")
_NAME_BYTES = 200

SHOWN = 30  # allowed names in a message at most


class InputError(ValueError):
    """Raised for unusable input; the message is a single line for the user."""


def without_password(text: str) -> str:
    """Blot out the passwords in the URIs of a text, before the host and among the parameters."""
    text = re.sub(r"(//[^/\s:@]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"([?&;](?:password|passwd|pwd|token|secret)=)[^&;\s'\"]+", r"\1***", text, flags=re.IGNORECASE)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the closest allowed name, or an empty string."""
    lower = {one.lower(): one for one in allowed}
    close = difflib.get_close_matches(str(name).lower()[:100], list(lower), n=1)
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


def check_name(field: str, value: object) -> str:
    """Returns ``value`` if it is a name: names become parts of paths, of plots and of pages.

    Raises:
        InputError: it is no text, is too long, or holds anything but letters, digits and ``_ . : -``.
    """
    if isinstance(value, str) and _NAME.fullmatch(value) and len(value.encode()) <= _NAME_BYTES:
        return value
    raise InputError(f"{field} {value!r} is no name; give at most {_NAME_BYTES} letters, digits and _ . : -")


def check_at_least(field: str, value: float, low: int, advice: str = "", *, most: int = MOST) -> int:
    """Returns ``value`` if it is a whole number of at least ``low`` and at most ``most``.

    Raises:
        InputError: it is not; the message ends with ``advice``.
    """
    whole = isinstance(value, int) or (isinstance(value, Real) and math.isfinite(value) and int(value) == value)
    if isinstance(value, bool) or not whole or value < low:
        hint = f" ({advice})" if advice else ""
        raise InputError(f"{field} is {value}; give a whole number of at least {low}{hint}")
    if value > most:
        raise InputError(f"{field} is {value}; give a whole number of at most {most}")
    return int(value)


def check_seed(value: int) -> int:
    """Returns ``value`` if it can be a seed.

    Raises:
        InputError: it is not a whole number from 0 to 2^63 - 1.
    """
    return check_at_least("seed", value, 0, most=LARGEST_SEED)


def check_between(field: str, value: float, low: float, high: float, *, closed: bool = False) -> float:
    """Returns ``value`` if it lies strictly between ``low`` and ``high``; where ``closed``, it may be ``low``, too.

    Raises:
        InputError: it lies outside, or is NaN.
    """
    number = isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not number or not (low < value < high or (closed and value == low)):
        wanted = f"of at least {low} and below {high}" if closed else f"strictly between {low} and {high}"
        raise InputError(f"{field} is {value}; give a number {wanted}")
    return float(value)
