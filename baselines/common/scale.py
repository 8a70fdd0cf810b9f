"""z-scores of columns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_TINY = 1e-10  # CaDM's own
_CONSTANT = 1e-6  # a standard deviation below this share of the largest value is rounding error


class Scale(NamedTuple):
    """Mean and standard deviation of each column ``[D]``."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Scale:
        """The scale of rows ``[B, D]``; a constant column gets spread 1, so that its z-scores are 0."""
        # Equality, not spread == 0: the mean of equal numbers may be off in the last bit.
        still = (rows == rows[0]).all(0)
        mean, spread = rows.mean(0), rows.std(0, correction=0)
        return cls(torch.where(still, rows[0], mean), torch.where(still, 1, spread))

    @classmethod
    def exact(cls, rows: Tensor) -> Scale:
        """The scale of rows ``[B, D]`` in double precision; a constant column gets spread 0.

        PE-TS CaDM always predicts some noise, in proportion to the spread; what never changed has to stay as it is.
        """
        mean = rows.mean(0, dtype=torch.float64)
        # Not rows.var: it cannot sum float32 values in float64, and sums of millions would lose digits.
        spread = (rows.double() - mean).square().mean(0).sqrt()
        still = spread <= _CONSTANT * rows.abs().amax(0).double()
        return cls(mean.float(), torch.where(still, 0.0, spread + _TINY).float())

    @classmethod
    def none(cls, width: int, device: torch.device) -> Scale:
        """The identity for ``width`` columns: mean 0 and standard deviation 1."""
        return cls(torch.zeros(width, device=device), torch.ones(width, device=device))

    def normalise(self, values: Tensor) -> Tensor:
        """The z-scores of ``values``, both ``[..., D]``; a column of spread 0 is only shifted."""
        return (values - self.mean) / torch.where(self.spread == 0, 1.0, self.spread)

    def restore(self, scores: Tensor) -> Tensor:
        """The values with these z-scores, both ``[..., D]``; a column of spread 0 becomes its mean."""
        return scores * self.spread + self.mean
