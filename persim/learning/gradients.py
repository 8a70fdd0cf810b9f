"""The gradient of Algorithm 1's loss in closed form, in buffers that are made once.

A training step of these small networks is bound by the number and the memory traffic of its
operations, not by arithmetic: writing the gradient out and reusing the buffers makes a whole step two
to five times faster than autograd on the same batch (docs/performance.md). Autograd is the test's reference.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from persim.learning.model import LowRankDynamics

_mask_where_relu_was_zero = torch.ops.aten.threshold_backward.grad_input


class Minibatch(NamedTuple):
    """B transitions per member, feature-major, with a row of ones below states and actions.

    Attributes:
        agents: ids, repeated along the rank, ``[K, R, B]``.
        states: ``[K, S + 1, B]``.
        actions: encoded, ``[K, A + 1, B]``.
        targets: state differences ``[K, S, B]``.
    """

    agents: Tensor
    states: Tensor
    actions: Tensor
    targets: Tensor


class FlatParameters:
    """All parameters of a model in one vector, and their gradients in another.

    The model's parameters become views of ``values``: the optimiser then works on one tensor, and a
    checkpoint is three vectors.
    """

    def __init__(self, model: LowRankDynamics) -> None:
        parameters = list(model.parameters())
        self.values = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.gradient = torch.zeros_like(self.values)
        sizes = [p.numel() for p in parameters]
        for p, view in zip(parameters, torch.split(self.values, sizes), strict=True):
            p.data = view.view_as(p)
        views = torch.split(self.gradient, sizes)
        self._gradient_of: dict[int, Tensor] = {
            id(p): view.view_as(p) for p, view in zip(parameters, views, strict=True)
        }

    def gradient_of(self, parameter: Tensor) -> Tensor:
        """The view of ``gradient`` that belongs to a parameter."""
        return self._gradient_of[id(parameter)]


class _Perceptron:
    """Forward and backward passes of one MLP with its buffers, for one batch size."""

    def __init__(self, layers: nn.ParameterList, flat: FlatParameters, batch: int) -> None:
        self._layers = [layer.data for layer in layers]
        self._gradients = [flat.gradient_of(layer) for layer in layers]
        self._inputs: list[Tensor] = []
        self._hidden: list[Tensor] = []
        for layer in self._layers[:-1]:
            members, width, _ = layer.shape
            buffer = layer.new_ones(members, width + 1, batch)
            self._inputs.append(buffer)
            self._hidden.append(buffer[:, :width])
        members, width, _ = self._layers[-1].shape
        self.output = layer_like(self._layers[-1], width, batch)
        self._back = [layer_like(hidden, hidden.shape[1], batch) for hidden in self._hidden]
        self._transposed = [layer[:, :, :-1].mT for layer in self._layers]
        self._inputs_transposed = [rows.mT for rows in self._inputs]
        self._first: Tensor = self.output

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs ``[K, out, B]`` of inputs ``[K, in + 1, B]``."""
        self._first = rows
        for layer, hidden, following in zip(self._layers, self._hidden, self._inputs, strict=False):
            torch.bmm(layer, rows, out=hidden).relu_()
            rows = following
        return torch.bmm(self._layers[-1], rows, out=self.output)

    def backward(self, error: Tensor) -> None:
        """Writes the gradients of all layers, given that of the outputs."""
        for index in range(len(self._layers) - 1, 0, -1):
            torch.bmm(error, self._inputs_transposed[index - 1], out=self._gradients[index])
            back = torch.bmm(self._transposed[index], error, out=self._back[index - 1])
            error = _mask_where_relu_was_zero(back, self._hidden[index - 1], 0, grad_input=back)
        torch.bmm(error, self._first.mT, out=self._gradients[0])


def layer_like(like: Tensor, rows: int, batch: int) -> Tensor:
    """An uninitialised buffer ``[K, rows, batch]`` on the device of ``like``."""
    return like.new_empty(like.shape[0], rows, batch)


class LossGradient:
    """Loss and gradient of a minibatch of fixed size B; calling it fills ``flat.gradient``.

    The loss of a member is the mean squared error over batch and state dimensions (Algorithm 1,
    line 12, as a mean); members do not touch each other.

    Args:
        model: its parameters have to be views of ``flat``.
        flat: where parameters and gradients live.
        batch: B.
    """

    def __init__(self, model: LowRankDynamics, flat: FlatParameters, batch: int) -> None:
        shape = model.settings
        members, rank, states = shape.members, shape.rank, shape.state_dim
        self._agent = model.agent_layer.data
        self._agent_bias = self._agent[:, :, -1:]
        self._agent_gradient = flat.gradient_of(model.agent_layer)
        self._agent_bias_gradient = self._agent_gradient[:, :, -1:]
        self._states = _Perceptron(model.state_layers, flat, batch)
        self._actions = _Perceptron(model.action_layers, flat, batch)
        self._v = self._states.output.view(members, states, rank, batch)
        self._v_work, self._v_error = torch.empty_like(self._v), torch.empty_like(self._v)
        self._v_error_rows = self._v_error.view(members, states * rank, batch)
        self._u, self._uw, self._uw_error, self._u_error = (layer_like(self._agent, rank, batch) for _ in range(4))
        self._uw_over_states = self._uw.unsqueeze(1)
        self._error = layer_like(self._agent, states, batch)
        self._error_over_rank = self._error.unsqueeze(2)
        self._error_row = self._error.view(members, 1, -1)
        self._error_column = self._error_row.mT
        self._scale = 2.0 / (batch * states)

    def __call__(self, batch: Minibatch) -> Tensor:
        """Returns the squared errors summed over batch and dimensions ``[K, 1, 1]``."""
        self._states.forward(batch.states)
        w = self._actions.forward(batch.actions)
        u = torch.gather(self._agent, 2, batch.agents, out=self._u).add_(self._agent_bias)
        torch.mul(u, w, out=self._uw)
        torch.mul(self._v, self._uw_over_states, out=self._v_work)
        error = torch.sum(self._v_work, 2, out=self._error).sub_(batch.targets)
        squared = torch.bmm(self._error_row, self._error_column)

        error.mul_(self._scale)
        torch.mul(self._error_over_rank, self._v, out=self._v_work)
        uw_error = torch.sum(self._v_work, 1, out=self._uw_error)
        torch.mul(self._error_over_rank, self._uw_over_states, out=self._v_error)
        self._states.backward(self._v_error_rows)
        self._backward_agents(batch.agents, torch.mul(uw_error, w, out=self._u_error))
        self._actions.backward(uw_error.mul_(u))
        return squared

    def _backward_agents(self, index: Tensor, error: Tensor) -> None:
        self._agent_gradient.zero_().scatter_add_(2, index, error)
        torch.sum(error, 2, keepdim=True, out=self._agent_bias_gradient)
