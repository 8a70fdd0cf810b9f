"""What ``tune.py`` may vary: a space file in YAML, checked, and given values in it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from persim.envs import EnvSpec
from persim.errors import InputError, check_at_least, check_between, check_choice
from persim.learning.presets import EPOCHS
from persim.planning.registry import PLANNERS, default_planner, planner_settings
from persim.storage.store import canonical_json

Values = dict[str, Any]


@dataclass(frozen=True)
class Fixed:
    """One value: nothing to tune."""

    value: Any

    def contains(self, value: Any) -> bool:
        """Whether the value is this one."""
        return bool(value == self.value)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def contains(self, value: Any) -> bool:
        """Whether the value is among them."""
        return value in self.values


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Attributes:
        low: the smallest.
        high: the largest.
        log: even in the logarithm.
        step: distance between neighbours, from ``low`` on; None for every (whole) number.
        whole: whole numbers only.

    Raises:
        InputError: low is not below high, a logarithm of 0, a step that does not lead from low to high.
    """

    low: float
    high: float
    log: bool
    step: float | None
    whole: bool

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"low is {self.low} and high {self.high}; give a low below high")
        if self.log and self.low <= 0:
            raise InputError(f"low is {self.low}, which has no logarithm; give a positive low, or leave log out")
        if self.step is None:
            return
        if self.log:
            raise InputError("step and log cannot be had together; leave one of them out")
        if not self.step > 0:
            raise InputError(f"step is {self.step}; give a positive one")
        steps = (self.high - self.low) / self.step
        if not math.isclose(steps, round(steps), rel_tol=1e-9):
            raise InputError(f"steps of {self.step} do not lead from {self.low} to {self.high}; change one of them")

    def contains(self, value: Any) -> bool:
        """Whether a value lies on it."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or 1)
        return (self.step is None and not self.whole) or math.isclose(steps, round(steps), abs_tol=1e-9)


Domain = Fixed | Choice | Range


def _number(name: str, given: object) -> float:
    """A number; YAML reads ``1e-4``, without a point, as text."""
    if isinstance(given, str):
        try:
            given = float(given)
        except ValueError as error:
            raise InputError(f"{name} is {given!r}, but it has to be a number") from error
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise InputError(f"{name} is {given!r}, but it has to be a number")
    return given


def _count(name: str, given: object) -> int:
    return check_at_least(name, _number(name, given), 1)  # type: ignore[arg-type]  # it refuses fractions


def _rate(name: str, given: object) -> float:
    return check_between(name, _number(name, given), 0, 1)


def _widths(name: str, given: object) -> list[int]:
    """Hidden layers; a number is the width of a single one."""
    return [_count(name, width) for width in (given if isinstance(given, list) else [given])]


def _switch(name: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise InputError(f"{name} is {given!r}, but it has to be true or false")
    return given


def _planner(name: str, given: object) -> str:
    return check_choice(name, str(given), PLANNERS)


# Everything that can be tuned, with what checks one value of it.
TRAINING: dict[str, Callable[[str, object], Any]] = {
    "learning_rate": _rate,
    "batch_size": _count,
    "rank": _count,
    "state_widths": _widths,
    "action_widths": _widths,
    "normalised": _switch,
    "epochs": _count,
}
PLANNING: dict[str, Callable[[str, object], Any]] = {
    "planner": _planner,
    "plans": _count,
    "horizon": _count,
    "elites": _count,
    "iterations": _count,
}
_CHECKS = TRAINING | PLANNING
_RANGE_KEYS = ("low", "high", "log", "step", "int")


def _range(name: str, given: Mapping[str, object]) -> Range:
    for key in given:
        check_choice(f"{name}: key", str(key), _RANGE_KEYS)
    check = _CHECKS[name]
    if check not in (_count, _rate):
        raise InputError(f"{name} cannot have a range; give a list of values")
    if not {"low", "high"} <= set(given):
        raise InputError(f"{name}: a range needs low and high, such as {{low: 1, high: 8}}")
    whole = check is _count
    if _switch(f"{name}: int", given.get("int", whole)) != whole:
        raise InputError(f"{name} takes {'whole numbers' if whole else 'fractions'}; leave int out")
    low, high = (check(f"{name}: {key}", given[key]) for key in ("low", "high"))
    step = None if "step" not in given else _number(f"{name}: step", given["step"])
    if step is not None and whole:
        step = _count(f"{name}: step", step)
    try:
        return Range(low, high, _switch(f"{name}: log", given.get("log", False)), step, whole)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _domain(name: str, given: object) -> Domain:
    check_choice("space key", name, _CHECKS)
    if isinstance(given, Mapping):
        return _range(name, given)
    if not isinstance(given, list):
        return Fixed(_CHECKS[name](name, given))
    values = tuple(_CHECKS[name](name, value) for value in given)
    if not values:
        raise InputError(f"{name} is an empty list; give at least one value")
    labels = {canonical_json(value) for value in values}
    if len(labels) < len(values):
        raise InputError(f"{name} names a value twice; give each once")
    return Fixed(values[0]) if len(values) == 1 else Choice(values)


@dataclass(frozen=True)
class Space:
    """The domain of each setting that the file names; the others are the environment's own."""

    domains: Mapping[str, Domain] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Space:
        """From what the file says.

        Raises:
            InputError: an unknown key, or a value out of range.
        """
        return cls({str(name): _domain(str(name), domain) for name, domain in given.items()})

    @classmethod
    def read(cls, path: Path) -> Space:
        """From a YAML file.

        Raises:
            InputError: it cannot be read, is no mapping, or has an unusable entry.
        """
        try:
            return cls.of(_read_yaml(path))
        except InputError as error:
            raise InputError(f"space {str(path)!r}: {error}") from error

    @property
    def tuned(self) -> dict[str, Choice | Range]:
        """Settings with more than one value."""
        return {name: domain for name, domain in self.domains.items() if not isinstance(domain, Fixed)}

    def largest(self, name: str) -> Any:
        """The largest value of a numeric setting."""
        domain = self.domains[name]
        if isinstance(domain, Range):
            return domain.high
        return max(domain.values) if isinstance(domain, Choice) else domain.value

    def without(self, names: Mapping[str, object]) -> Space:
        """The same space, less these settings."""
        return Space({name: domain for name, domain in self.domains.items() if name not in names})

    def decode(self, point: Mapping[str, Any]) -> Values:
        """Values of all settings from what Optuna suggests for the tuned ones."""
        values = {name: domain.value for name, domain in self.domains.items() if isinstance(domain, Fixed)}
        for name, domain in self.tuned.items():
            values[name] = json.loads(point[name]) if isinstance(domain, Choice) else point[name]
        return values

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """What ``decode`` takes; None if the values lie outside the space."""
        if any(name not in values or not domain.contains(values[name]) for name, domain in self.domains.items()):
            return None
        return {
            name: canonical_json(values[name]) if isinstance(domain, Choice) else values[name]
            for name, domain in self.tuned.items()
        }

    def as_json(self) -> dict[str, Any]:
        """For records and hashes."""
        return {name: json.loads(canonical_json(asdict(domain))) for name, domain in self.domains.items()}


def _read_yaml(path: Path) -> Mapping[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        given = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({getattr(error, 'strerror', 'no text')}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(given, Mapping) or not given:
        raise InputError("has no settings; see --print-space for one that has")
    keys = [str(key.value) for key, _ in root.value]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"{key} is there twice; give it once")
    return given


def default_space(spec: EnvSpec, *, planning: bool) -> dict[str, Any]:
    """The space that is searched if none is given, as a file would say it."""
    space: dict[str, Any] = {
        "learning_rate": {"low": 3e-4, "high": 1e-2, "log": True},
        "batch_size": [64, 128, 256, 512],
        "rank": {"low": 2, "high": 30, "log": True},
        "state_widths": [[64], [256], [256, 256]],
        "normalised": [False, True],
        "epochs": [EPOCHS // 2, EPOCHS],
    }
    if not spec.discrete:
        space |= {"state_widths": [[256], [256] * 2, [256] * 4], "action_widths": [[64], [256], [256] * 2]}
    if planning:
        own, other = default_planner(spec.action_space), "cem" if spec.discrete else "mppi"
        farthest = max(100, planner_settings(own, spec.name).horizon)
        space |= {
            "planner": [own, other],
            "plans": {"low": 50, "high": 1000, "log": True},
            "horizon": {"low": 10, "high": farthest, "step": 10},
            "elites": {"low": 5, "high": 50},
            "iterations": {"low": 2, "high": 5},
        }
    return space


def as_yaml(space: Mapping[str, object]) -> str:
    """A space as a file that ``--space`` takes."""
    return "".join(f"{key}: {json.dumps(value).replace(chr(34), '')}\n" for key, value in space.items())
