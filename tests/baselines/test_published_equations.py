"""BCQ and CQL against the published equations, written out slowly."""

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax, mse_loss, nll_loss, relu, smooth_l1_loss

from baselines.common.generators import torch_seed
from baselines.model_free.algorithms import build
from baselines.model_free.learner import Batch
from baselines.model_free.quiet import d3rlpy
from baselines.model_free.settings import BCQSettings, CQLSettings, DiscreteBCQSettings, DiscreteCQLSettings

WIDTHS = (16, 12)
SEED = np.random.SeedSequence(3)


def batch(size=7, actions=3, *, discrete=True):
    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    generator = torch.Generator().manual_seed(1)
    chosen = torch.randint(0, actions, (size, 1), generator=generator).float()
    if not discrete:
        chosen = torch.rand(size, actions, generator=generator) * 2 - 1
    ended = torch.tensor([[0.0], [1.0], [0.0], [0.0], [1.0], [0.0], [0.0]])
    return Batch(
        observations=noise(size, 4), actions=chosen, rewards=noise(size, 1), next_observations=noise(size, 4),
        next_actions=chosen, returns_to_go=ended, terminals=ended, intervals=torch.ones(size, 1), device="cpu",
    )  # fmt: skip


def noisy(settings, noise=0.3):
    with torch_seed(SEED):
        learner = build(settings, 4, 3, "cpu")
    with torch.no_grad():  # biases are zero at first, which would hide a missing one
        nets = learner.modules.get_torch_modules()
        for net in (net for name, net in nets.items() if not name.startswith("log_")):
            for parameter in net.parameters():
                parameter.add_(noise * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return learner


def mlp(net, x):
    """Evaluates a network from its parameters alone."""
    layers = list(net.parameters())
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        x = relu(x @ weight.T + bias)
    return x @ layers[-2].T + layers[-1]


def test_discrete_bcq_is_the_authors_loss():
    """Fujimoto et al. 2019b, and ``train`` in discrete_BCQ.py of their code."""
    learner, b = noisy(DiscreteBCQSettings(1, widths=WIDTHS), noise=1.0), batch()
    online, target, imitator = learner.q_function[0], learner.modules.targ_q_funcs[0], learner.modules.imitator
    frequent = log_softmax(mlp(imitator, b.next_observations), 1).exp()
    allowed = (frequent / frequent.max(1, keepdim=True)[0] > 0.3).float()
    best = (allowed * mlp(online, b.next_observations) + (1 - allowed) * -1e8).argmax(1, keepdim=True)
    goal = b.rewards + (1 - b.terminals) * 0.99 * mlp(target, b.next_observations).gather(1, best)
    value = mlp(online, b.observations).gather(1, b.actions.long())
    logits = mlp(imitator, b.observations)
    imitation = nll_loss(log_softmax(logits, 1), b.actions.long()[:, 0]) + 1e-2 * (logits**2).mean()
    expected = smooth_l1_loss(value, goal.detach()) + imitation
    assert 0 < allowed.mean() < 1  # both kinds of action occur, so the mask was tested
    got = learner.compute_loss(b, learner.compute_target(b))
    torch.testing.assert_close(got.loss, expected)


def test_discrete_bcqs_target_follows_by_tau_at_every_step():
    learner = noisy(DiscreteBCQSettings(1, widths=WIDTHS, tau=0.25))
    before = [p.clone() for p in learner.modules.targ_q_funcs.parameters()]
    learner.inner_update(batch(), 1)
    for old, new, online in zip(
        before, learner.modules.targ_q_funcs.parameters(), learner.modules.q_funcs.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * online)


def test_bcqs_decoder_is_bounded_and_its_loss_the_authors():
    """Fujimoto et al. 2019a, Algorithm 1, line 5: reconstruction + 0.5 * divergence from the unit normal."""
    learner, b = noisy(BCQSettings(1, widths=WIDTHS, vae_widths=(16, 16))), batch(discrete=False)
    decoder, encoder = learner.modules.vae_decoder, learner.modules.vae_encoder
    latent = torch.randn(7, 6, generator=torch.Generator().manual_seed(5))
    expected = torch.tanh(mlp(decoder, torch.cat([b.observations, latent], 1)))
    torch.testing.assert_close(decoder(b.observations, latent), expected)
    posterior = encoder(b.observations, b.actions)
    mean, spread = posterior.mean, posterior.stddev
    divergence = -0.5 * (1 + torch.log(spread**2) - mean**2 - spread**2).mean()
    torch.manual_seed(9)
    drawn = mean + spread * torch.randn_like(mean)
    decoded = torch.tanh(mlp(decoder, torch.cat([b.observations, drawn], 1)))
    torch.manual_seed(9)
    got = learner.compute_imitator_grad(b)["loss"]
    torch.testing.assert_close(got, mse_loss(decoded, b.actions) + 0.5 * divergence)


def test_bcq_starts_with_equal_targets_and_acts_on_more_samples():
    with torch_seed(SEED):
        learner = build(BCQSettings(1, widths=WIDTHS, vae_widths=(16, 16), acting_samples=40), 4, 3, "cpu")
    for target, online in (("targ_policy", "policy"), ("targ_q_funcs", "q_funcs")):
        nets = (getattr(learner.modules, name) for name in (target, online))
        for a, b in zip(*(net.parameters() for net in nets), strict=True):
            torch.testing.assert_close(a, b)
    seen = []
    sample = learner._sample_repeated_action
    learner._sample_repeated_action = lambda x, target=False: seen.append(x.shape[1]) or sample(x, target)
    assert learner.inner_predict_best_action(torch.randn(5, 4)).abs().max() <= 1
    learner.compute_target(batch(discrete=False))
    assert seen == [40, 10]


def test_discrete_cql_in_one_pass_is_d3rlpys_loss_and_gradient():
    learner, b = noisy(DiscreteCQLSettings(1, widths=WIDTHS)), batch()
    target = learner.compute_target(b)
    slow = d3rlpy.algos.qlearning.torch.cql_impl.DiscreteCQLImpl.compute_loss
    gradients = []
    for loss in (learner.compute_loss(b, target), slow(learner, b, target)):
        learner.modules.optim.zero_grad()
        loss.loss.backward()
        gradients.append([loss.loss, *(p.grad.clone() for p in learner.q_function.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(("form", "expected"), [
    ("0.90", lambda gaps: 5 * gaps.mean() - 5),
    ("0.80", lambda gaps: 5 * (gaps - 5).sum()),
    ("2.8", lambda gaps: 5 * (gaps - 5).sum()),
])  # fmt: skip
def test_continuous_cqls_threshold_means_what_its_release_says(form, expected):
    """What each release adds to the loss of the critics, at its first step (alpha is 5 in 0.80, else 1)."""
    learner, b = noisy(CQLSettings(1, widths=WIDTHS, form=form)), batch(discrete=False)
    weight, threshold = learner._conservative_weight, learner._alpha_threshold
    torch.manual_seed(4)
    terms = learner._compute_conservative_loss(b.observations, b.actions, b.next_observations, b.returns_to_go)
    gaps = (terms / weight + threshold).detach()
    torch.manual_seed(4)
    target = learner.compute_target(b)
    torch.manual_seed(4)
    got = learner.compute_critic_loss(b, target).conservative_loss
    torch.testing.assert_close(got, expected(gaps), rtol=1e-3, atol=1e-3)  # alpha itself takes a step of 1e-4 first
