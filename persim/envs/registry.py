"""Look up environments by name: the built-in ones and those of other packages."""

from __future__ import annotations

import importlib

from persim.envs import cartpole, halfcheetah, mountaincar
from persim.envs.spec import EnvSpec
from persim.errors import InputError, check_choice

_SPECS: dict[str, EnvSpec] = {spec.name: spec for spec in (mountaincar.SPEC, cartpole.SPEC, halfcheetah.SPEC)}


def names() -> tuple[str, ...]:
    """List the names of the registered environments."""
    return tuple(_SPECS)


def register(spec: EnvSpec) -> None:
    """Make an environment available under its name.

    Raises:
        InputError: another environment has this name.
    """
    if _SPECS.setdefault(spec.name, spec) is not spec:
        raise InputError(f"environment {spec.name!r} is already registered; give the new one another name")


def get(name: str) -> EnvSpec:
    """Return a registered environment, or the one that ``module:ATTRIBUTE`` names in an importable module.

    Raises:
        InputError: there is no such environment.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return _SPECS[check_choice("environment", name, names())]
    try:
        spec = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        why = f"environment {name!r} cannot be loaded ({error})"
        raise InputError(f"{why}; give module:ATTRIBUTE of an importable EnvSpec") from error
    if not isinstance(spec, EnvSpec):
        raise InputError(f"environment {name!r} is a {type(spec).__name__}; give module:ATTRIBUTE of an EnvSpec")
    return spec
