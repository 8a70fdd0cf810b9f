"""Methods: what learns from the offline data of all agents and then acts for each of them."""

from persim.methods.persim import PerSim, PerSimSettings
from persim.methods.planning import PlanningSettings
from persim.methods.protocol import (
    PRESETS,
    Fitted,
    HasFactors,
    Method,
    Options,
    Part,
    Predictor,
    Report,
    Simulator,
    Weights,
)
from persim.methods.synthetic import simulated, synthetic_trajectories
from persim.methods.true_env import TrueEnv
from persim.methods.unseen import UnseenAgents

__all__ = [
    "PRESETS",
    "Fitted",
    "HasFactors",
    "Method",
    "Options",
    "Part",
    "PerSim",
    "PerSimSettings",
    "PlanningSettings",
    "Predictor",
    "Report",
    "Simulator",
    "TrueEnv",
    "UnseenAgents",
    "Weights",
    "simulated",
    "synthetic_trajectories",
]
