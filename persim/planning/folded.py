"""Dynamics for ``TreeScorer``: a folded ensemble, and the true environment."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from persim.envs.spec import Agents, Array, EnvSpec
from persim.errors import InputError
from persim.learning.model import LowRankDynamics
from persim.planning.scoring import check_agents
from persim.planning.tree import Floats, Index

BLOCK = 128  # columns in one product, so that the hidden layer of five members fits the cache


class FoldedEnsemble:
    """An ensemble with u(agent) * w(action) multiplied into the last layer of its state encoder.

    For each agent and action that leaves S outputs instead of S * R. The predictions are those of the model up to
    rounding. On the CPU these thin products are left to NumPy, whose BLAS is twice as fast on them as PyTorch's.

    Raises:
        InputError: the model's actions are continuous.
    """

    def __init__(self, model: LowRankDynamics) -> None:
        if not model.settings.discrete:
            raise InputError("this model has continuous actions, which cannot be folded; score it with PlainScorer")
        self._model, self.unit = model, model.delta_scale[1].float().cpu()
        layers = [layer.detach().cpu().numpy() for layer in model.state_layers]
        if model.settings.normalised:  # fold the z-scores into the first layer, so that it takes unscaled states
            mean, deviation = model.state_scale.cpu().numpy()
            weights = layers[0][..., :-1] / deviation
            bias = layers[0][..., -1] - weights @ mean
            layers[0] = np.concatenate([weights, bias[..., None]], axis=-1)
        self._inner, self._last = [_passing_ones(layer) for layer in layers[:-1]], layers[-1]
        self._folded: dict[int, NDArray[np.float32]] = {}

    def steps(self, agents: Agents) -> _FoldedSteps:
        """See ``TreeDynamics``."""
        check_agents(agents, self._model.settings.n_agents)
        last = np.concatenate([self._fold(int(agent)) for agent in agents])
        return _FoldedSteps(len(agents), self._inner, last, residual=self._model.settings.residual)

    @torch.no_grad()
    def _fold(self, agent: int) -> NDArray[np.float32]:
        """Returns one agent's last layers ``[n_actions, K, S, hidden + 1]``, whose last column is the bias."""
        if agent not in self._folded:
            shape, model = self._model.settings, self._model
            ids = torch.full((shape.members, 1), agent, device=model.device)
            one_hot = torch.eye(shape.action_dim, device=model.device).expand(shape.members, -1, -1)
            weights = (model.agent_factors(ids) * model.action_factors(one_hot)).cpu().numpy()  # [K, R, n_actions]
            layer = self._last.reshape(shape.members, shape.state_dim, shape.rank, -1)
            folded = np.einsum("kra,ksrh->aksh", weights, layer)
            if shape.normalised:
                mean, deviation = model.delta_scale.cpu().numpy()
                folded *= deviation[:, None]
                folded[..., -1] += mean
            self._folded[agent] = folded
        return self._folded[agent]


def _passing_ones(layer: NDArray[np.float32]) -> NDArray[np.float32]:
    """Adds to a layer ``[K, out, in + 1]`` an output that is always 1, the input of the next layer's bias."""
    row = np.zeros_like(layer[:, :1])
    row[..., -1] = 1
    return np.concatenate([layer, row], axis=1)


class _FoldedSteps:
    """Steps of G agents; ``last`` is ``[G * n_actions, K, S, hidden + 1]``."""

    dtype = np.float32

    def __init__(
        self, agents: int, inner: list[NDArray[np.float32]], last: NDArray[np.float32], *, residual: bool
    ) -> None:
        self.agents, self.members = agents, last.shape[1]
        self._inner, self._last, self._residual = inner, last, residual
        self._buffers = [np.empty(self.members * layer.shape[1] * BLOCK, np.float32) for layer in inner]

    def __call__(self, states: Floats, edges: Index) -> Floats:
        """See ``Steps``."""
        following = np.empty((self.members, *states.shape[1:]), np.float32)
        bounds = edges.tolist()
        for last, low, high in zip(self._last, bounds, bounds[1:], strict=False):
            for start in range(low, high, BLOCK):
                stop = min(start + BLOCK, high)
                np.matmul(last, self._hidden(states[:, :, start:stop]), out=following[:, :-1, start:stop])
        if self._residual:
            following[:, :-1] += states[:, :-1]
        following[:, -1] = 1
        return following

    def _hidden(self, rows: Floats) -> Floats:
        """Maps input rows ``[K, S + 1, C]`` to the last hidden layer ``[K, hidden + 1, C]``."""
        for layer, buffer in zip(self._inner, self._buffers, strict=True):
            shape = (self.members, layer.shape[1], rows.shape[2])
            rows = np.matmul(layer, rows, out=buffer[: math.prod(shape)].reshape(shape))
            torch.from_numpy(rows).relu_()  # NumPy's maximum is eight times slower
        return rows


class TrueDynamics:
    """The true dynamics of agents with covariates ``[N, C]`` as a model with K = 1 for True env + MPC (Section 5.3)."""

    def __init__(self, spec: EnvSpec, covariates: Array) -> None:
        self._spec, self._covariates = spec, spec.covariate_rows(covariates)
        self.unit = torch.ones(spec.state_dim)  # one member never disagrees

    def steps(self, agents: Agents) -> _TrueSteps:
        """See ``TreeDynamics``."""
        check_agents(agents, len(self._covariates))
        return _TrueSteps(self._spec, self._covariates[agents])

    def __call__(self, agents: torch.Tensor, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Maps agents ``[B]``, states ``[1, B, S]`` and actions ``[B]`` or ``[B, A]`` to next states ``[1, B, S]``."""
        before = states.expand(1, *states.shape[-2:])[0].double().cpu().numpy()
        after = self._spec.step(before, actions.cpu().numpy(), self._covariates[agents.cpu().numpy()])
        return torch.from_numpy(after).unsqueeze(0)


class _TrueSteps:
    members = 1
    dtype: Any = np.float64

    def __init__(self, spec: EnvSpec, covariates: Array) -> None:
        self.agents, self._spec, self._covariates = len(covariates), spec, covariates

    def __call__(self, states: Floats, edges: Index) -> Floats:
        """See ``Steps``."""
        group = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        agent, action = np.divmod(group, self._spec.action_dim)
        following = np.ones_like(states)
        following[0, :-1] = self._spec.step(states[0, :-1].T, action, self._covariates[agent]).T
        return following
