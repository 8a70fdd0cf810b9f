"""What CaDM's nets see of a state, and how what they predict becomes the next one."""

from __future__ import annotations

import torch
from torch import Tensor

from persim.envs.spec import EnvSpec


class Observations:
    """The plain rule: states as they are, targets are differences."""

    def inputs(self, states: Tensor) -> Tensor:
        """States ``[..., S]`` as the nets see them ``[..., D]``."""
        return states

    def targets(self, before: Tensor, after: Tensor) -> Tensor:
        """What is to be predicted ``[..., S]``; backward in time with the arguments exchanged."""
        return after - before

    def following(self, states: Tensor, outputs: Tensor) -> Tensor:
        """The inverse of ``targets``: next states ``[..., S]``."""
        return states + outputs


class CheetahObservations(Observations):
    """HalfCheetah, whose state is (velocity, height, pitch, 6 joints, 9 velocities).

    As in CaDM's code: the velocity is not seen and its next value is predicted outright, the pitch is
    seen as sine and cosine.
    """

    def inputs(self, states: Tensor) -> Tensor:
        """All but the velocity, the pitch as two numbers; again 18."""
        pitch = states[..., 2:3]
        return torch.cat([states[..., 1:2], pitch.sin(), pitch.cos(), states[..., 3:]], dim=-1)

    def targets(self, before: Tensor, after: Tensor) -> Tensor:
        """Differences, but the velocity as it is."""
        return torch.cat([after[..., :1], after[..., 1:] - before[..., 1:]], dim=-1)

    def following(self, states: Tensor, outputs: Tensor) -> Tensor:
        """The inverse of ``targets``."""
        return torch.cat([outputs[..., :1], states[..., 1:] + outputs[..., 1:]], dim=-1)


def observations(spec: EnvSpec) -> Observations:
    """The rule of an environment."""
    cheetah = spec.name == "halfcheetah" or spec.name.startswith("halfcheetah-cost-")
    return CheetahObservations() if cheetah else Observations()


def encoded_actions(actions: Tensor, spec: EnvSpec) -> Tensor:
    """Actions ``[...]`` one-hot ``[..., A]`` if they are discrete, as they are otherwise; float32."""
    if not spec.discrete:
        return actions.float()
    return torch.eye(spec.action_dim, device=actions.device)[actions.long()]
