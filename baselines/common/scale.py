"""z-scores of columns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Scale(NamedTuple):
    """Mean and spread of columns ``[D]``."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Scale:
        """That of rows ``[M, D]``. A column that never changes has spread 1, so that its scores are 0."""
        # Equality, not spread == 0: the mean of equal numbers may be off in the last bit.
        still = (rows == rows[0]).all(0)
        mean, spread = rows.mean(0), rows.std(0, correction=0)
        return cls(torch.where(still, rows[0], mean), torch.where(still, 1, spread))

    def normalise(self, values: Tensor) -> Tensor:
        """To z-scores."""
        return (values - self.mean) / self.spread

    def restore(self, scores: Tensor) -> Tensor:
        """From z-scores."""
        return scores * self.spread + self.mean
