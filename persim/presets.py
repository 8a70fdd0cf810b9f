"""The paper's settings of each environment (Appendix D.1)."""

from __future__ import annotations

from dataclasses import dataclass

RANKS = (3, 5, 10, 15, 20, 30)
EPOCHS = 300
MEMBERS = 5


@dataclass(frozen=True)
class Preset:
    """What the paper chose for one environment."""

    rank: int
    batch_size: int


_PRESETS = {"mountaincar": Preset(rank=3, batch_size=512), "cartpole": Preset(rank=5, batch_size=64)}


def preset(env: str) -> Preset:
    """The paper's settings, or sensible ones for an environment that is not in the paper."""
    return _PRESETS.get(env, Preset(rank=5, batch_size=256))
