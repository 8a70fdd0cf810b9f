"""Each agent's own weights in closed form, with a prior from the population and its covariates.

The weights theta ``[F]`` of an agent, for one member and one state, are those of a Bayesian linear regression,
``y = terms . theta + noise``, ``theta ~ Normal(M z, C)``, where z holds 1 and the agent's covariates. M, C and the
variance of the noise are found by expectation maximisation over all agents (empirical Bayes; Dempster, Laird and Rubin
1977): where agents have little data or are alike their weights shrink towards what the covariates say, where they have
much each gets its own. A new agent needs nothing but the sums over its steps, so it is adapted to in one solution, from
no step at all to thousands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from persim.storage.store import Arrays
from persim.tables.reading import Array
from persim.tables.steps import Steps
from persim.tables.terms import Terms
from persim.tables.units import Covariates

ROUNDS = 30  # of expectation maximisation; the weights of every tried table change by less than 1 % in the last ten
PIECE = 256  # steps of one agent that are summed at once


@dataclass(frozen=True)
class Sums:
    """What the steps of N agents say of their weights.

    Attributes:
        gram: products of terms ``[K, S, N, F, F]``.
        moment: products of terms and scaled differences ``[K, S, N, F]``.
        square: of the scaled differences ``[S, N]``.
        count: number of steps ``[N]``.
    """

    gram: Tensor
    moment: Tensor
    square: Tensor
    count: Tensor

    @classmethod
    def of(cls, terms: Terms, steps: Steps, agents: int) -> Sums:
        """Sum over the steps of each of N agents, piece by piece."""
        s, count = terms.model.settings, np.bincount(steps.agent, minlength=agents)
        shape = (s.members, s.outputs, agents, terms.count)
        gram, moment = torch.zeros(*shape, terms.count, dtype=torch.double), torch.zeros(*shape, dtype=torch.double)
        square = torch.zeros(s.outputs, agents, dtype=torch.double)
        order = np.argsort(steps.agent, kind="stable")
        place = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)  # of a step among its agent's
        piece = np.cumsum(place % PIECE == 0) - 1
        scale = terms.model.delta_scale.double()
        total = int(piece[-1]) + 1 if len(order) else 0
        at_once = max(1, int(4e7) // (s.members * s.outputs * terms.count * PIECE))  # numbers in memory
        for first in range(0, total, at_once):
            chosen = np.flatnonzero((piece >= first) & (piece < first + at_once))
            rows, where = order[chosen], (piece[chosen] - first, place[chosen] % PIECE)
            pieces = int(where[0][-1]) + 1
            with torch.no_grad():
                found = terms(torch.from_numpy(steps.observation[rows])[None], torch.from_numpy(steps.action[rows]))
            y = (torch.from_numpy(steps.delta[rows]).double() - scale[0]) / scale[1]
            padded = torch.zeros(s.members, pieces, PIECE, s.outputs, terms.count, dtype=torch.double)
            padded[:, where[0], where[1]] = found.double()
            targets = torch.zeros(pieces, PIECE, s.outputs, dtype=torch.double)
            targets[where[0], where[1]] = y
            padded = padded.transpose(2, 3)  # [K, pieces, S, PIECE, F]
            owner = torch.from_numpy(steps.agent[rows[np.flatnonzero(np.diff(where[0], prepend=-1))]])
            gram.index_add_(2, owner, (padded.mT @ padded).transpose(1, 2))
            moments = padded.mT @ targets.transpose(1, 2).unsqueeze(-1)
            moment.index_add_(2, owner, moments.squeeze(-1).transpose(1, 2))
            square.index_add_(1, owner, targets.square().sum(1).T)
        return cls(gram, moment, square, torch.from_numpy(count).double())


@dataclass(frozen=True)
class Prior:
    """What is known of an agent's weights before its steps: ``Normal(mean z, cov)`` in units of ``unit``.

    Attributes:
        mean: M, ``[K, S, 1 + G, F]``.
        cov: C, ``[K, S, F, F]``.
        noise: variance of the scaled differences, ``[K, S]``.
        unit: of the weights ``[K, S, F]``: one over the root mean square of each term.
        covariates: of the training agents.
    """

    mean: Tensor
    cov: Tensor
    noise: Tensor
    unit: Tensor
    covariates: Covariates

    def weights(self, static: Array, sums: Sums) -> tuple[Tensor, Tensor]:
        """Return the mean ``[K, N, S, F]`` and the deviation of the weights, given covariates ``[N, G]`` and steps."""
        mean, cov = _posterior(self, torch.from_numpy(self.covariates.rows(static)), sums)
        unit = self.unit[:, :, None]
        deviation = cov.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt() * unit
        return (mean * unit).transpose(1, 2).float(), deviation.transpose(1, 2).float()

    def arrays(self) -> Arrays:
        """All arrays by name."""
        tensors = {name: getattr(self, name).numpy() for name in ("mean", "cov", "noise", "unit")}
        return {f"prior.{name}": array for name, array in (tensors | {"covariates": self.covariates.values}).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Prior:
        """Read what ``arrays`` gave."""
        names = ("mean", "cov", "noise", "unit")
        mean, cov, noise, unit = (torch.from_numpy(arrays[f"prior.{name}"].copy()) for name in names)
        return cls(mean, cov, noise, unit, Covariates(np.array(arrays["prior.covariates"])))


def _posterior(prior: Prior, known: Tensor, sums: Sums) -> tuple[Tensor, Tensor]:
    """Return mean ``[K, S, N, F]`` and covariance ``[K, S, N, F, F]`` of the weights in units of ``unit``."""
    unit = prior.unit[:, :, None]
    gram, moment = sums.gram * unit[..., None] * unit[..., None, :], sums.moment * unit
    noise = prior.noise[:, :, None, None]
    inverse = torch.linalg.inv(prior.cov)
    before = torch.einsum("ksef,ksgf,ng->ksne", inverse, prior.mean, known)
    cov = torch.linalg.inv(gram / noise[..., None] + inverse[:, :, None])
    return torch.einsum("ksnef,ksnf->ksne", cov, moment / noise + before), cov


def fit_prior(sums: Sums, static: Array, rounds: int = ROUNDS) -> Prior:
    """Find the prior of N agents with these sums and covariates ``[N, G]`` by expectation maximisation."""
    steps, terms = float(sums.count.sum()), sums.gram.shape[-1]
    unit = (sums.gram.sum(2).diagonal(dim1=-2, dim2=-1) / steps).sqrt().clamp_min(1e-6).reciprocal()
    eye = torch.eye(terms, dtype=torch.double)
    pooled = sums.gram.sum(2) * unit[..., None] * unit[..., None, :] + 1e-5 * steps * eye
    centre = torch.linalg.solve(pooled, sums.moment.sum(2) * unit)
    covariates = Covariates.of(static)
    mean = torch.cat([centre.unsqueeze(2), torch.zeros(*centre.shape[:2], static.shape[1], terms)], dim=2)
    noise = torch.full(centre.shape[:2], 0.1, dtype=torch.double)
    prior = Prior(mean.double(), 0.1 * eye.expand(*centre.shape, terms), noise, unit, covariates)
    known, project = (torch.from_numpy(x) for x in (covariates.rows(static), covariates.regression(static)))
    for _ in range(rounds):
        theta, cov = _posterior(prior, known, sums)
        mean = torch.einsum("gn,ksnf->ksgf", project, theta)
        rest = theta - torch.einsum("ng,ksgf->ksnf", known, mean)
        spread = (cov + rest[..., :, None] * rest[..., None, :]).mean(2) + 1e-8 * eye
        prior = Prior(mean, spread, _noise(sums, unit, theta, cov), unit, covariates)
    return prior


def _noise(sums: Sums, unit: Tensor, theta: Tensor, cov: Tensor) -> Tensor:
    """The expected mean square ``[K, S]`` of what the weights leave unexplained."""
    unit = unit[:, :, None]
    gram, moment = sums.gram * unit[..., None] * unit[..., None, :], sums.moment * unit
    fitted = torch.einsum("ksne,ksnef,ksnf->ksn", theta, gram, theta) + (gram * cov).sum((-2, -1))
    left = sums.square - 2 * (theta * moment).sum(-1) + fitted
    return (left.sum(2) / sums.count.sum()).clamp_min(1e-8)
