"""Nets and optimisers as named arrays, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from persim.storage.store import Arrays


def copy_of(value: Tensor) -> NDArray[Any]:
    """A copy, since the next training step writes into the original."""
    return np.array(value.detach().cpu().numpy())


def under(prefix: str, arrays: Arrays) -> Arrays:
    """These arrays with names that begin so."""
    return {f"{prefix}{name}": value for name, value in arrays.items()}


def below(prefix: str, arrays: Arrays) -> Arrays:
    """Those whose names begin so, by the rest of their names: undoes ``under``."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def net_arrays(net: nn.Module) -> Arrays:
    """The weights of a net."""
    return {name: copy_of(value) for name, value in net.state_dict().items()}


def load_net(net: nn.Module, arrays: Arrays) -> None:
    """Takes the weights of ``net_arrays``."""
    net.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})


def adam_arrays(optimiser: torch.optim.Optimizer) -> Arrays:
    """What Adam remembers of each parameter."""
    states = optimiser.state_dict()["state"].items()
    return {f"{index}/{name}": copy_of(value) for index, state in states for name, value in state.items()}


def load_adam(optimiser: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Takes what ``adam_arrays`` gave."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in arrays.items():
        index, name = key.split("/")
        states.setdefault(int(index), {})[name] = torch.from_numpy(value)
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
