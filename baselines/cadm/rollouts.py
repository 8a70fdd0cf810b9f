"""Rollouts of CaDM's model: every particle keeps its member, and that member's context, to the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.cadm.nets import CaDMNets, Scales
from baselines.cadm.settings import ActingSettings, CaDMSettings
from baselines.cadm.windows import encoded_actions, observations
from persim.envs.spec import EnvSpec

_ROWS = 8192  # states moved at once, over all members and particles, to bound memory


@dataclass(frozen=True)
class Model:
    """A trained model, ready to predict.

    Attributes:
        nets: the networks of all K members.
        scales: the normalisation of their inputs and outputs.
        spec: the environment.
        settings: how it was trained; they give K and W.
        acting: how it acts; they give L, the number of particles of each member.
    """

    nets: CaDMNets
    scales: Scales
    spec: EnvSpec
    settings: CaDMSettings
    acting: ActingSettings

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.scales.states.mean.device

    @property
    def counts(self) -> tuple[int, int]:
        """K and L."""
        return self.settings.members, self.acting.per_member(self.settings.members)

    @torch.no_grad()
    def contexts(self, histories: Tensor) -> Tensor:
        """Each member's contexts ``[K, B, C]`` of histories ``[B, W S + W A]``."""
        found: Tensor = self.nets.encoder(self.scales.history.normalise(histories).expand(self.counts[0], -1, -1))
        return found

    def of_particles(self, contexts: Tensor) -> Tensor:
        """The contexts ``[K, L, B, C]`` of all particles, given each member's contexts ``[K, B, C]``."""
        members, per_member = self.counts
        particles = torch.arange(members * per_member, device=contexts.device)
        owner = particles % members if self.acting.mixed_members else particles // per_member
        return contexts[owner].view(members, per_member, *contexts.shape[1:])

    @torch.no_grad()
    def play(
        self, states: Tensor, contexts: Tensor, actions: Tensor, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rolls all particles out; PE-TS draws fresh noise at each step.

        Args:
            states: ``[B, S]``, where the particles of each episode start.
            contexts: ``[K, B, C]``.
            actions: ``[B, H]`` or ``[B, H, A]``.
            generator: draws the noise.

        Yields:
            Of each step the states ``[K, L, B, S]``, the actions ``[B]`` or ``[B, A]``, and the next states
            ``[K, L, B, S]``.
        """
        shape = (*self.counts, *states.shape)
        current, seen = states.expand(shape).flatten(1, 2), self.of_particles(contexts).flatten(1, 2)
        rule = observations(self.spec)
        for step in range(actions.shape[1]):
            encoded = self.scales.actions.normalise(encoded_actions(actions[:, step], self.spec))
            encoded = encoded.expand(*self.counts, -1, -1).flatten(1, 2)
            mean, logvar = self.nets.predict(self.scales.states.normalise(rule.inputs(current)), encoded, seen)
            if logvar is not None:
                noise = torch.randn(mean.shape, generator=generator, device=mean.device)
                mean = mean + torch.exp(0.5 * logvar) * noise
            following = rule.following(current, self.scales.targets.restore(mean))
            yield current.view(shape), actions[:, step], following.view(shape)
            current = following

    def blocks(self, columns: int) -> Iterator[slice]:
        """Slices that cut ``columns`` episodes or plans into blocks small enough for the memory."""
        size = max(1, _ROWS // math.prod(self.counts))
        return (slice(first, first + size) for first in range(0, columns, size))
