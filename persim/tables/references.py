"""What a simulator is compared with: linear ARX models of each agent and of all, and one net for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from persim.learning.model import LowRankDynamics, ModelSettings
from persim.storage.store import Arrays
from persim.tables.personal import Sums
from persim.tables.reading import Array
from persim.tables.terms import LINEAR, PRODUCT, Terms

RIDGE = 1e-3  # of the least squares, of standardised terms: so small that it only decides what the data leave open


@dataclass(frozen=True)
class References:
    """Weights of models that a simulator is compared with; they see the same histories and acts in the same units.

    Attributes:
        own: a linear ARX model of each agent ``[1, N, S, F]``; zero for an agent with fewer steps than weights.
        pooled: one for all agents ``[1, 1, S, F]``.
        net: one net for all agents, trained as the simulator's members but without agents, and
        factors: its weights ``[1, 1, S, R]``.
    """

    own: Tensor
    pooled: Tensor
    net: Terms
    factors: Tensor

    @classmethod
    def of(cls, sums: Sums, net: LowRankDynamics) -> References:
        """Solve for the linear models; ``sums`` are those of linear terms of one member."""
        factor = (net.agent_layer[:, :, 0] + net.agent_layer[:, :, -1]).detach()
        factors = factor[:, None, None].expand(-1, -1, net.settings.outputs, -1)
        pooled = Sums(sums.gram.sum(2, keepdim=True), sums.moment.sum(2, keepdim=True),
                      sums.square.sum(1, keepdim=True), sums.count.sum(0, keepdim=True))  # fmt: skip
        return cls(_solved(sums), _solved(pooled), Terms(net, PRODUCT), factors)

    def joined(self, kept: list[int], sums: Sums) -> References:
        """Keep the agents with these numbers, and add those of ``sums``."""
        return replace(self, own=torch.cat([self.own[:, kept], _solved(sums)], dim=1))

    def models(self, model: LowRankDynamics, agents: int) -> dict[str, tuple[Terms, Tensor]]:
        """Return terms and weights ``[1, N, S, F]`` of each, by name; ``model`` gives the scales of linear terms."""
        linear = Terms(model.select([0]), LINEAR)
        return {
            "ARX, one per agent": (linear, self.own),
            "ARX, one for all": (linear, self.pooled.expand(-1, agents, -1, -1)),
            "one net for all": (self.net, self.factors.expand(-1, agents, -1, -1)),
        }

    def arrays(self) -> Arrays:
        """All arrays by name."""
        found = {f"net.{name}": array for name, array in self.net.model.arrays().items()}
        tensors = {name: getattr(self, name) for name in ("own", "pooled", "factors")}
        return found | {f"references.{name}": tensor.contiguous().numpy() for name, tensor in tensors.items()}

    def about(self) -> dict[str, Any]:
        """The shape of the net."""
        return asdict(self.net.model.settings)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> References:
        """Read what ``arrays`` and ``about`` gave."""
        weights = {name.removeprefix("net."): x for name, x in arrays.items() if name.startswith("net.")}
        net = LowRankDynamics.from_arrays(weights, ModelSettings(**about)).requires_grad_(False)
        own, pooled, factors = (torch.from_numpy(arrays[f"references.{name}"].copy())
                                for name in ("own", "pooled", "factors"))  # fmt: skip
        return cls(own, pooled, Terms(net, PRODUCT), factors)


def _solved(sums: Sums) -> Tensor:
    """Least squares of each agent ``[1, N, S, F]``; zero for one with fewer steps than weights."""
    count = sums.gram.shape[-1]
    found = torch.linalg.solve(sums.gram + RIDGE * torch.eye(count, dtype=torch.double), sums.moment)
    found = torch.where((sums.count >= count)[:, None], found, 0.0)
    return found.transpose(1, 2).float()
