"""The terms whose weights are an agent's own: PerSim's products of state and action factors, and plain inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from persim.errors import check_choice
from persim.learning.model import LowRankDynamics

BOTH, PRODUCT, LINEAR = KINDS = ("both", "product", "linear")


@dataclass(frozen=True)
class Terms:
    """The terms of a step, for all K members.

    The scaled difference of state d that agent n will see is ``sum_f theta[n, d, f] terms[d, f]``. With the kind
    ``product`` the terms are ``v_l(x)_d w_l(a)`` for l = 1 to R, and theta is the agent's latent factor u of the paper
    (Section 4), one for each state. With ``linear`` they are the scaled history, the scaled acts and 1, so that theta
    is a linear ARX model of the agent; ``both`` has all of them.

    Attributes:
        model: K trained members, of which the agent encoder is not used.
        kind: one of ``KINDS``.
    """

    model: LowRankDynamics
    kind: str = BOTH

    def __post_init__(self) -> None:
        check_choice("terms", self.kind, KINDS)

    @property
    def count(self) -> int:
        """F, the number of terms."""
        s = self.model.settings
        linear = s.state_dim + s.action_dim + 1
        return {PRODUCT: s.rank, LINEAR: linear, BOTH: s.rank + linear}[self.kind]

    def __call__(self, history: Tensor, acts: Tensor) -> Tensor:
        """Return the terms ``[K, B, S, F]`` of histories ``[K, B, X]`` and acts ``[K, B, A]``; either may lack K."""
        members, s = self.model.settings.members, self.model.settings
        history = self.model.scaled(history.mT).expand(members, -1, -1)
        acts = acts.mT.expand(members, -1, -1)  # [K, A, B]
        found = []
        if self.kind != LINEAR:
            product = self.model.state_factors(history) * self.model.action_factors(acts).unsqueeze(1)
            found.append(product.permute(0, 3, 1, 2))
        if self.kind != PRODUCT:
            rows = torch.cat([history, acts, torch.ones_like(history[:, :1])], dim=1).mT
            found.append(rows.unsqueeze(2).expand(-1, -1, s.outputs, -1))
        return torch.cat(found, dim=-1)

    def difference(self, history: Tensor, acts: Tensor, theta: Tensor) -> Tensor:
        """Return state differences ``[K, B, S]`` in the states' own units; theta is ``[K, B, S, F]``."""
        scaled = (self(history, acts) * theta).sum(-1)
        return scaled * self.model.delta_scale[1] + self.model.delta_scale[0]
