"""Look up environments by name: the built-in ones and those of other packages."""

from __future__ import annotations

import importlib

from persim.envs import cartpole, halfcheetah, mountaincar
from persim.envs.spec import EnvSpec
from persim.envs.trial import check_functions
from persim.errors import InputError, check_choice

_SPECS: dict[str, EnvSpec] = {spec.name: spec for spec in (mountaincar.SPEC, cartpole.SPEC, halfcheetah.SPEC)}
_LOADED: dict[str, EnvSpec] = {}  # by ``module:ATTRIBUTE``; each was tried


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

    The module is imported, so the name has to come from the user, never from a file; see ``recorded``.

    Raises:
        InputError: there is no such environment, or its functions do not do what an ``EnvSpec`` says.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return _SPECS[check_choice("environment", name, names())]
    try:
        spec = getattr(importlib.import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a module does when it is imported, exit included
        why = f"environment {name!r} cannot be loaded ({type(error).__name__}: {error})"
        raise InputError(f"{why}; give module:ATTRIBUTE of an importable EnvSpec") from error
    if not isinstance(spec, EnvSpec):
        raise InputError(f"environment {name!r} is a {type(spec).__name__}; give module:ATTRIBUTE of an EnvSpec")
    if _LOADED.get(name) is not spec:
        check_functions(spec)
        _LOADED[name] = spec
    return spec


def recorded(name: str) -> EnvSpec:
    """Return the environment that a file names: a registered one, or one that the user has named as well.

    Raises:
        InputError: it is neither: no file makes us import a module.
    """
    known = _SPECS | {spec.name: spec for spec in _LOADED.values()} | _LOADED | _SPECS
    if name not in known:
        raise InputError(f"a file names the environment {name!r}, which is not built in; give your own as --env, too")
    return known[name]
