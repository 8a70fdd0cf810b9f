"""Environments: their agents, covariates and true dynamics."""

from persim.envs.registry import get, names, register
from persim.envs.spec import Covariate, EnvSpec

__all__ = ["Covariate", "EnvSpec", "get", "names", "register"]
