"""The simulator: three encoders combined in a rank-R product, for all K ensemble members at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from persim.errors import InputError, check_at_least, check_between, check_name, check_seed
from persim.learning.imitation import Imitation
from persim.learning.layers import mean_and_deviation, perceptron, uniform_layer, z_scores
from persim.storage import store

KIND = "model"
_MOST = 10**6  # of agents, widths and the like
# What commands read of what a model was trained on, with its check.
_ABOUT: dict[str, Callable[[Any], object]] = {
    "env": lambda value: check_name("env", value),
    "regime": lambda value: check_name("regime", value),
    "agents": lambda value: check_at_least("agents", value, 1, most=_MOST),
    "seed": check_seed,
}


@dataclass(frozen=True)
class ModelSettings:
    """Shape of a model (Appendix D.1).

    Attributes:
        n_agents: N, agents in the data.
        state_dim: S.
        action_dim: A, the number of discrete actions or of action dimensions.
        discrete: whether actions are whole numbers, which are encoded one-hot.
        rank: R, the number of rank-one terms.
        members: K, ensemble members.
        state_widths: widths of the state encoder's hidden layers.
        action_widths: widths of the action encoder's hidden layers; none for discrete actions.
        normalised: whether states and state differences are z-scored inside the model.
        residual: whether the product is the state difference, as in the paper; else it is the next state itself.
        predicted: how many of the S dimensions the product predicts, the first ones; 0 for all, as in the paper. Fewer
            where the rest follows from them, such as earlier values in tables with lags; then ``forward`` cannot be
            used, as only who knows the rest can complete the next state.

    Raises:
        InputError: a number is below 1, or more dimensions are predicted than there are.
    """

    n_agents: int
    state_dim: int
    action_dim: int
    discrete: bool
    rank: int
    members: int = 1
    state_widths: tuple[int, ...] = (256,)
    action_widths: tuple[int, ...] = ()
    normalised: bool = False
    residual: bool = True
    predicted: int = 0

    def __post_init__(self) -> None:
        check_between("predicted", self.predicted, 0, self.state_dim, closed=True)
        for field in ("n_agents", "state_dim", "action_dim", "rank", "members"):
            check_at_least(field, getattr(self, field), 1, most=_MOST)
        for field in ("state_widths", "action_widths"):
            for width in getattr(self, field):
                check_at_least(field, width, 1, most=_MOST)
            object.__setattr__(self, field, tuple(getattr(self, field)))

    @property
    def outputs(self) -> int:
        """The number of dimensions that the product predicts."""
        return self.predicted or self.state_dim

    @property
    def layer_shapes(self) -> list[tuple[int, int]]:
        """Shapes ``[out, in + 1]`` of one member's layers: of agents, then of the state and of the action encoder."""
        state = (self.state_dim, *self.state_widths, self.outputs * self.rank)
        action = (self.action_dim, *self.action_widths, self.rank)
        return [(out, into + 1) for into, out in ((self.n_agents, self.rank), *pairwise(state), *pairwise(action))]


class LowRankDynamics(nn.Module):
    """The model ``s'_d = s_d + sum_l u_l(agent) v_l(s, d) w_l(a)`` of K members (Section 4, Figure 3).

    Inside, data are feature-major, ``[K, features, B]``: small matrix products vectorise along the batch,
    the long contiguous axis. Every layer is one matrix ``[K, out, in + 1]`` whose last column is its bias.

    Each member draws its initial weights from its own seed, so they do not depend on the other members.

    Raises:
        InputError: the number of seeds is not the number of members.
    """

    # The arrays that are the same for all members.
    SHARED = ("state_scale", "delta_scale", "imitation.bounds")
    imitation: Imitation | None
    state_scale: Tensor
    delta_scale: Tensor

    def __init__(self, settings: ModelSettings, seeds: Sequence[np.random.SeedSequence]) -> None:
        super().__init__()
        if len(seeds) != settings.members:
            raise InputError(f"{len(seeds)} seeds were given for {settings.members} members; give one each")
        self.settings = settings
        members = [self._initial(settings, np.random.default_rng(seed)) for seed in seeds]
        agent, *encoders = (torch.stack(layer) for layer in zip(*members, strict=True))
        n_state = len(settings.state_widths) + 1
        self.agent_layer = nn.Parameter(agent)
        self.state_layers = nn.ParameterList(encoders[:n_state])
        self.action_layers = nn.ParameterList(encoders[n_state:])
        self.imitation = None  # of the policy that recorded the data; learnt when the rest is trained
        # Rows: mean, standard deviation. A model that is not normalised keeps those of its targets for planners alone.
        unscaled = torch.stack([torch.zeros(settings.state_dim), torch.ones(settings.state_dim)])
        if settings.normalised:
            self.register_buffer("state_scale", unscaled)
        self.register_buffer("delta_scale", unscaled[:, : settings.outputs].clone())

    @staticmethod
    def _initial(settings: ModelSettings, rng: np.random.Generator) -> list[Tensor]:
        """Draws one member's layers: agent ``[R, N + 1]``, then state and action encoder ``[out, in + 1]``."""
        return [uniform_layer(shape, shape[1] - 1, rng) for shape in settings.layer_shapes]

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self.agent_layer.device

    def fit_scales(self, states: Tensor, deltas: Tensor) -> None:
        """Sets the z-scores' means and deviations to those of states and targets, given the differences, ``[M, S]``."""
        if self.settings.normalised:
            self.state_scale.copy_(mean_and_deviation(states, 0))
        self.delta_scale.copy_(mean_and_deviation(self.target(states, deltas), 0))

    def scaled(self, states: Tensor) -> Tensor:
        """Converts feature-major states ``[..., S, B]`` to the units of the state encoder."""
        return z_scores(states, self.state_scale) if self.settings.normalised else states

    def scaled_deltas(self, deltas: Tensor) -> Tensor:
        """Converts feature-major targets ``[..., S, B]`` to the units in which ``delta`` predicts them."""
        return z_scores(deltas, self.delta_scale) if self.settings.normalised else deltas

    def target(self, states: Tensor, deltas: Tensor) -> Tensor:
        """Returns what ``delta`` has to predict, unscaled ``[..., S]``: the state differences, or the next states."""
        return deltas if self.settings.residual else states[..., : self.settings.outputs] + deltas

    def encode_actions(self, actions: Tensor) -> Tensor:
        """Encodes actions as ``[..., A, B]``: discrete ``[..., B]`` one-hot, continuous ``[..., B, A]`` transposed."""
        if self.settings.discrete:
            return nn.functional.one_hot(actions, self.settings.action_dim).float().mT
        return actions.float().mT

    def agent_factors(self, agents: Tensor) -> Tensor:
        """Maps agent ids ``[K, B]`` to their factors u ``[K, R, B]``."""
        members, batch = agents.shape
        index = agents.unsqueeze(1).expand(members, self.settings.rank, batch)
        return self.agent_layer.gather(2, index) + self.agent_layer[:, :, -1:]

    def state_factors(self, states: Tensor) -> Tensor:
        """Maps scaled states ``[K, S, B]`` to the factors v ``[K, S, R, B]`` of the predicted dimensions."""
        factors = perceptron(self.state_layers, states)
        return factors.view(len(factors), self.settings.outputs, self.settings.rank, -1)

    def action_factors(self, actions: Tensor) -> Tensor:
        """Maps encoded actions ``[K, A, B]`` to their factors w ``[K, R, B]``."""
        return perceptron(self.action_layers, actions)

    def delta(self, agents: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        """Predicts scaled state differences ``[K, S, B]``, or scaled next states if the model is not ``residual``.

        Agents are ids ``[K, B]``, states are scaled, ``[K, S, B]``, and actions are encoded, ``[K, A, B]``.
        """
        weights = self.agent_factors(agents) * self.action_factors(actions)
        return (self.state_factors(states) * weights.unsqueeze(1)).sum(2)

    def forward(self, agents: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        """Predicts the next states ``[K, B, S]`` of agents with ids ``[B]``, each member by itself.

        States are ``[K, B, S]``, or ``[B, S]`` to give all members the same, and actions ``[B]`` or ``[B, A]``.

        Raises:
            InputError: the model has no agent of an id.
        """
        members = self.settings.members
        if agents.device.type == "cpu" and not bool(((agents >= 0) & (agents < self.settings.n_agents)).all()):
            raise InputError(f"agents are not all in 0..{self.settings.n_agents - 1}; give ids that the model has")
        agents, states, actions = (tensor.to(self.device) for tensor in (agents, states, actions))
        states = states.expand(members, *states.shape[-2:])
        encoded = self.encode_actions(actions).expand(members, -1, -1)
        delta = self.delta(agents.expand(members, -1), self.scaled(states.mT), encoded)
        if self.settings.normalised:
            delta = delta * self.delta_scale[1, :, None] + self.delta_scale[0, :, None]
        return states + delta.mT if self.settings.residual else delta.mT

    def select(self, members: Sequence[int]) -> LowRankDynamics:
        """Returns a new model of the members with these indices, in this order."""
        index = list(members)
        state = {name: value if name in self.SHARED else value[index] for name, value in self.state_dict().items()}
        return self.from_arrays(state, replace(self.settings, members=len(index))).to(self.device)

    def with_agents(self, factors: Tensor) -> LowRankDynamics:
        """Returns a copy of this model for M other agents with these factors ``[K, R, M]``."""
        unbiased = torch.cat([factors, torch.zeros_like(factors[..., :1])], dim=-1)
        state = {**self.state_dict(), "agent_layer": unbiased}
        return self.from_arrays(state, replace(self.settings, n_agents=factors.shape[-1])).to(self.device)

    def arrays(self) -> store.Arrays:
        """Returns all weights by name; all but those in ``SHARED`` have the leading axis K."""
        return {name: value.detach().cpu().numpy() for name, value in self.state_dict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any] | Tensor], settings: ModelSettings) -> LowRankDynamics:
        """Builds the model of ``arrays()`` or of a ``state_dict`` on the CPU.

        Where those of an earlier version lack ``delta_scale``, it is 0, which stands for unknown.

        Raises:
            InputError: the arrays are not those of a model with these settings.
        """
        # Before a model is built, which may take all memory where the settings are not those of the arrays.
        layers = [arrays[name] for name in arrays if "_layer" in name and not name.startswith("imitation.")]
        found = sorted(tuple(layer.shape) for layer in layers)
        if found != sorted((settings.members, *shape) for shape in settings.layer_shapes):
            raise InputError("the weights of a model do not have the shapes that its settings say; give its own")
        model = cls(settings, [np.random.SeedSequence(0)] * settings.members)
        given = {name: torch.as_tensor(array) for name, array in arrays.items()}
        own = {name.removeprefix("imitation."): x for name, x in given.items() if name.startswith("imitation.")}
        model.imitation = Imitation.from_arrays(own) if own else None
        if model.imitation is not None:
            model.imitation.check(settings.members, settings.state_dim + settings.rank, settings.action_dim)
        try:
            model.load_state_dict({"delta_scale": torch.zeros_like(model.delta_scale)} | given)
        except RuntimeError as error:  # of other names or shapes
            raise InputError("the weights of a model are not those that its settings say; give its own") from error
        return model

    def save(self, path: Path, **about: object) -> None:
        """Writes weights and settings, and ``about``: what the model was trained on."""
        store.write_arrays(path, self.arrays(), KIND, {"model": asdict(self.settings), "about": about})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> tuple[LowRankDynamics, dict[str, Any]]:
        """Reads what ``save`` wrote; returns the model and its ``about``.

        Raises:
            InputError: the file is missing or damaged, or holds another method's weights.
        """
        arrays, saved = store.read_arrays(path, KIND)
        if "model" not in saved:
            raise InputError(f"{str(path)!r} holds another method's weights; give a model that PerSim saved")
        with store.contents_of(path):
            model = cls.from_arrays(arrays, store.build(ModelSettings, saved["model"]))
            about = dict(saved["about"])
            for name in _ABOUT.keys() & about.keys():
                _ABOUT[name](about[name])
        return model.to(device), about
