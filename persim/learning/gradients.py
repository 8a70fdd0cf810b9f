"""Minibatches, and the gradient of Algorithm 1's loss on them in closed form.

A training step of these small networks is bound by the number and the memory traffic of its
operations, not by arithmetic. Writing the gradient out and reusing its buffers makes a whole step two
to five times faster than autograd on the same batch (docs/performance.md); the tests compare both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from persim.data.trajectories import Trajectories
from persim.learning.cuda_graph import Branch
from persim.learning.model import LowRankDynamics

# Minibatches gathered at once: enough to make the gather cheap, few enough to stay in the cache.
CHUNK_BATCHES = 32

# Sets the gradient to zero where the ReLU was inactive, in place; a test compares the whole gradient with autograd's.
_relu_backward = torch.ops.aten.threshold_backward.grad_input


class Minibatch(NamedTuple):
    """B transitions for each of K members, feature-major; the last row of states and of actions is ones.

    Attributes:
        agents: ids, repeated along the rank, ``[K, R, B]``.
        states: ``[K, S + 1, B]``.
        actions: encoded, ``[K, A + 1, B]``.
        targets: scaled state differences ``[K, S, B]``, or next states if the model is not ``residual``.
    """

    agents: Tensor
    states: Tensor
    actions: Tensor
    targets: Tensor


class TrainingRows:
    """The transitions with indices ``rows`` ``[M]``, packed for training: one ``[state, 1, action, 1, target]`` each.

    The model scales the states and their differences, encodes the actions and gives the device.
    """

    def __init__(self, model: LowRankDynamics, data: Trajectories, rows: NDArray[np.int64]) -> None:
        device = model.device
        state, delta = (torch.from_numpy(column[rows]).to(device) for column in (data.observation, data.delta))
        target = model.scaled_deltas(model.target(state, delta).mT).mT
        state = model.scaled(state.mT).mT
        action = model.encode_actions(torch.from_numpy(data.action[rows]).to(device)).mT
        one = torch.ones(len(rows), 1, device=device)
        self._rank = model.settings.rank
        self._packed = torch.cat([state, one, action, one, target], dim=1)
        self._agents = torch.from_numpy(data.agent[rows]).to(device)
        self._widths = [data.state_dim + 1, data.action_dim + 1, data.state_dim]

    def __len__(self) -> int:
        return len(self._agents)

    def batches(self, size: int, orders: Sequence[NDArray[np.int64]]) -> Iterator[Minibatch]:
        """Yields an epoch in minibatches of ``size`` rows (the last may be smaller), in each member's order ``[M]``."""
        order = torch.from_numpy(np.stack(orders)).to(self._agents.device)
        whole = len(self) // size
        for first in range(0, whole, CHUNK_BATCHES):
            count = min(CHUNK_BATCHES, whole - first)
            yield from self._gather(order[:, first * size : (first + count) * size], count)
        if len(self) > whole * size:
            yield from self._gather(order[:, whole * size :], 1)

    def minibatch(self, order: Tensor) -> Minibatch:
        """Gathers the rows ``[K, B]`` of each member as one minibatch."""
        return next(self._gather(order, 1))

    def _gather(self, order: Tensor, count: int) -> Iterator[Minibatch]:
        """Gathers the rows ``[K, count * B]`` at once and yields them as ``count`` minibatches."""
        members, flat = len(order), order.flatten()
        packed = self._packed.index_select(0, flat).view(members, count, -1, self._packed.shape[1])
        packed = packed.permute(1, 0, 3, 2).contiguous()
        agents = self._agents.index_select(0, flat).view(members, count, 1, -1).transpose(0, 1)
        agents = agents.expand(-1, -1, self._rank, -1)
        for columns in zip(agents, *torch.split(packed, self._widths, dim=2), strict=True):
            yield Minibatch(*columns)


class FlatParameters:
    """All parameters of a model in one vector ``values``, and their gradients in another, ``gradient``.

    The model's parameters become views of ``values``, so the optimiser works on a single tensor.
    """

    def __init__(self, model: LowRankDynamics) -> None:
        parameters = list(model.parameters())
        self.values = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.gradient = torch.zeros_like(self.values)
        self._gradient_of: dict[int, Tensor] = {}
        sizes = [p.numel() for p in parameters]
        views = (torch.split(flat, sizes) for flat in (self.values, self.gradient))
        for p, value, gradient in zip(parameters, *views, strict=True):
            p.data = value.view_as(p)
            self._gradient_of[id(p)] = gradient.view_as(p)

    def gradient_of(self, parameter: Tensor) -> Tensor:
        """Returns the view of ``gradient`` that belongs to a parameter, in the parameter's shape."""
        return self._gradient_of[id(parameter)]


class _Perceptron:
    """Forward and backward passes of one MLP in buffers for one batch size B.

    Its products are taken in ``dtype``. Where that is not the weights' own, weights and inputs are rounded to it
    before a pass, and the gradients are widened after it; sums inside a product are in float32 either way.
    """

    def __init__(self, layers: nn.ParameterList, flat: FlatParameters, batch: int, dtype: torch.dtype) -> None:
        self._weights = [layer.data for layer in layers]
        self._weight_gradients = [flat.gradient_of(layer) for layer in layers]
        self._rounds = dtype != self._weights[0].dtype
        self._layers = [layer.to(dtype) for layer in self._weights]  # the weights themselves where nothing is rounded
        self._gradients = [layer.new_empty(layer.shape) for layer in self._layers]
        if not self._rounds:
            self._gradients = self._weight_gradients
        # The input of each layer but the first: the hidden units above it, and a row of ones for the bias.
        self._inputs = [layer.new_ones(len(layer), layer.shape[1] + 1, batch) for layer in self._layers[:-1]]
        self._hidden = [rows[:, :-1] for rows in self._inputs]
        self._back = [layer_like(rows, rows.shape[1], batch) for rows in self._hidden]
        self._transposed = [layer[:, :, :-1].mT for layer in self._layers]
        self._inputs_transposed = [rows.mT for rows in self._inputs]
        last = self._layers[-1]
        self._output = layer_like(last, last.shape[1], batch)
        self.output = layer_like(self._weights[-1], last.shape[1], batch) if self._rounds else self._output
        self._error = torch.empty_like(self._output)
        self._first = layer_like(last, self._layers[0].shape[2], batch)
        self._beside = Branch(last.device)

    def forward(self, rows: Tensor) -> Tensor:
        """Returns the outputs ``[K, out, B]`` for inputs ``[K, in + 1, B]``."""
        if self._rounds:
            torch._foreach_copy_(self._layers, self._weights)
            rows = self._first.copy_(rows)
        self._first = rows
        for layer, hidden, following in zip(self._layers, self._hidden, self._inputs, strict=False):
            torch.bmm(layer, rows, out=hidden).relu_()
            rows = following
        output = torch.bmm(self._layers[-1], rows, out=self._output)
        return self.output.copy_(output) if self._rounds else output

    def backward(self, error: Tensor) -> None:
        """Writes the gradients of all layers, given that of the outputs ``[K, out, B]``."""
        if self._rounds:
            error = self._error.copy_(error)
        for index in range(len(self._layers) - 1, 0, -1):
            with self._beside:
                torch.bmm(error, self._inputs_transposed[index - 1], out=self._gradients[index])
            back = torch.bmm(self._transposed[index], error, out=self._back[index - 1])
            error = _relu_backward(back, self._hidden[index - 1], 0, grad_input=back)
        torch.bmm(error, self._first.mT, out=self._gradients[0])
        self._beside.join()
        if self._rounds:
            torch._foreach_copy_(self._weight_gradients, self._gradients)


def layer_like(like: Tensor, rows: int, batch: int) -> Tensor:
    """Returns an uninitialised buffer ``[K, rows, B]`` with the device, type and K of ``like``."""
    return like.new_empty(like.shape[0], rows, batch)


class LossGradient:
    """Computes the loss of a minibatch of fixed size B and writes its gradient into ``flat.gradient``.

    The loss of a member is the mean squared error over batch and state dimensions (Algorithm 1, line 12, as
    a mean). Members are independent of each other. The model's parameters have to be views of ``flat.values``.
    The products of the state and action encoders are taken in ``dtype``, the rest in the model's own type.
    """

    def __init__(
        self, model: LowRankDynamics, flat: FlatParameters, batch: int, dtype: torch.dtype = torch.float32
    ) -> None:
        shape = model.settings
        members, rank, states = shape.members, shape.rank, shape.state_dim
        self._agent = model.agent_layer.data
        self._agent_bias = self._agent[:, :, -1:]
        self._agent_gradient = flat.gradient_of(model.agent_layer)
        self._agent_bias_gradient = self._agent_gradient[:, :, -1:]
        self._states = _Perceptron(model.state_layers, flat, batch, dtype)
        self._actions = _Perceptron(model.action_layers, flat, batch, dtype)
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
        self._beside = Branch(self._error.device)

    def __call__(self, batch: Minibatch) -> Tensor:
        """Returns the squared errors ``[K, 1, 1]``, summed over batch and state dimensions."""
        with self._beside:
            w = self._actions.forward(batch.actions)
            u = torch.gather(self._agent, 2, batch.agents, out=self._u).add_(self._agent_bias)
            torch.mul(u, w, out=self._uw)
        self._states.forward(batch.states)
        self._beside.join()
        torch.mul(self._v, self._uw_over_states, out=self._v_work)
        error = torch.sum(self._v_work, 2, out=self._error).sub_(batch.targets)
        squared = torch.bmm(self._error_row, self._error_column)

        error.mul_(self._scale)
        with self._beside:
            torch.mul(self._error_over_rank, self._v, out=self._v_work)
            uw_error = torch.sum(self._v_work, 1, out=self._uw_error)
            u_error = torch.mul(uw_error, w, out=self._u_error)
            self._agent_gradient.zero_().scatter_add_(2, batch.agents, u_error)
            torch.sum(u_error, 2, keepdim=True, out=self._agent_bias_gradient)
            self._actions.backward(uw_error.mul_(u))
        torch.mul(self._error_over_rank, self._uw_over_states, out=self._v_error)
        self._states.backward(self._v_error_rows)
        self._beside.join()
        return squared
