"""BCQ on d3rlpy, corrected where d3rlpy differs from the published algorithms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from baselines.model_free.quiet import d3rlpy
from baselines.model_free.settings import BCQSettings, DiscreteBCQSettings

_impl: Any = d3rlpy.algos.qlearning.torch.bcq_impl
_nets: Any = d3rlpy.models.torch
_sync: Any = d3rlpy.torch_utility
_encoder: Any = d3rlpy.models.encoders.VectorEncoderFactory
_NEVER = 10**9


class DiscreteBCQLearner(_impl.DiscreteBCQImpl):  # type: ignore[misc]  # d3rlpy is untyped
    """Discrete BCQ as in its authors' code (Fujimoto et al. 2019b): penalty on raw logits, soft target updates."""

    tau: float

    def compute_loss(self, batch: Any, q_tpn: Tensor) -> Any:
        """Smooth L1 of the TD error + negative log-likelihood + penalty * mean squared logit; ``q_tpn [B, 1]``."""
        td_loss = super(_impl.DiscreteBCQImpl, self).compute_loss(batch, q_tpn).loss
        # d3rlpy penalises normalised log-probabilities instead of logits.
        imitator = self._modules.imitator
        logits = imitator._fc(imitator._encoder(batch.observations))
        likelihood = cross_entropy(logits, batch.actions.long().view(-1))
        imitation = likelihood + self._beta * logits.square().mean()
        return _impl.DiscreteBCQLoss(loss=td_loss + imitation, td_loss=td_loss, imitator_loss=imitation)

    def inner_update(self, batch: Any, grad_step: int) -> dict[str, float]:
        """One step of Adam, then a soft update of the target by tau."""
        metrics: dict[str, float] = super().inner_update(batch, grad_step)
        _sync.soft_sync(self._modules.targ_q_funcs, self._modules.q_funcs, self.tau)
        return metrics


def discrete_bcq(settings: DiscreteBCQSettings, state_dim: int, actions: int, device: str) -> Any:
    """A learner with initial weights from torch's global generator."""
    config = d3rlpy.algos.DiscreteBCQConfig(
        encoder_factory=_encoder(list(settings.widths)),
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        gamma=settings.gamma,
        action_flexibility=settings.threshold,
        beta=settings.penalty,
        share_encoder=False,
        target_update_interval=_NEVER,
    )
    algorithm = config.create(device)
    algorithm.create_impl((state_dim,), actions)
    learner = algorithm.impl
    learner.__class__ = DiscreteBCQLearner  # avoids copying d3rlpy's code that builds it
    learner.tau = settings.tau
    return learner


class _TanhDecoder(_nets.imitators.VAEDecoder):  # type: ignore[misc]  # d3rlpy is untyped
    """A decoder whose actions are bounded by tanh: d3rlpy inverts its flag ``with_squash``, so that its are not."""

    def forward(self, x: Tensor, latent: Tensor, with_squash: bool = True) -> Tensor:
        bounded: Tensor = super().forward(x, latent, with_squash=not with_squash)
        return bounded


class BCQLearner(_impl.BCQImpl):  # type: ignore[misc]  # d3rlpy is untyped
    """Continuous BCQ as in its authors' code: bounded decoder, targets that start equal, more samples when it acts."""

    acting_samples: int
    _n_action_samples: int

    def inner_predict_best_action(self, x: Tensor) -> Tensor:
        """The sampled and perturbed actions ``[B, A]`` that the first critic values most at states ``[B, S]``."""
        training, self._n_action_samples = self._n_action_samples, self.acting_samples
        try:
            best: Tensor = super().inner_predict_best_action(x)
        finally:
            self._n_action_samples = training
        return best


def bcq(settings: BCQSettings, state_dim: int, action_dim: int, device: str) -> Any:
    """A learner with initial weights from torch's global generator."""
    rate = settings.learning_rate
    config = d3rlpy.algos.BCQConfig(
        actor_learning_rate=rate,
        critic_learning_rate=rate,
        imitator_learning_rate=rate,
        actor_encoder_factory=_encoder(list(settings.widths)),
        critic_encoder_factory=_encoder(list(settings.widths)),
        imitator_encoder_factory=_encoder(list(settings.vae_widths)),
        batch_size=settings.batch_size,
        gamma=settings.gamma,
        tau=settings.tau,
        lam=settings.lam,
        n_action_samples=settings.samples,
        action_flexibility=settings.phi,
        beta=settings.kl_weight,
    )
    algorithm = config.create(device)
    algorithm.create_impl((state_dim,), action_dim)
    learner = algorithm.impl
    learner.__class__ = BCQLearner  # avoids copying d3rlpy's code that builds it
    learner.acting_samples = settings.acting_samples
    modules = learner.modules
    modules.vae_decoder.__class__ = _TanhDecoder
    with torch.no_grad():
        _sync.hard_sync(modules.targ_policy, modules.policy)  # d3rlpy gives the target initial weights of its own
    return learner
