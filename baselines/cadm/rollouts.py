"""Rollouts of CaDM's model: every particle keeps its member, and that member's context, to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.cadm.nets import CaDMNets
from baselines.cadm.scales import Scales
from baselines.cadm.windows import encoded_actions, observations
from persim.envs.spec import EnvSpec

_ROWS = 8192  # states moved at once, over all members and particles, to bound memory
Step = Callable[[Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Model:
    """A trained model, ready to predict.

    Attributes:
        nets: the networks of all K members.
        scales: the normalisation of their inputs and outputs.
        spec: the environment.
        members: K.
        per_member: L, the number of particles of each member.
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
        """The device of the networks."""
        return self.scales.states.mean.device

    @torch.no_grad()
    def contexts(self, histories: Tensor) -> Tensor:
        """Each member's contexts ``[K, B, C]`` of histories ``[B, W S + W A]``."""
        found: Tensor = self.nets.encoder(self.scales.history.apply(histories).expand(self.members, -1, -1))
        return found

    def of_particles(self, contexts: Tensor) -> Tensor:
        """The contexts ``[K, L, B, C]`` of all particles, given each member's contexts ``[K, B, C]``."""
        particles = torch.arange(self.members * self.per_member, device=contexts.device)
        owner = particles % self.members if self.mixed_members else particles // self.per_member
        return contexts[owner].view(self.members, self.per_member, *contexts.shape[1:])

    @torch.no_grad()
    def play(self, states: Tensor, contexts: Tensor, actions: Tensor, visit: Step, generator: torch.Generator) -> None:
        """Rolls all particles out; PE-TS draws fresh noise at each step.

        Args:
            states: ``[B, S]``, where the particles of each episode start.
            contexts: ``[K, B, C]``.
            actions: ``[B, H]`` or ``[B, H, A]``.
            visit: called at each step with the states ``[K, L, B, S]``, the actions ``[B]`` or ``[B, A]``, and the
                next states ``[K, L, B, S]``.
            generator: draws the noise.
        """
        shape = (self.members, self.per_member, *states.shape)
        current, seen = states.expand(shape).flatten(1, 2), self.of_particles(contexts).flatten(1, 2)
        rule = observations(self.spec)
        for step in range(actions.shape[1]):
            encoded = self.scales.actions.apply(encoded_actions(actions[:, step], self.spec))
            encoded = encoded.expand(self.members, self.per_member, -1, -1).flatten(1, 2)
            mean, logvar = self.nets.predict(self.scales.states.apply(rule.inputs(current)), encoded, seen)
            if logvar is not None:
                noise = torch.randn(mean.shape, generator=generator, device=mean.device)
                mean = mean + torch.exp(0.5 * logvar) * noise
            following = rule.following(current, self.scales.targets.undo(mean))
            visit(current.view(shape), actions[:, step], following.view(shape))
            current = following

    def blocks(self, columns: int) -> Iterator[slice]:
        """Slices that cut ``columns`` episodes or plans into blocks small enough for the memory."""
        size = max(1, _ROWS // (self.members * self.per_member))
        return (slice(first, first + size) for first in range(0, columns, size))
