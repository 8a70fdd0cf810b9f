"""CaDM (Lee et al. 2020): dynamics that see a context, read off the last ten transitions; vanilla and PE-TS."""

from baselines.cadm.method import CaDM
from baselines.cadm.settings import ActingSettings, CaDMSettings

__all__ = ["ActingSettings", "CaDM", "CaDMSettings"]
