"""CaDM's loss: how well a context explains the transitions that follow it, forward and backward in time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from baselines.cadm.nets import CaDMNets


class Batch(NamedTuple):
    """B transitions of each of K members, all scaled.

    Attributes:
        history: ``[K, B, K' (S + A)]``, what the context is read off.
        states: ``[K, B, D]``.
        actions: ``[K, B, A]``.
        targets: ``[K, B, S]``.
        following: next states ``[K, B, D]``.
        back_targets: ``[K, B, S]``.
    """

    history: Tensor
    states: Tensor
    actions: Tensor
    targets: Tensor
    following: Tensor
    back_targets: Tensor


def reconstruction(nets: CaDMNets, batch: Batch, backward_weight: float) -> Tensor:
    """Mean over batch and dimensions, sum over members: squared error, or the Gaussian's, plus the backward net's."""
    contexts = nets.encoder(batch.history)
    mean, logvar = nets.predict(batch.states, batch.actions, contexts)
    squared = (mean - batch.targets).square()
    ahead = squared if logvar is None else squared * torch.exp(-logvar) + logvar
    back = (nets.predict_back(batch.following, batch.actions, contexts) - batch.back_targets).square()
    return ahead.mean((1, 2)).sum() + backward_weight * back.mean((1, 2)).sum()


def bound_penalty(nets: CaDMNets, weight: float) -> Tensor | float:
    """What draws the bounds of the variance together, if one is predicted."""
    return weight * (nets.highest.sum() - nets.lowest.sum()) if nets.probabilistic else 0.0
