"""CQL on d3rlpy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from baselines.model_free.quiet import d3rlpy
from baselines.model_free.settings import CQLSettings, DiscreteCQLSettings

_impl: Any = d3rlpy.algos.qlearning.torch.cql_impl
_encoder: Any = d3rlpy.models.encoders.VectorEncoderFactory

# conservative weight, threshold and initial alpha of d3rlpy 2.8 that give what older releases add to the loss of
# two critics: 0.90 alpha (5 mean gap - t), 0.80 alpha (gap - t) for each. As multiples of t where t stands.
_FORMS = {"0.80": (1.0, 1.0, 5.0), "0.90": (2.5, 0.2, 1.0), "2.8": (5.0, 1.0, 1.0)}


class DiscreteCQLLearner(_impl.DiscreteCQLImpl):  # type: ignore[misc]  # d3rlpy is untyped
    """d3rlpy's loss from one pass of the critics where it makes two, 1.7 times faster; the test compares them."""

    def compute_loss(self, batch: Any, q_tpn: Tensor) -> Any:
        """Smooth L1 of the TD error, summed over critics, + alpha times the conservative term of their mean."""
        actions = batch.actions.long()
        values = torch.stack([critic.compute_expected_q(batch.observations) for critic in self._critics])  # [K, B, A]
        of_data = values.gather(2, actions.expand(len(values), -1, -1))
        target = batch.rewards + self._gamma**batch.intervals * q_tpn * (1 - batch.terminals)
        errors = smooth_l1_loss(of_data, target.expand_as(of_data), reduction="none")
        td_loss = errors.mean((1, 2)).sum()
        gap = values.mean(0).logsumexp(1) - of_data.mean(0)[:, 0]
        conservative = gap.mean()
        loss = td_loss + self._alpha * conservative
        return _impl.DiscreteCQLLoss(loss=loss, td_loss=td_loss, conservative_loss=conservative)

    @property
    def _critics(self) -> Any:
        return self._q_func_forwarder._forwarders


def discrete_cql(settings: DiscreteCQLSettings, state_dim: int, actions: int, device: str) -> Any:
    """A learner with fresh weights, from torch's global generator."""
    config = d3rlpy.algos.DiscreteCQLConfig(
        encoder_factory=_encoder(list(settings.widths)),
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        gamma=settings.gamma,
        n_critics=settings.critics,
        alpha=settings.alpha,
        target_update_interval=settings.target_interval,
    )
    algorithm = config.create(device)
    algorithm.create_impl((state_dim,), actions)
    algorithm.impl.__class__ = DiscreteCQLLearner  # spares a copy of how d3rlpy builds it
    return algorithm.impl


def cql(settings: CQLSettings, state_dim: int, action_dim: int, device: str) -> Any:
    """A learner with fresh weights, from torch's global generator: d3rlpy's own."""
    weight, share, alpha = _FORMS[settings.form]
    config = d3rlpy.algos.CQLConfig(
        actor_encoder_factory=_encoder(list(settings.widths)),
        critic_encoder_factory=_encoder(list(settings.widths)),
        actor_learning_rate=settings.actor_learning_rate,
        critic_learning_rate=settings.critic_learning_rate,
        batch_size=settings.batch_size,
        gamma=settings.gamma,
        conservative_weight=weight,
        alpha_threshold=share * settings.threshold,
        initial_alpha=alpha,
    )
    algorithm = config.create(device)
    algorithm.create_impl((state_dim,), action_dim)
    return algorithm.impl
