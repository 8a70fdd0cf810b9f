"""Offline data: trajectories, how they are recorded, and the policies that record them."""

from persim.data.collect import REGIMES, check_regime, collect, collect_regime
from persim.data.trajectories import Trajectories

__all__ = ["REGIMES", "Trajectories", "check_regime", "collect", "collect_regime"]
