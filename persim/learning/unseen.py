"""Agents that were never observed: a regression from covariates to each member's agent factors (Appendix F.5).

A model determines its factors only up to a change of basis: A u and the inverse of A applied to v * w predict
the same. Each member learns a basis of its own, so each gets its own regression, and factors are never averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from numpy.random import SeedSequence
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from persim import seeding
from persim.data.trajectories import Trajectories
from persim.envs.spec import Array, EnvSpec
from persim.errors import InputError, check_at_least, check_between
from persim.learning.layers import mean_and_deviation, perceptron, uniform_layer, with_ones, z_scores
from persim.learning.model import LowRankDynamics
from persim.storage import store

Known: TypeAlias = "Trajectories | tuple[Sequence[int], ArrayLike]"
FEWEST = 2  # agents that a regression needs at least


@dataclass(frozen=True)
class MapSettings:
    """How the regressions are fitted; the paper gives the widths only.

    Attributes:
        widths: widths of the hidden layers.
        steps: steps of Adam, each on all known agents.
        learning_rate: of Adam at first; it falls to 0 along half a cosine.

    Raises:
        InputError: a number is out of range.
    """

    widths: tuple[int, ...] = (64, 64)
    steps: int = 500
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        for width in self.widths:
            check_at_least("widths", width, 1)
        check_at_least("steps", self.steps, 1)
        check_between("learning_rate", self.learning_rate, 0, 1)
        object.__setattr__(self, "widths", tuple(self.widths))


class FactorMap(nn.Module):
    """Maps covariates to agent factors by an affine map plus a ReLU MLP, for all K members at once.

    MountainCar's factors are affine in gravity. A ReLU MLP alone approximates such factors well inside the range
    of the known agents, but badly outside. So the affine part is solved by least squares, and the MLP starts at
    zero and learns the residual.

    As in ``LowRankDynamics``, data are feature-major and the last column of a layer ``[K, out, in + 1]`` is its
    bias. The C inputs and R outputs are z-scored, and each member draws its initial weights from its own seed.
    """

    input_scale: Tensor
    output_scale: Tensor
    affine: Tensor

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], seeds: Sequence[SeedSequence]) -> None:
        super().__init__()
        rngs = [np.random.default_rng(seed) for seed in seeds]
        shapes = [((fan_out, fan_in + 1), fan_in) for fan_in, fan_out in pairwise((inputs, *widths, outputs))]
        self.layers = nn.ParameterList(torch.stack([uniform_layer(*shape, rng) for rng in rngs]) for shape in shapes)
        nn.init.zeros_(self.layers[-1])
        self.register_buffer("affine", torch.zeros(len(rngs), outputs, inputs + 1))
        self.register_buffer("input_scale", torch.zeros(2, inputs))
        self.register_buffer("output_scale", torch.zeros(2, len(rngs), outputs))

    def fit_affine(self, covariates: Tensor, factors: Tensor) -> None:
        """Fits the scales and, by least squares, the affine map to covariates ``[C, M]`` and factors ``[K, R, M]``."""
        self.input_scale.copy_(mean_and_deviation(covariates, -1))
        self.output_scale.copy_(mean_and_deviation(factors, -1))
        rows = with_ones(self.inputs(covariates).double()).mT
        # NumPy's, as the last bits of torch.linalg.lstsq depend on where its arguments lie in memory.
        targets = self.z_factors(factors).double().mT.numpy()
        solutions = [np.linalg.lstsq(rows.numpy(), own, rcond=None)[0] for own in targets]
        self.affine.copy_(torch.from_numpy(np.stack(solutions)).mT)

    def inputs(self, covariates: Tensor) -> Tensor:
        """Returns the z-scores of covariates ``[C, M]``."""
        return z_scores(covariates.double(), self.input_scale).float()

    def z_factors(self, factors: Tensor) -> Tensor:
        """Returns the z-scores of factors ``[K, R, M]``."""
        return z_scores(factors.double(), self.output_scale).float()

    def scaled(self, covariates: Tensor) -> Tensor:
        """Maps covariates ``[C, M]`` to z-scored factors ``[K, R, M]``."""
        rows = self.inputs(covariates).expand(len(self.affine), -1, -1)
        return torch.bmm(self.affine, with_ones(rows)) + perceptron(self.layers, rows)

    def forward(self, covariates: Tensor) -> Tensor:
        """Maps covariates ``[C, M]`` to factors ``[K, R, M]``."""
        mean, deviation = self.output_scale.unsqueeze(-1)
        factors: Tensor = mean + deviation * self.scaled(covariates)
        return factors

    def arrays(self) -> store.Arrays:
        """Returns all weights and scales by name."""
        return {name: value.detach().numpy() for name, value in self.state_dict().items()}

    @classmethod
    def from_arrays(cls, arrays: store.Arrays, widths: Sequence[int]) -> FactorMap:
        """Rebuilds the maps of ``arrays()``."""
        _, members, outputs = arrays["output_scale"].shape
        built = cls(arrays["input_scale"].shape[1], outputs, widths, [SeedSequence(0)] * members)
        built.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        return built


def check_share(p: float) -> float:
    """Returns ``p``, a share of the training agents, as a float.

    Raises:
        InputError: ``p`` is not in (0, 1].
    """
    if not 0 < p <= 1:
        raise InputError(f"p is {p}, but it is a share of the training agents; give a number above 0 and at most 1")
    return float(p)


def known_agents(n_agents: int, p: float, seed: int) -> NDArray[np.int64]:
    """Draws the agents whose covariates are used: sorted indices ``[round(p * n_agents)]``.

    They are the first of one shuffled list, so a smaller share is a subset of a larger one.

    Raises:
        InputError: the share is not in (0, 1], or fewer than two agents remain.
    """
    count = round(check_share(p) * n_agents)
    if count < FEWEST:
        left = f"leaves {count} of {n_agents} training agents, but a regression needs at least {FEWEST}"
        raise InputError(f"p is {p}, which {left}; give a larger p, or the covariates of more agents")
    return np.sort(seeding.generator(seed, "unseen", "known", n_agents).permutation(n_agents)[:count])


def fit_map(
    model: LowRankDynamics, spec: EnvSpec, known: Known, p: float, seed: int, settings: MapSettings | None = None
) -> tuple[FactorMap, list[float]]:
    """Fits every member's map from covariates to its agent factors; returns the maps and every step's mean loss.

    Args:
        model: the ensemble.
        spec: the environment; it names the C covariates.
        known: the data that the model was trained on, with covariates; or ids ``[n]`` of training agents and
            their covariates ``[n, C]``.
        p: share of these agents that is used.
        seed: draws which agents are used (``known``) and the initial weights (``map``).
        settings: of the regressions.

    Raises:
        InputError: covariates are missing or do not fit, the model does not have an id, or ``p`` is out of range.
    """
    settings = settings or MapSettings()
    agents, covariates = _known(model, spec, known)
    chosen = known_agents(len(agents), p, seed)
    members = model.settings.members
    with torch.no_grad():
        ids = torch.from_numpy(agents[chosen]).to(model.device).expand(members, -1)
        factors = model.agent_factors(ids).double().cpu()
    seeds = [seeding.sequence(seed, "unseen", "map", member) for member in range(members)]
    built = FactorMap(len(spec.covariates), model.settings.rank, settings.widths, seeds)
    rows = torch.from_numpy(covariates[chosen]).mT
    built.fit_affine(rows, factors)
    return built, _descend(built, rows, factors, settings)


def _descend(built: FactorMap, covariates: Tensor, factors: Tensor, settings: MapSettings) -> list[float]:
    """Runs Adam on covariates ``[C, M]`` and factors ``[K, R, M]``; returns the loss of every step."""
    targets = built.z_factors(factors)
    adam = torch.optim.Adam(built.parameters(), lr=settings.learning_rate)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
    losses = []
    for _ in range(settings.steps):
        each = (built.scaled(covariates) - targets).square().mean((1, 2))
        adam.zero_grad()
        torch.autograd.backward(each.sum())  # the members share no weights, so each descends on its own loss
        adam.step()
        rate.step()
        losses.append(each.detach().mean())
    return torch.stack(losses).tolist()


def unseen_model(model: LowRankDynamics, factor_map: FactorMap, covariates: Array) -> LowRankDynamics:
    """Returns the ensemble for agents with covariates ``[M, C]``, whose ids are 0 to M - 1."""
    with torch.no_grad():
        return model.with_agents(factor_map(torch.tensor(covariates).mT))


def _known(model: LowRankDynamics, spec: EnvSpec, known: Known) -> tuple[NDArray[np.int64], Array]:
    """Returns ids ``[n]`` and covariates ``[n, C]`` of the training agents, or raises ``InputError``."""
    trained = model.settings.n_agents
    if isinstance(known, Trajectories):
        if known.covariates is None:
            raise InputError("the data have no covariates of their agents; give data with covariates, or ids with them")
        if known.n_agents != trained:
            what = f"the data have {known.n_agents} agents, but the model was trained on {trained}"
            raise InputError(f"{what}; give its own data")
        agents = np.unique(known.agent)  # an agent without transitions still has its initial factors
        return agents, spec.covariate_rows(known.covariates)[agents]
    agents, covariates = np.asarray(known[0], dtype=np.int64), spec.covariate_rows(known[1])
    if agents.shape != (len(covariates),):
        raise InputError(f"{agents.size} training agents came with {len(covariates)} rows of covariates; give one each")
    if agents.size == 0 or agents.min() < 0 or agents.max() >= trained:
        raise InputError(f"training agents are not all in 0..{trained - 1}, the model's agents; give ids in that range")
    if len(np.unique(agents)) < len(agents):
        raise InputError("a training agent is named twice; give each id once")
    return agents, covariates
