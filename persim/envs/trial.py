"""Try the functions of an environment that somebody else wrote, once, before anything relies on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError


def check_functions(spec: EnvSpec) -> None:
    """Play one step of the test agents (of the default one where there are none), and check what functions return.

    Raises:
        InputError: a function fails, or returns something of another type or shape than ``EnvSpec`` says.
    """
    agents = _agents(spec)
    states = _array(spec, "reset", lambda: spec.reset(np.random.default_rng(0), agents))
    space = spec.action_space
    if isinstance(space, Discrete):
        actions: Any = np.zeros(len(agents), dtype=np.int64)
    else:
        actions = np.tile(np.clip(np.zeros(space.shape, np.float32), space.low, space.high), (len(agents), 1))
    following = _array(spec, "step", lambda: spec.step(states, actions, agents))
    before, chosen, after = (torch.from_numpy(x) for x in (states, actions, following))
    _tensor(spec, "reward", lambda: spec.reward(before, chosen, after), floating=True)
    _tensor(spec, "terminated", lambda: spec.terminated(after), floating=False)
    for name, function in (("progress", spec.planning.progress), ("safety", spec.planning.safety)):
        if function is not None:
            _tensor(spec, f"planning.{name}", lambda function=function: function(after), floating=True)  # type: ignore[misc]


def _agents(spec: EnvSpec) -> Array:
    return spec.covariate_rows(spec.test_agents or [spec.default_agent])


def _called(spec: EnvSpec, name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:
        why = f"raised {type(error).__name__}: {error}"
        raise InputError(f"EnvSpec {spec.name!r}: {name} {why}; see the attributes of EnvSpec") from error


def _array(spec: EnvSpec, name: str, call: Callable[[], Any]) -> Any:
    found, wanted = _called(spec, name, call), (len(_agents(spec)), spec.state_dim)
    if not isinstance(found, np.ndarray) or not np.issubdtype(found.dtype, np.floating) or found.shape != wanted:
        raise _wrong(spec, name, found, f"an array of floats of shape {wanted}")
    if name == "reset" and not np.isfinite(found).all():
        raise InputError(f"EnvSpec {spec.name!r}: reset returned a state that is not finite; give finite ones")
    return found


def _tensor(spec: EnvSpec, name: str, call: Callable[[], Any], *, floating: bool) -> None:
    found, wanted = _called(spec, name, call), (len(_agents(spec)),)
    fits = isinstance(found, Tensor) and tuple(found.shape) == wanted
    if not fits or (not found.is_floating_point() if floating else found.dtype != torch.bool):
        raise _wrong(spec, name, found, f"a {'floating-point' if floating else 'bool'} tensor of shape {wanted}")


def _wrong(spec: EnvSpec, name: str, found: Any, wanted: str) -> InputError:
    came = f"{getattr(found, 'dtype', type(found).__name__)} of shape {tuple(getattr(found, 'shape', ()))}"
    return InputError(f"EnvSpec {spec.name!r}: {name} returned {came}; it has to return {wanted}")
