"""PerSim: personalised simulators for offline reinforcement learning from one trajectory per agent."""

import importlib as _importlib
from typing import Any as _Any

from persim.envs.gymnasium_env import register_all as _register_all

__version__ = "0.2.0"  # the only place: pyproject.toml reads it here

_register_all()

_LAZY = {
    "Schema": "persim.tables.schema",
    "Table": "persim.tables.table",
    "read_table": "persim.tables.table",
    "fit": "persim.tables.fitting",
    "load": "persim.tables.simulator",
    "Simulator": "persim.tables.simulator",
    "Comparison": "persim.tables.comparison",
}


def __getattr__(name: str) -> _Any:
    """Import what works on own data when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'persim' has no attribute {name!r}")
    return getattr(_importlib.import_module(_LAZY[name]), name)
