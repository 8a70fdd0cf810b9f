"""Playing actions on CaDM's model: every particle keeps its member, and that member's context, to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.cadm.nets import CaDMNets
from baselines.cadm.observations import encoded_actions, observations
from baselines.cadm.scales import Scales
from persim.envs.spec import EnvSpec

_ROWS = 8192  # states moved at once, over all members and particles, to bound memory
Step = Callable[[Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Model:
    """What was learnt, ready to be asked.

    Attributes:
        nets: of K members.
        scales: of what goes in and comes out.
        spec: the environment.
        members: K.
        per_member: L, particles of each.
        mixed_members: see ``ActingSettings``.
    """

    nets: CaDMNets
    scales: Scales
    spec: EnvSpec
    members: int
    per_member: int
    mixed_members: bool = False

    @property
    def device(self) -> torch.device:
        """Where the nets are."""
        return self.scales.states.mean.device

    @torch.no_grad()
    def contexts(self, histories: Tensor) -> Tensor:
        """Each member's context ``[K, B, C]`` of histories ``[B, K' (S + A)]``."""
        found: Tensor = self.nets.encoder(self.scales.history.apply(histories).expand(self.members, -1, -1))
        return found

    def of_particles(self, contexts: Tensor) -> Tensor:
        """The contexts ``[K, L, B, C]`` of the particles that each member moves, from its own ``[K, B, C]``."""
        particles = torch.arange(self.members * self.per_member, device=contexts.device)
        owner = particles % self.members if self.mixed_members else particles // self.per_member
        return contexts[owner].view(self.members, self.per_member, *contexts.shape[1:])

    @torch.no_grad()
    def play(self, states: Tensor, contexts: Tensor, actions: Tensor, visit: Step, generator: torch.Generator) -> None:
        """Moves all particles through all actions, with fresh noise at each step if the nets predict it.

        Args:
            states: ``[B, S]``, where the particles of each episode start.
            contexts: ``[K, B, C]``.
            actions: ``[B, H]`` or ``[B, H, A]``.
            visit: called at each step with the states ``[K, L, B, S]``, actions and next states.
            generator: of the noise.
        """
        shape = (self.members, self.per_member, *states.shape)
        current, seen = states.expand(shape).flatten(1, 2), self.of_particles(contexts).flatten(1, 2)
        for step in range(actions.shape[1]):
            encoded = self.scales.actions.apply(encoded_actions(actions[:, step], self.spec))
            encoded = encoded.expand(self.members, self.per_member, -1, -1).flatten(1, 2)
            following = self._step(current, encoded, seen, generator)
            visit(current.view(shape), actions[:, step], following.view(shape))
            current = following

    def _step(self, states: Tensor, actions: Tensor, contexts: Tensor, generator: torch.Generator) -> Tensor:
        rule = observations(self.spec)
        mean, logvar = self.nets.predict(self.scales.states.apply(rule.inputs(states)), actions, contexts)
        if logvar is not None:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            mean = mean + torch.exp(0.5 * logvar) * noise
        return rule.following(states, self.scales.targets.undo(mean))

    def blocks(self, columns: int) -> Iterator[slice]:
        """So many columns in parts that fit the memory."""
        size = max(1, _ROWS // (self.members * self.per_member))
        return (slice(first, first + size) for first in range(0, columns, size))
