"""CaDM (Lee et al. 2020), vanilla and PE-TS: dynamics given a context inferred from the last ten transitions."""

from baselines.cadm.method import CaDM
from baselines.cadm.persim import PerSimUnderCaDM
from baselines.cadm.settings import ActingSettings, CaDMSettings

__all__ = ["ActingSettings", "CaDM", "CaDMSettings", "PerSimUnderCaDM"]
