"""Networks and optimisers as named arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from persim.errors import InputError
from persim.storage.store import Arrays


def copy_of(value: Tensor) -> NDArray[Any]:
    """The tensor as an array of the same shape; a copy, since the next training step overwrites the tensor."""
    return np.array(value.detach().cpu().numpy())


def under(parts: Mapping[str, Arrays]) -> Arrays:
    """Puts the arrays of several parts together, with the key of the part as the prefix of every name."""
    return {f"{prefix}{name}": value for prefix, arrays in parts.items() for name, value in arrays.items()}


def below(prefix: str, arrays: Arrays) -> Arrays:
    """Selects the keys with this prefix and strips it, to get back what ``under`` was given for it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def net_arrays(net: nn.Module) -> Arrays:
    """The weights of a network by name, each in its own shape."""
    return {name: copy_of(value) for name, value in net.state_dict().items()}


def load_net(net: nn.Module, arrays: Arrays) -> None:
    """Loads weights that ``net_arrays`` returned.

    Raises:
        InputError: they are those of another network.
    """
    try:
        net.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    except RuntimeError as error:  # of other names or shapes
        raise InputError(f"the weights are not those of this {type(net).__name__}; give its own") from error


def adam_arrays(optimiser: torch.optim.Optimizer) -> Arrays:
    """Adam's moments and step count, keyed ``<parameter>/<name>``; moments have the parameter's shape."""
    states = optimiser.state_dict()["state"].items()
    return {f"{index}/{name}": copy_of(value) for index, state in states for name, value in state.items()}


def load_adam(optimiser: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Loads moments that ``adam_arrays`` returned."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in arrays.items():
        index, name = key.split("/")
        states.setdefault(int(index), {})[name] = torch.from_numpy(value)
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
