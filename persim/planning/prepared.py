"""The fast scorer for continuous actions, and for GPUs: an ensemble prepared once for many rollouts.

It gives the scores of ``PlainScorer`` up to rounding, with less work:

- *Rows.* A plan is one row. Weights are transposed and cast once, and the z-scores of states stay float32.
- *Actions first.* The factors of all actions of all plans come from one product before the rollout, multiplied by
  the agents' factors; a step is left with the state encoder alone (unless plans deviate from an imitated policy).
- *One launch.* On a GPU a rollout is one CUDA graph with static buffers (``persim.learning.cuda_graph``).
- *No way back.* Plans that were drawn on the device are scored there, and their scores stay there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from persim.envs.spec import Agents, Array
from persim.errors import check_choice
from persim.learning.cuda_graph import Replayed
from persim.learning.layers import z_scores
from persim.learning.model import LowRankDynamics
from persim.planning.scoring import PRECISIONS, Objective, Plans, check_agents, known_unit, rolled_out

_logger = logging.getLogger(__name__)
# Plans that are rolled out at once: few on a CPU, where they should stay in its cache.
COLUMNS = {"cpu": 1024, "cuda": 32_768}
GRAPHS = 8  # kept at once, one for each number of plans and horizon

Layers = list[tuple[Tensor, Tensor]]
Step = Callable[[int, Tensor], tuple[Tensor, Tensor]]


class PreparedScorer:
    """Scores plans on an ensemble (see the module, and ``persim.planning.scoring.Scorer``).

    Args:
        model: the ensemble, on the device to plan on.
        objective: what is maximised.
        precision: of the products' factors, one of ``PRECISIONS``; sums, states and rewards are float32.
        prior: whether plans are deviations from the model's imitation of the policy that recorded the data. Then the
            action of a step is what is imitated in the state of the rollout, plus the plan's share of what
            ``Imitation.width`` leaves open.

    Raises:
        InputError: the precision is unknown, or the penalty needs what the model does not know.
    """

    def __init__(
        self, model: LowRankDynamics, objective: Objective, precision: str = PRECISIONS[0], *, prior: bool = False
    ) -> None:
        self._dtype: torch.dtype = getattr(torch, check_choice("precision", precision, PRECISIONS))
        self._model, self._objective, self.device = model, objective, model.device
        self._unit = known_unit(model.delta_scale[1], objective).to(model.device, torch.float32)
        self._states, self._actions = (self._rows(layers) for layers in (model.state_layers, model.action_layers))
        self._imitation = model.imitation if prior else None
        self._imitating = [] if self._imitation is None else self._rows(self._imitation.layers)
        self._width = 0.0 if self._imitation is None else self._imitation.width
        self._columns = COLUMNS.get(model.device.type, COLUMNS["cpu"])
        self._graphs: dict[tuple[int, ...], _Graph] = {}
        self.product: Callable[[Tensor, Tensor], Tensor] = self._layered  # benchmarks/gpu.py tries another

    def _rows(self, layers: Sequence[Tensor] | torch.nn.ParameterList) -> Layers:
        """Turns layers ``[K, out, in + 1]`` into weights ``[K, in, out]`` and biases ``[K, 1, out]``."""
        parts = ((layer.detach()[..., :-1].mT, layer.detach()[..., -1:].mT) for layer in layers)
        return [(weights.to(self._dtype).contiguous(), bias.to(self._dtype).contiguous()) for weights, bias in parts]

    def __call__(self, states: Array, agents: Agents, plans: Plans, top: int | None = None) -> Array:
        """See ``Scorer``; every score is exact, whatever ``top`` is."""
        return self.scores(states, agents, torch.from_numpy(plans).to(self.device)).cpu().numpy()

    @torch.no_grad()
    def scores(self, states: Array, agents: Agents, plans: Tensor) -> Tensor:
        """Returns the scores ``[B, P]`` of plans ``[B, P, H]`` or ``[B, P, H, A]`` on the device, where they stay.

        States ``[B, S]`` and agents ``[B]`` are those of ``Scorer``.
        """
        check_agents(agents, self._model.settings.n_agents)
        while True:
            try:
                return self._scores(states, agents, plans)
            except torch.OutOfMemoryError:
                if self._columns == 1:
                    raise
                self._columns //= 2
                self._graphs.clear()
                _logger.warning("out of GPU memory: from now on %d plans are rolled out at once", self._columns)

    @property
    def deviates(self) -> bool:
        """Whether plans are deviations."""
        return self._imitation is not None

    @torch.no_grad()
    def actions(self, states: Array, agents: Agents, plans: Plans) -> Plans:
        """Returns the actions ``[B, H, A]`` that plans ``[B, H, A]`` mean in states ``[B, S]``, along their rollout.

        Where plans are deviations, the rollout is that from the members' mean state.
        """
        if self._imitation is None:
            return plans
        now = torch.from_numpy(np.asarray(states, dtype=np.float32)).to(self.device).unsqueeze(0)
        step, taken = self._steps(*(torch.from_numpy(part).to(self.device) for part in (agents, plans))), []
        for number in range(plans.shape[1]):
            action, following = step(number, now)
            taken.append(action[0])
            now = following.mean(0, keepdim=True)
        return torch.stack(taken, dim=1).float().cpu().numpy()

    def _scores(self, states: Array, agents: Agents, plans: Tensor) -> Tensor:
        n_plans = plans.shape[1]
        start = torch.from_numpy(np.asarray(states, dtype=np.float32)).to(self.device).repeat_interleave(n_plans, 0)
        ids = torch.from_numpy(agents).to(self.device).repeat_interleave(n_plans)
        inputs = zip(*(torch.split(part, self._columns) for part in (start, ids, plans.flatten(0, 1))), strict=True)
        roll = self._roll if self.device.type == "cpu" else self._replay
        return torch.cat([roll(*part) for part in inputs]).view(-1, n_plans)

    def _roll(self, start: Tensor, agents: Tensor, plans: Tensor) -> Tensor:
        """Returns the scores ``[C]`` of C plans ``[C, H]`` or ``[C, H, A]``, each from its own state ``[C, S]``."""
        return rolled_out(self._objective, self._unit, start, plans.shape[1], self._steps(agents, plans))

    def _steps(self, agents: Tensor, plans: Tensor) -> Step:
        """Makes the step of ``rolled_out`` for C plans of agents with ids ``[C]``."""
        model, shape = self._model, self._model.settings
        u = model.agent_factors(agents.expand(shape.members, -1)).mT
        weights = self._weights(plans.transpose(0, 1), u) if self._imitation is None else None

        def step(number: int, states: Tensor) -> tuple[Tensor, Tensor]:
            scaled = z_scores(states.mT, model.state_scale).mT if shape.normalised else states
            if weights is None:
                actions = self._deviating(scaled, u, plans[:, number])
                weight = self._weights(actions.unsqueeze(1), u)[:, 0]
            else:
                actions = plans[:, number].long() if shape.discrete else plans[:, number]
                weight = weights[:, number]
            delta = self.product(scaled, weight)
            if shape.normalised:
                delta = delta * model.delta_scale[1] + model.delta_scale[0]
            return actions, (states + delta if shape.residual else delta)

        return step

    def _weights(self, actions: Tensor, u: Tensor) -> Tensor:
        """Returns u * w, ``[K, H, C, R]``, for agent factors ``[K, C, R]`` and actions ``[H, C(, A)]``.

        Where members act differently the actions are ``[K, H, C, A]``.
        """
        shape, count = self._model.settings, u.shape[1]
        encoded = self._model.encode_actions(actions.long()).mT if shape.discrete else actions.float()
        rows = encoded.reshape(-1, encoded.shape[-3] * count, shape.action_dim).expand(shape.members, -1, -1)
        w = self._encode(self._actions, rows).view(shape.members, -1, count, shape.rank)
        return w * u.unsqueeze(1).to(self._dtype)

    def _deviating(self, scaled: Tensor, u: Tensor, plans: Tensor) -> Tensor:
        """Returns the actions ``[K, C, A]`` for scaled states ``[K, C, S]`` and deviations ``[C, A]``.

        Members that roll out on their own imitate on their own; with one rollout, ``[1, C, S]``, their mean is taken.
        """
        assert self._imitation is not None
        middle, half = self._imitation.bounds[0], self._imitation.bounds[1]
        base = self._encode(self._imitating, torch.cat([scaled.expand(len(u), -1, -1), u], dim=-1)).float()
        base = base.mean(0, keepdim=True) if len(scaled) == 1 else base
        unit = base.clamp(-1, 1) + self._width * (plans - middle) / half
        return middle + half * unit.clamp(-1, 1)

    def _layered(self, states: Tensor, weights: Tensor) -> Tensor:
        """Returns ``[K, C, S]`` for scaled states ``[K, C, S]`` or ``[1, C, S]`` and the products u w ``[K, C, R]``."""
        v = self._encode(self._states, states.expand(len(weights), -1, -1))
        v = v.view(*v.shape[:2], -1, self._model.settings.rank)
        return (v * weights.unsqueeze(2)).sum(-1, dtype=torch.float32)

    def _encode(self, layers: Layers, rows: Tensor) -> Tensor:
        """Applies a ReLU MLP to rows ``[K, C, in]``; returns ``[K, C, out]``."""
        rows = rows.to(self._dtype)
        for index, (weights, bias) in enumerate(layers):
            rows = torch.baddbmm(bias, rows, weights)
            rows = rows.relu_() if index < len(layers) - 1 else rows
        return rows

    def _replay(self, *inputs: Tensor) -> Tensor:
        """``_roll`` on a GPU; the number of plans is filled up, so that few graphs serve all."""
        used = len(inputs[0])
        wanted = min(_rounded(used), self._columns)
        filled = [torch.cat([part, part[:1].expand(wanted - used, *part.shape[1:])]) for part in inputs]
        key = tuple(filled[-1].shape)
        if key not in self._graphs:
            if len(self._graphs) == GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = _Graph(self._roll, filled)
        return self._graphs[key](filled)[:used]


def _rounded(count: int) -> int:
    """Rounds up to a multiple of an eighth of the next lower power of two, which adds at most an eighth."""
    unit = 1 << max(0, count.bit_length() - 4)
    return -(-count // unit) * unit


class _Graph:
    """A function of tensors, replayed.

    Args:
        function: gives a tensor, and looks at nothing but its arguments.
        inputs: of the shapes of all later ones.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        own = self._inputs = [part.clone() for part in inputs]
        self.replayed = Replayed(lambda: function(*own), own[0].device)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        return self.replayed().clone()
