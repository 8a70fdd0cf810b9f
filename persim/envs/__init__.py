"""Environments: what an agent is, and the true dynamics it follows."""

from persim.envs.registry import get, names, register
from persim.envs.spec import Covariate, EnvSpec

__all__ = ["Covariate", "EnvSpec", "get", "names", "register"]
