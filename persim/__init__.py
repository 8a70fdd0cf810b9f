"""PerSim: personalised simulators for offline reinforcement learning from one trajectory per agent."""

from persim.envs.gymnasium_env import register_all as _register_all

__version__ = "0.2.0"  # the only place: pyproject.toml reads it here

_register_all()
