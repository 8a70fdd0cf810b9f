"""Normalisation of what goes into CaDM's networks and comes out of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from persim.storage.store import Arrays

_TINY = 1e-10  # CaDM's own
_CONSTANT = 1e-6  # a standard deviation below this share of the largest value is rounding error


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each column ``[D]``.

    A constant column has standard deviation 0, not 1 as in ``baselines.common.scale``: PE-TS always predicts some
    noise, in proportion to the standard deviation, and a dimension that never changed has to stay as it is.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Scale:
        """The scale of rows ``[B, D]``."""
        mean = values.mean(0, dtype=torch.float64)
        # Not values.var: it cannot sum float32 values in float64, and sums of millions would lose digits.
        spread = (values.double() - mean).square().mean(0).sqrt()
        constant = spread <= _CONSTANT * values.abs().amax(0).double()
        spread = torch.where(constant, 0.0, spread + _TINY)
        return cls(mean.float(), spread.float())

    @classmethod
    def none(cls, width: int, device: torch.device) -> Scale:
        """The identity for ``width`` columns: mean 0 and standard deviation 1."""
        return cls(torch.zeros(width, device=device), torch.ones(width, device=device))

    def apply(self, values: Tensor) -> Tensor:
        """The normalised values, both ``[..., D]``; constant columns are not divided."""
        return (values - self.mean) / torch.where(self.spread == 0, 1.0, self.spread)

    def undo(self, values: Tensor) -> Tensor:
        """Restores the units of normalised values ``[..., D]``; a constant column becomes its mean."""
        return values * self.spread + self.mean


@dataclass(frozen=True)
class Scales:
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
        found: Arrays = {}
        for field in fields(self):
            scale: Scale = getattr(self, field.name)
            found[f"scale.{field.name}"] = torch.stack([scale.mean, scale.spread]).cpu().numpy()
        return found

    @classmethod
    def from_arrays(cls, arrays: Arrays, device: str) -> Scales:
        """Restores the scales that ``arrays`` returned."""
        tables = {field.name: torch.from_numpy(np.array(arrays[f"scale.{field.name}"])) for field in fields(cls)}
        return cls(**{name: Scale(*table.to(device)) for name, table in tables.items()})
