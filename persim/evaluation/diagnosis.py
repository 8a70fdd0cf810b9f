"""Measure the energy of each rank-one term of a trained model, to see whether the rank was too small or too large.

The model is a tensor over agents, states (with their dimensions) and actions. Energies are mean squares of its
predictions for every agent in every recorded state under every recorded action. The energy of each state dimension is
divided by the mean square of its recorded differences in the model's scale (``scaled_deltas``), and then averaged.

The energy of a term depends on how the model happened to split its prediction: terms may overlap or cancel, and with
too large a rank several terms may do the work of one. A second spectrum does not depend on the split: the squared
singular values of the tensor unfolded by state. No model with k terms can come closer to this one than the sum of
the values beyond the k-th (Eckart and Young), but a model may need more than k terms to come that close.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persim.data.trajectories import Trajectories
from persim.errors import InputError
from persim.learning.model import LowRankDynamics

ROWS, CHUNK = 20_000, 2_000
NEGLIGIBLE = 0.1  # directions that together carry less than this share of the model's error are not needed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Diagnosis:
    """Energies of K members of rank R, as shares of the mean square of the recorded differences.

    Attributes:
        terms: energies ``[K, R]`` of the rank-one terms, largest first; terms of different members do not match up.
        directions: squared singular values ``[K, R]``, largest first; their sum is the energy of the model.
        error: mean square error ``[K]`` of one-step predictions.
    """

    terms: Floats
    directions: Floats
    error: Floats

    @property
    def lost(self) -> Floats:
        """The energy ``[R]`` beyond the best k directions for k = 1..R, mean over members."""
        beyond = np.cumsum(self.directions[:, ::-1], axis=1)[:, ::-1] - self.directions
        return np.asarray(beyond.mean(0))

    @property
    def needed(self) -> int:
        """The smallest number of directions such that the others carry at most a tenth of the error."""
        return int(np.argmax(self.lost <= NEGLIGIBLE * self.error.mean())) + 1


def diagnose(model: LowRankDynamics, data: Trajectories) -> Diagnosis:
    """Measure the energies of a model on its training data, of which at most ``ROWS`` evenly spaced rows are used.

    Raises:
        InputError: the data do not fit the model.
    """
    shape = model.settings
    given, wanted = _sizes(data), _sizes(shape)
    if given != wanted:
        raise InputError(f"the data have {given}, the model {wanted}; give the data that it was trained on")
    rows = np.linspace(0, len(data) - 1, min(ROWS, len(data))).astype(np.int64)
    columns = [torch.tensor(column[rows]) for column in (data.agent, data.observation, data.action, data.delta)]
    with torch.no_grad():
        unit = model.scaled_deltas(columns[-1].to(model.device).mT).double().square().mean(1)
        unit[unit == 0] = 1
        chunks = zip(*(torch.split(column, CHUNK) for column in columns), strict=True)
        found = [_sums(model, unit, chunk) for chunk in chunks]
        state, action, error = (torch.stack(sums).sum(0) / len(rows) for sums in zip(*found, strict=True))
        everyone = torch.arange(shape.n_agents, device=model.device).expand(shape.members, -1)
        agent = _gram(model.agent_factors(everyone)) / shape.n_agents
        return _energies(agent, state, action, error)


def _sizes(of: Any) -> str:
    actions = "discrete actions" if of.discrete else "action dimensions"
    return f"{of.n_agents} agents, {of.state_dim} state dimensions and {of.action_dim} {actions}"


def _gram(factors: Tensor) -> Tensor:
    """Compute the Gram matrices ``[K, R, R]`` of factors ``[K, R, B]``."""
    double = factors.double()
    return torch.bmm(double, double.mT)


def _sums(model: LowRankDynamics, unit: Tensor, columns: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the Gram matrices ``[K, R, R]`` of state and action factors and the squared error ``[K]`` of B rows."""
    agents, states, actions, deltas = (column.to(model.device) for column in columns)
    members = model.settings.members
    seen = model.scaled(states.mT).expand(members, -1, -1)
    encoded = model.encode_actions(actions).expand(members, -1, -1)
    weights = (len(unit) * unit).rsqrt()[:, None, None]
    by_dimension = (model.state_factors(seen) * weights).transpose(1, 2)  # [K, R, S, B]
    targets = model.scaled_deltas(model.target(states, deltas).mT)
    missed = model.delta(agents.expand(members, -1), seen, encoded) - targets
    error = (missed.double().square() / unit[:, None]).mean(1).sum(1)
    return _gram(by_dimension.flatten(2)), _gram(model.action_factors(encoded)), error


def _energies(agent: Tensor, state: Tensor, action: Tensor, error: Tensor) -> Diagnosis:
    """Compute the energies from the mean Gram matrices ``[K, R, R]`` of the factors and the error ``[K]``.

    With V the state factors (a column per term) and Q those of agents and actions, the unfolding is V Q', and its
    squared singular values are the eigenvalues of (V'V)^1/2 (Q'Q) (V'V)^1/2, where Q'Q is the elementwise
    product of the Gram matrices of agents and actions.
    """
    values, vectors = torch.linalg.eigh(state)
    root = vectors * values.clamp(min=0).sqrt().unsqueeze(1) @ vectors.mT
    directions = torch.linalg.eigvalsh(root @ (agent * action) @ root).clamp(min=0).flip(1)
    terms = torch.diagonal(agent * state * action, dim1=1, dim2=2).sort(descending=True).values
    return Diagnosis(*(part.cpu().numpy() for part in (terms, directions, error)))
