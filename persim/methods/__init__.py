"""Methods: what learns from the offline data of all agents and then acts for each of them."""

from persim.methods.persim import PerSim, PerSimSettings, TrueEnv
from persim.methods.protocol import Fitted, HasFactors, Method, Part, Predictor, Report, Simulator, Weights
from persim.methods.synthetic import synthetic_trajectories

__all__ = [
    "Fitted",
    "HasFactors",
    "Method",
    "Part",
    "PerSim",
    "PerSimSettings",
    "Predictor",
    "Report",
    "Simulator",
    "TrueEnv",
    "Weights",
    "synthetic_trajectories",
]
