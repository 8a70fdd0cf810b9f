"""Normalisation of what goes into CaDM's networks and comes out of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from baselines.common.scale import Scale
from persim.storage.store import Arrays

_TINY = 1e-10  # CaDM's own
_CONSTANT = 1e-6  # a standard deviation below this share of the largest value is rounding error


def scale_of(values: Tensor) -> Scale:
    """The scale of rows ``[B, D]``.

    A constant column gets spread 0, not 1 as in ``Scale.of``: PE-TS always predicts some noise, in proportion to the
    spread, and a dimension that never changed has to stay as it is.
    """
    mean = values.mean(0, dtype=torch.float64)
    # Not values.var: it cannot sum float32 values in float64, and sums of millions would lose digits.
    spread = (values.double() - mean).square().mean(0).sqrt()
    constant = spread <= _CONSTANT * values.abs().amax(0).double()
    return Scale(mean.float(), torch.where(constant, 0.0, spread + _TINY).float())


class Scales(NamedTuple):
    """The scales of all inputs and outputs.

    Attributes:
        states: of the networks' state features ``[D]``, the same for forward and backward network.
        actions: ``[A]``; discrete actions stay 0 and 1.
        history: ``[W S + W A]``; differences stay as they are, continuous actions are scaled slot by slot, with
            the zeros of empty slots among the values.
        targets: of the forward network ``[S]``.
        back_targets: of the backward network ``[S]``.
    """

    states: Scale
    actions: Scale
    history: Scale
    targets: Scale
    back_targets: Scale

    def arrays(self) -> Arrays:
        """Mean and standard deviation of each scale as a named array ``[2, D]``."""
        return {f"scale.{name}": torch.stack(scale).cpu().numpy() for name, scale in self._asdict().items()}

    @classmethod
    def from_arrays(cls, arrays: Arrays, device: str) -> Scales:
        """Restores the scales that ``arrays`` returned."""
        tables = (torch.from_numpy(np.array(arrays[f"scale.{name}"])).to(device) for name in cls._fields)
        return cls(*(Scale(*table) for table in tables))
