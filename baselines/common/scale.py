"""z-scores of columns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    def none(cls, width: int, device: torch.device) -> Scale:
        """The identity for ``width`` columns: mean 0 and standard deviation 1."""
        return cls(torch.zeros(width, device=device), torch.ones(width, device=device))

    def normalise(self, values: Tensor) -> Tensor:
        """The z-scores of ``values``, both ``[..., D]``; a column of spread 0 is only shifted."""
        return (values - self.mean) / torch.where(self.spread == 0, 1.0, self.spread)

    def restore(self, scores: Tensor) -> Tensor:
        """The values with these z-scores, both ``[..., D]``; a column of spread 0 becomes its mean."""
        return scores * self.spread + self.mean
