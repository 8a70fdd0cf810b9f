"""Alternating least squares as the last step of training: what is linear in the model is solved for, not searched for.

Given the agents' and the actions' factors, and all but the last layer of the state encoder, a prediction is linear in
that last layer; given the encoders it is linear in the factors of each agent. In CartPole training by minibatches
leaves ten times the loss that these two least-squares problems reach. The paper has no such step.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from persim.data.trajectories import Trajectories
from persim.errors import InputError, check_at_least
from persim.learning.layers import perceptron, with_ones
from persim.learning.model import LowRankDynamics

HELD_OUT = 0.05  # of the transitions: a round is kept only if it predicts these better
BLOCK = 4096  # rows whose hidden units are in memory at once
SINGLES = 512  # the same where every row has an action of its own
CHUNKS = (16, 64)  # least and most rows of one agent and one action whose products are summed at once
EQUATIONS = 3  # for each unknown, before it is solved for: with fewer the solution follows what no factor explains
TINY = 1e-12  # least scale of errors
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolishSettings:
    """How training ends.

    Attributes:
        rounds: of alternating least squares, each over the state encoder's last layer, then the agents' factors; 0
            for none.
        ridge: weight of the squared change of the weights, as a share of the mean diagonal of the normal equations.
            1e-6 to 1e-10 give about the same (on CartPole's pure data 1e-8 is better than 1e-6); at 1e-12 float64 no
            longer bears it.

    Raises:
        InputError: a number is out of range.
    """

    rounds: int = 3
    ridge: float = 1e-8

    def __post_init__(self) -> None:
        check_at_least("polish", self.rounds, 0)
        if not 0 < self.ridge < np.inf:
            raise InputError(f"ridge is {self.ridge}, but it has to be a finite number above 0; 1e-8 is the default")


NOT_POLISHED = PolishSettings(rounds=0)


class _Rows:
    """M transitions in float64, feature-major, as the model scales and encodes them.

    Attributes:
        agents: ids ``[M]``.
        states: ``[S, M]``.
        actions: ``[A, M]``.
        targets: ``[S, M]``: differences, or next states if the model is not ``residual``.
    """

    def __init__(self, model: LowRankDynamics, data: Trajectories, rows: NDArray[np.int64]) -> None:
        device = model.device
        self.agents = torch.from_numpy(data.agent[rows]).to(device)
        state, delta = (torch.from_numpy(column[rows]).double().to(device) for column in (data.observation, data.delta))
        self.states = model.scaled(state.mT).contiguous()
        self.targets = model.scaled_deltas(model.target(state, delta).mT).contiguous()
        self.actions = model.encode_actions(torch.from_numpy(data.action[rows]).to(device)).double().contiguous()

    def __len__(self) -> int:
        return len(self.agents)


class _Weights:
    """The weights of K members in float64, and what they make of transitions."""

    def __init__(self, model: LowRankDynamics) -> None:
        shape = model.settings
        self.states, self.rank = shape.state_dim, shape.rank
        layer = model.agent_layer.detach().double()
        self.agent = layer[..., :-1] + layer[..., -1:]  # [K, R, N]
        self.hidden = [layer.detach().double() for layer in model.state_layers[:-1]]
        self.last: Tensor = model.state_layers[-1].detach().double()  # [K, S R, F]
        self.actions = [layer.detach().double() for layer in model.action_layers]

    def units(self, states: Tensor) -> Tensor:
        """Compute the inputs ``[K, F, B]`` of the state encoder's last layer, ones included, for states ``[S, B]``."""
        rows = states.expand(len(self.last), -1, -1)
        for layer in self.hidden:
            rows = torch.bmm(layer, with_ones(rows)).relu_()
        return with_ones(rows)

    def errors(self, rows: _Rows, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict the rows with these indices ``[B]``.

        It returns the units ``[K, F, B]``, the factors v ``[K, S, R, B]`` and w ``[K, R, B]``, and predicted minus true
        ``[K, S, B]``.
        """
        units = self.units(rows.states[:, index])
        w = perceptron(self.actions, rows.actions[:, index].expand(len(self.last), -1, -1))
        v = torch.bmm(self.last, units).view(len(units), self.states, self.rank, -1)
        uw = self.agent[:, :, rows.agents[index]] * w
        return units, v, w, (v * uw.unsqueeze(1)).sum(2) - rows.targets[:, index]

    def all_errors(self, rows: _Rows) -> Tensor:
        """Compute predicted minus true ``[K, S, M]`` of all rows."""
        blocks = torch.split(torch.arange(len(rows), device=rows.states.device), BLOCK)
        return torch.cat([self.errors(rows, index)[-1] for index in blocks], dim=-1)


def _size(errors: Tensor, scale: Tensor) -> Tensor:
    """Measure the size ``[K, 1, B]`` of errors ``[K, S, B]``: about 1 for most of them, growing linearly beyond.

    It is what the least squares minimise in the sum, by weights of 1 / size (iteratively reweighted least squares of
    the pseudo-Huber loss, Charbonnier et al. 1994). Squares alone would serve the few transitions where the dynamics
    jump: at and near MountainCar's wall, about a tenth of the rows, lie more than nine tenths of the squared error, and
    whatever is spent there is lost for all other states.
    """
    return torch.sqrt(1 + (errors / scale.unsqueeze(-1)).square().mean(1, keepdim=True))


def _chunks(rows: _Rows, discrete: bool) -> Tensor:
    """Indices ``[C, L]`` of rows that share agent and action, filled up with -1; single rows if no two do."""
    if not discrete:
        return torch.arange(len(rows), device=rows.agents.device).unsqueeze(1)
    group = rows.agents * len(rows.actions) + rows.actions.argmax(0)
    order = torch.argsort(group, stable=True)
    _, counts = torch.unique_consecutive(group[order], return_counts=True)
    least, most = CHUNKS
    length = int(min(max(float(counts.double().mean()), least), most))
    chunks_of = (counts + length - 1) // length
    # The place of each row among all chunks' places: where its group's chunks start, plus its number in the group.
    starts = (chunks_of.cumsum(0) - chunks_of) * length
    within = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    index = order.new_full((int(chunks_of.sum()) * length,), -1)
    index[starts.repeat_interleave(counts) + within] = order
    return index.view(-1, length)


def _solve_last(weights: _Weights, rows: _Rows, chunks: Tensor, scale: Tensor, ridge: float) -> Tensor:
    """Solve for the last layer of the state encoder ``[K, S R, F]`` that fits the rows best.

    The inputs of this problem are the R F products of u w and the units, so the blocks of its Gram matrix are those
    of the units, weighted by products of two entries of u w, R (R + 1) / 2 of them. Rows that share agent and action
    share these weights: their units are multiplied once for all blocks.
    """
    members, rank, features = len(weights.last), weights.rank, weights.last.shape[-1]
    first, second = torch.triu_indices(rank, rank, device=chunks.device)
    like, length = weights.last, chunks.shape[1]
    many = max(1, BLOCK // (length * members)) if length > 1 else SINGLES
    gram = like.new_zeros(members, len(first), features * features)
    moment = like.new_zeros(members, rank, features * weights.states)
    products = like.new_empty(members * many if length > 1 else 0, features, features)
    for block in torch.split(chunks, many):
        index, known = block.clamp(min=0).flatten(), (block >= 0).flatten()
        units, _, w, error = weights.errors(rows, index)
        share = torch.where(known, 1 / _size(error, scale), 0.0)
        uw = (weights.agent[:, :, rows.agents[index]] * w).view(members, rank, len(block), length)[..., 0]
        weight = uw[:, first] * uw[:, second]
        if length == 1:
            weighted = (weight.unsqueeze(2) * (units * share).unsqueeze(1)).view(members, -1, len(block))
            gram.view(members, -1, features).baddbmm_(weighted, units.mT)
            inputs = (uw.unsqueeze(2) * units.unsqueeze(1)).view(members, -1, len(block))
            moment.view(members, -1, weights.states).baddbmm_(inputs, (error * share).mT, alpha=-1)
            continue
        units, error = (
            (x * share.sqrt()).view(members, -1, len(block), length).transpose(1, 2).flatten(0, 1)
            for x in (units, error)
        )
        own = torch.bmm(units, units.mT, out=products[: len(units)])
        gram.baddbmm_(weight, own.view(members, len(block), -1))
        moment.baddbmm_(uw, torch.bmm(units, error.mT).view(members, len(block), -1), alpha=-1)
    pair = first.new_zeros(rank, rank)
    pair[first, second] = pair[second, first] = torch.arange(len(first), device=first.device)
    blocks = gram[:, pair.flatten()].view(members, rank, rank, features, features)
    full = blocks.transpose(2, 3).reshape(members, rank * features, rank * features)
    change = _ridge_solution(full, moment.view(members, rank * features, weights.states), ridge)
    change = change.view(members, rank, features, weights.states).permute(0, 3, 1, 2)
    return weights.last + change.reshape(members, -1, features)


def _solve_agents(weights: _Weights, rows: _Rows, scale: Tensor, ridge: float) -> Tensor:
    """Solve for the agents' factors ``[K, R, N]`` that fit the rows best; those of agents with too few rows stay."""
    members, rank, agents = weights.agent.shape
    gram = weights.agent.new_zeros(members, agents, rank, rank)
    moment = weights.agent.new_zeros(members, agents, rank, 1)
    for index in torch.split(torch.arange(len(rows), device=gram.device), BLOCK):
        ids = rows.agents[index]
        _, v, w, error = weights.errors(rows, index)
        share = _size(error, scale).rsqrt() / scale.unsqueeze(-1)  # [K, S, B]: of each row and state dimension
        inputs = (v * (w.unsqueeze(1) * share.unsqueeze(2))).permute(0, 3, 2, 1)  # [K, B, R, S]
        gram.index_add_(1, ids, inputs @ inputs.mT)
        moment.index_add_(1, ids, inputs @ (error * share).mT.unsqueeze(-1), alpha=-1)
    change = _ridge_solution(gram, moment, ridge).squeeze(-1).mT
    return weights.agent + change * _determined(rows, agents, rank)


def _determined(rows: _Rows, agents: int, rank: int) -> Tensor:
    """Tell which agents ``[N]`` have rows enough for their factors: at least R, each an equation a state dimension."""
    counts = torch.bincount(rows.agents, minlength=agents)
    return (counts >= rank) & (counts * len(rows.targets) >= EQUATIONS * rank)


def _ridge_solution(gram: Tensor, moment: Tensor, ridge: float) -> Tensor:
    """Solve ``(G + ridge mean(diag G) 1) x = m`` for ``[..., n, n]`` and ``[..., n, m]``; NaN where it has no solution.

    The mean is over a member's whole diagonal, that of all its agents where there is one matrix for each.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    shift = ridge * diagonal.flatten(1).mean(1).view(-1, *[1] * (diagonal.ndim - 1))
    regular = gram.clone()
    regular.diagonal(dim1=-2, dim2=-1).add_(shift)
    factor, failed = torch.linalg.cholesky_ex(regular)
    solution = torch.cholesky_solve(moment, factor)
    return torch.where((failed != 0)[..., None, None], torch.nan, solution)


@torch.no_grad()
def polish(model: LowRankDynamics, data: Trajectories, settings: PolishSettings, rng: Generator) -> list[int]:
    """Improve a trained model in place by alternating least squares; returns the rounds that each member kept ``[K]``.

    With fewer than ``EQUATIONS`` transitions for each weight of the last layer that predicts one state dimension
    nothing is solved for: on a toy with 1.4 of them the errors doubled, with 4.7 they halved.

    Args:
        model: K trained members.
        data: the trajectories that it was trained on.
        settings: rounds and ridge.
        rng: chooses the transitions that are held out of the fits.
    """
    kept = [0] * model.settings.members
    if not settings.rounds:
        return kept
    held = np.zeros(len(data), dtype=bool)
    held[rng.permutation(len(data))[: max(1, round(HELD_OUT * len(data)))]] = True
    fitted, check = _Rows(model, data, np.flatnonzero(~held)), _Rows(model, data, np.flatnonzero(held))
    few = int((~_determined(fitted, data.n_agents, model.settings.rank)).sum())
    if few:
        text = "%d of %d agents have too few transitions for factors of rank %d; theirs are kept as trained"
        _logger.info(text, few, data.n_agents, model.settings.rank)
    unknowns = model.settings.rank * model.state_layers[-1].shape[-1]
    if len(fitted) < EQUATIONS * unknowns:
        text = "%d transitions are too few to solve for %d weights of each state dimension; all are kept as trained"
        _logger.info(text, len(fitted), unknowns)
        return kept
    chunks = _chunks(fitted, model.settings.discrete)
    for number in range(settings.rounds):
        weights, old = _Weights(model), (model.state_layers[-1].clone(), model.agent_layer.clone())
        # A normal distribution's deviation from the median, per member and state dimension; 0 only if all is exact.
        scale = weights.all_errors(fitted).abs().median(-1).values.div(0.6745).clamp(min=TINY)
        before = _size(weights.all_errors(check), scale).mean((1, 2))
        weights.last = _solve_last(weights, fitted, chunks, scale, settings.ridge)
        weights.agent = _solve_agents(weights, fitted, scale, settings.ridge)
        model.state_layers[-1].copy_(weights.last)
        model.agent_layer[..., :-1].copy_(weights.agent - model.agent_layer[..., -1:].double())
        better = _size(_Weights(model).all_errors(check), scale).mean((1, 2)) < before  # never true of NaN
        for parameter, was in zip((model.state_layers[-1], model.agent_layer), old, strict=True):
            parameter.copy_(torch.where(better.view(-1, 1, 1), parameter, was))
        kept = [own + int(good) for own, good in zip(kept, better.tolist(), strict=True)]
        if not better.all():
            lost = [str(k) for k in (~better).nonzero().flatten().tolist()]
            text = "polish round %d did not lower the held-out error of member %s, which keeps its weights"
            _logger.info(text, number + 1, ", ".join(lost))
        if not better.any():
            break
    return kept
