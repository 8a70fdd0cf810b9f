"""PerSim: personalised simulators for offline reinforcement learning from one trajectory per agent."""

from persim.envs.gymnasium_env import register_all as _register_all

__version__ = "0.1.0"

_register_all()
