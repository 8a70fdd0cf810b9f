"""Define what ``tune.py`` may vary: a space file in YAML, checked, as distributions of Optuna."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from optuna import distributions
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from persim.envs import EnvSpec
from persim.errors import InputError, check_at_least, check_between, check_choice
from persim.learning.presets import EPOCHS
from persim.planning.registry import PLANNERS, default_planner, planner_settings
from persim.storage.store import canonical_json

Values = dict[str, Any]  # of the settings by name, as JSON has them


def _number(name: str, given: object) -> float:
    """Check a number; YAML reads ``1e-4``, without a point, as text."""
    if isinstance(given, str):
        try:
            given = float(given)
        except ValueError as error:
            raise InputError(f"{name} is {given!r}, but it has to be a number") from error
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= sys.float_info.max:
        raise InputError(f"{name} is {given!r}, but it has to be a number")
    return given


def _count(name: str, given: object) -> int:
    return check_at_least(name, _number(name, given), 1)


def _rate(name: str, given: object) -> float:
    return check_between(name, _number(name, given), 0, 1)


def _widths(name: str, given: object) -> list[int]:
    """Check the widths of hidden layers; a number is the width of a single one."""
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
_LONGEST = 10**6  # bytes of a file
_RANGE_KEYS = ("low", "high", "log", "step", "int")


def _range(name: str, given: Mapping[str, object]) -> BaseDistribution:
    """The numbers from ``low`` to ``high``, both included: all of them, or those at a distance of ``step``."""
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
    step = None if "step" not in given else check(f"{name}: step", given["step"])
    log = _switch(f"{name}: log", given.get("log", False))
    _check_range(name, low, high, step, log)
    if whole:
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)


def _check_range(name: str, low: float, high: float, step: float | None, log: bool) -> None:
    if not low < high:
        raise InputError(f"{name}: low is {low} and high {high}; give a low below high")
    if log and step is not None:
        raise InputError(f"{name} has both step and log, but a logarithmic range has no steps; leave one of them out")
    steps = (high - low) / (step or 1)
    if step is not None and not math.isclose(steps, round(steps), rel_tol=1e-9):
        raise InputError(f"{name}: steps of {step} do not lead from {low} to {high}; change one of them")


def _chosen(domain: BaseDistribution) -> bool:
    """Whether the domain is a list of choices, each as JSON; other domains are ranges."""
    return isinstance(domain, CategoricalDistribution)


def _domain(name: str, given: object) -> BaseDistribution:
    """A range, or choices as JSON: Optuna knows no lists. A fixed value is a single choice."""
    check_choice("space key", name, _CHECKS)
    if isinstance(given, Mapping):
        return _range(name, given)
    values = given if isinstance(given, list) else [given]
    choices = [canonical_json(_CHECKS[name](name, value)) for value in values]
    if not choices:
        raise InputError(f"{name} is an empty list; give at least one value")
    if len(set(choices)) < len(choices):
        raise InputError(f"{name} names a value twice; give each once")
    return CategoricalDistribution(choices)


@dataclass(frozen=True)
class Space:
    """The domain of each setting that the file names; the others are the environment's own."""

    domains: Mapping[str, BaseDistribution] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Space:
        """Check what the file says.

        Raises:
            InputError: an unknown key, or a value out of range.
        """
        return cls({str(name): _domain(str(name), domain) for name, domain in given.items()})

    @classmethod
    def read(cls, path: Path) -> Space:
        """Read a YAML file.

        Raises:
            InputError: it cannot be read, is not a mapping, or has an unusable entry.
        """
        try:
            return cls.of(_read_yaml(path))
        except InputError as error:
            raise InputError(f"space {str(path)!r}: {error}") from error

    @property
    def tuned(self) -> dict[str, BaseDistribution]:
        """Settings with more than one value."""
        return {name: domain for name, domain in self.domains.items() if not domain.single()}

    @property
    def fixed(self) -> Values:
        """Settings with one value."""
        return {name: json.loads(domain.choices[0]) for name, domain in self.domains.items() if domain.single()}

    def ends(self, *names: str) -> Iterator[Values]:
        """Every combination of the extreme values of these settings; what the space lacks is left out."""
        known = {name: self.domains[name] for name in names if name in self.domains}
        ends = [list(map(json.loads, d.choices)) if _chosen(d) else [d.low, d.high] for d in known.values()]
        return (dict(zip(known, values, strict=True)) for values in product(*ends))

    def decode(self, point: Mapping[str, Any]) -> Values:
        """Values of all settings, given what Optuna suggests for the tuned ones."""
        return self.fixed | {n: json.loads(point[n]) if _chosen(d) else point[n] for n, d in self.tuned.items()}

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """The argument of ``decode`` that gives these values; None if they lie outside the space."""
        point = {name: values.get(name) for name in self.domains}
        point |= {name: canonical_json(point[name]) for name, domain in self.domains.items() if _chosen(domain)}
        try:
            create_trial(state=TrialState.WAITING, params=point, distributions=dict(self.domains))
        except ValueError:
            return None
        return {name: point[name] for name in self.tuned}

    def as_json(self) -> dict[str, str]:
        """Every domain as text, for records, hashes and MLflow."""
        texts = {name: distributions.distribution_to_json(domain) for name, domain in self.domains.items()}
        return {name: canonical_json(json.loads(text)["attributes"]) for name, text in texts.items()}


def _read_yaml(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST).decode()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise InputError("has an alias, which can stand for endlessly much; write it out")
        given = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({getattr(error, 'strerror', 'not text')}); give a YAML file") from error
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, too many digits, too deep
        raise InputError(f"is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(given, Mapping) or not given:
        raise InputError("names no settings; --print-space prints a space that does")
    keys = [str(key.value) for key, _ in root.value]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"{key} is given twice; give it once")
    return given


def default_space(spec: EnvSpec, *, planning: bool) -> dict[str, Any]:
    """The space that is searched if no file is given, as a file would name it."""
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
        own, other = default_planner(spec.action_space, spec.name), "cem" if spec.discrete else "mppi"
        farthest = max(100, planner_settings(own, spec.name).horizon)
        space |= {
            "planner": [own, other],
            "plans": {"low": 50, "high": 1000, "log": True},
            "horizon": {"low": 5, "high": farthest, "log": True},
            "elites": {"low": 5, "high": 50},
            "iterations": {"low": 2, "high": 5},
        }
    return space


def as_yaml(space: Mapping[str, object]) -> str:
    """A space as a file that ``--space`` takes."""
    return "".join(f"{key}: {json.dumps(value).replace(chr(34), '')}\n" for key, value in space.items())
