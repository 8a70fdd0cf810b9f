"""Normalisation: means and standard deviations of what goes into CaDM's nets and comes out of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from persim.storage.store import Arrays

_TINY = 1e-10  # CaDM's own
_CONSTANT = 1e-6  # a spread below this share of the largest value is rounding


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each column.

    That of a constant column is 0, not 1 as in ``baselines.common.scale``: PE-TS never predicts less than a certain
    share of it as noise, and a dimension that never changed is to stay as it is.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Scale:
        """Of rows ``[n, D]``."""
        mean = values.mean(0, dtype=torch.float64)
        # Not values.var: it has no float64 sums of float32 values, and sums of millions would lose digits.
        spread = (values.double() - mean).square().mean(0).sqrt()
        constant = spread <= _CONSTANT * values.abs().amax(0).double()
        spread = torch.where(constant, 0.0, spread + _TINY)
        return cls(mean.float(), spread.float())

    @classmethod
    def none(cls, width: int, device: torch.device) -> Scale:
        """Leaves everything as it is."""
        return cls(torch.zeros(width, device=device), torch.ones(width, device=device))

    def apply(self, values: Tensor) -> Tensor:
        """Normalised values ``[..., D]``; nothing is divided by 0."""
        return (values - self.mean) / torch.where(self.spread == 0, 1.0, self.spread)

    def undo(self, values: Tensor) -> Tensor:
        """The inverse of ``apply`` on values as they were in the data."""
        return values * self.spread + self.mean


@dataclass(frozen=True)
class Scales:
    """All of them.

    Attributes:
        states: of the nets' inputs ``[D]``; those of forward and backward net are the same.
        actions: ``[A]``; discrete ones stay 0 and 1.
        history: ``[K * S + K * A]``: differences stay as they are, continuous actions are scaled slot by
            slot, empty slots included.
        targets: ``[S]``, of the forward net.
        back_targets: ``[S]``, of the backward net.
    """

    states: Scale
    actions: Scale
    history: Scale
    targets: Scale
    back_targets: Scale

    def arrays(self) -> Arrays:
        """As a file can hold them."""
        found: Arrays = {}
        for field in fields(self):
            scale: Scale = getattr(self, field.name)
            found[f"scale.{field.name}"] = torch.stack([scale.mean, scale.spread]).cpu().numpy()
        return found

    @classmethod
    def from_arrays(cls, arrays: Arrays, device: str) -> Scales:
        """The inverse of ``arrays``."""
        tables = {field.name: torch.from_numpy(np.array(arrays[f"scale.{field.name}"])) for field in fields(cls)}
        return cls(**{name: Scale(*table.to(device)) for name, table in tables.items()})
