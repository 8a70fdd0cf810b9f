"""Layers and scales that models are made of: small nets of K members, one matrix a layer, rows as columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def uniform_layer(shape: tuple[int, ...], fan_in: int, rng: np.random.Generator) -> Tensor:
    """Draws initial weights ``shape`` uniformly in +-1/sqrt(fan_in), biases included, as ``torch.nn.Linear`` does."""
    bound = fan_in**-0.5
    return torch.from_numpy(rng.uniform(-bound, bound, size=shape).astype(np.float32))


def with_ones(rows: Tensor) -> Tensor:
    """Appends a row of ones to ``[..., F, B]``, giving ``[..., F + 1, B]``: a bias is then one more weight."""
    return torch.cat([rows, torch.ones_like(rows[..., :1, :])], dim=-2)


def mean_and_deviation(rows: Tensor, dim: int) -> Tensor:
    """Returns mean and unbiased deviation over ``dim`` as ``[2, ...]``; the deviation of a constant is set to 1."""
    deviation = rows.double().std(dim)
    deviation[deviation == 0] = 1
    return torch.stack([rows.double().mean(dim), deviation])


def z_scores(rows: Tensor, scale: Tensor) -> Tensor:
    """Returns the z-scores of feature-major rows ``[..., F, B]``, given ``[2, ..., F]`` of ``mean_and_deviation``."""
    return (rows - scale[0].unsqueeze(-1)) / scale[1].unsqueeze(-1)


def perceptron(layers: Sequence[Tensor] | nn.ParameterList, rows: Tensor) -> Tensor:
    """Applies a ReLU MLP to feature-major rows ``[K, in, B]``; returns ``[K, out, B]``."""
    last = len(layers) - 1
    for index, layer in enumerate(layers):
        rows = torch.bmm(layer, with_ones(rows))
        rows = rows.relu() if index < last else rows
    return rows
