"""CaDM's networks, loss, rollouts and planning objective against the published equations, written out slowly."""

import numpy as np
import pytest
import torch
from torch.nn.functional import silu, softplus

from baselines.cadm import rollouts
from baselines.cadm.acting import ContextScorer, PlanReward, Recorder, plan_reward, recorded
from baselines.cadm.nets import Batch, CaDMNets, Scales, bound_penalty, reconstruction
from baselines.cadm.rollouts import Model
from baselines.cadm.settings import ActingSettings, CaDMSettings
from baselines.common.scale import Scale
from persim.envs import get
from persim.evaluation.prediction import History
from tests.baselines.cadm_toys import PUSHED, noise, pets, planning, vanilla

S, A, K = 2, 2, 10


def nets_of(settings, seed=0):
    nets = CaDMNets(settings, S, S, A, np.random.SeedSequence(seed))
    with torch.no_grad():  # biases are zero at first, which would hide a missing one
        for number, parameter in enumerate(nets.parameters()):
            parameter.add_(0.1 * noise(*parameter.shape, seed=number))
    return nets


def batch_of(members, size=6):
    shapes = (K * (S + A), S, A, S, S, S)
    return Batch(*(noise(members, size, width, seed=number) for number, width in enumerate(shapes)))


def mlp(net, member, rows, activation):
    layers = list(zip(net.weights, net.biases, strict=True))
    for weight, bias in layers[:-1]:
        rows = activation(rows @ weight[member] + bias[member, 0])
    weight, bias = layers[-1]
    return rows @ weight[member] + bias[member, 0]


def slow_loss(nets, settings, batch):
    """The published loss, member by member: means over batch and dimensions, sums over members, weight decay."""
    total = torch.zeros(())
    for e in range(settings.members):
        context = mlp(nets.encoder, e, batch.history[e], torch.relu)
        out = mlp(nets.ahead, e, torch.cat([batch.states[e], batch.actions[e], context], 1), silu)
        back = mlp(nets.back, e, torch.cat([batch.following[e], batch.actions[e], context], 1), silu)
        if settings.probabilistic:
            mean, logvar = out[:, :S], out[:, S:]
            logvar = nets.highest[0] - softplus(nets.highest[0] - logvar)
            logvar = nets.lowest[0] + softplus(logvar - nets.lowest[0])
            total = total + ((mean - batch.targets[e]) ** 2 * torch.exp(-logvar)).mean() + logvar.mean()
        else:
            total = total + ((out - batch.targets[e]) ** 2).mean()
        total = total + 0.5 * ((back - batch.back_targets[e]) ** 2).mean()
    if settings.probabilistic:
        total = total + 0.01 * (nets.highest.sum() - nets.lowest.sum())
    for net, decays in (
        (nets.encoder, settings.encoder_decays),
        (nets.ahead, settings.decays),
        (nets.back, settings.decays),
    ):
        for weight, decay in zip(net.weights, decays, strict=True):
            total = total + decay * 0.5 * (weight**2).sum()
    return total


@pytest.mark.parametrize("make", [vanilla, pets])
def test_a_step_is_adams_on_the_published_loss(make):
    settings = make(decays=(0.1, 0.2, 0.3), encoder_decays=(0.4, 0.5))
    batch, (fast, slow) = batch_of(settings.members), (nets_of(settings), nets_of(settings))
    loss = reconstruction(fast, batch, 0.5) + bound_penalty(fast, 0.01)
    optimiser = fast.adam(1e-2)
    reference = torch.optim.Adam(slow.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        (reconstruction(fast, batch, 0.5) + bound_penalty(fast, 0.01)).backward()
        optimiser.step()
        reference.zero_grad()
        expected = slow_loss(slow, settings, batch)
        expected.backward()
        reference.step()
    for (name, found), wanted in zip(fast.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3, msg=name)
    assert loss.isfinite()


def test_the_architecture_is_the_papers():
    nets = CaDMNets(CaDMSettings.pets(), S, S, A, np.random.SeedSequence(0))
    shapes = [[tuple(weight.shape) for weight in net.weights] for net in (nets.encoder, nets.ahead, nets.back)]
    assert shapes[0] == [(5, 40, 256), (5, 256, 128), (5, 128, 64), (5, 64, 10)]
    hidden = [(5, 200, 200)] * 3
    assert shapes[1] == [(5, 14, 200), *hidden, (5, 200, 4)]
    assert shapes[2] == [(5, 14, 200), *hidden, (5, 200, 2)]
    weight = nets.ahead.weights[1]
    sigma = 0.5 / np.sqrt(200)
    assert weight.abs().max() <= 2 * sigma
    assert weight.detach().std().item() == pytest.approx(0.88 * sigma, rel=0.02)  # of a normal cut off at two sigma
    assert not any(bias.any() for net in (nets.encoder, nets.ahead, nets.back) for bias in net.biases)
    assert nets.highest.unique().tolist() == [0.5]
    assert nets.lowest.unique().tolist() == [-10.0]


def scale(width, seed):
    return Scale(noise(width, seed=seed), noise(width, seed=seed + 1).abs() + 0.5)


def model_of(settings, per_member=1, spec=PUSHED, **acting):
    scales = Scales(scale(S, 1), Scale.none(A, torch.device("cpu")), Scale.none(K * (S + A), torch.device("cpu")),
                    scale(S, 3), scale(S, 5))  # fmt: skip
    acting = ActingSettings(planning(spec), per_member * settings.members, **acting)
    return Model(nets_of(settings), scales, spec, settings, acting)


def slow_rollout(model, member, state, context, actions):
    """Rolls out one plan with a deterministic member, step by step."""
    path, s = [state], model.scales
    for action in actions:
        seen = torch.cat([(path[-1] - s.states.mean) / s.states.spread, torch.eye(A)[action], context])
        out = mlp(model.nets.ahead, member, seen[None], silu)[0]
        path.append(path[-1] + out * s.targets.spread + s.targets.mean)
    return torch.stack(path)


@torch.no_grad()
@pytest.mark.parametrize("ends", [False, True])
def test_scores_are_sums_of_rewards_of_each_plan_with_its_own_episodes_context(ends, monkeypatch):
    model = model_of(vanilla())
    reward = PlanReward(PUSHED, PUSHED.reward, ends)
    contexts = model.contexts(noise(3, K * (S + A)))
    states, plans = noise(3, S, seed=7), np.random.default_rng(0).integers(0, 2, (3, 8, 12))
    expected = np.zeros((3, 8))
    for b in range(3):
        for p in range(8):
            path = slow_rollout(model, 0, states[b], contexts[0, b], plans[b, p])
            over = PUSHED.terminated(path[1:]).cumsum(0) - PUSHED.terminated(path[1:]).long()
            expected[b, p] = (path[1:, 0] * (over == 0)).sum() if ends else path[1:, 0].sum()
    for rows in (8192, 5):
        monkeypatch.setattr(rollouts, "_ROWS", rows)
        scorer = ContextScorer(model, contexts, reward, torch.Generator())
        found = scorer(states.numpy().astype(np.float64), np.zeros(3, int), plans)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_plan_that_leaves_the_numbers_scores_minus_infinity():
    model = model_of(vanilla())
    scorer = ContextScorer(model, model.contexts(noise(2, K * (S + A))), plan_reward(PUSHED), torch.Generator())
    scores = scorer(np.array([[np.nan, 0.0], [0.0, 0.0]]), np.zeros(2, int), np.zeros((2, 4, 3), int))
    assert (scores[0] == -np.inf).all()
    assert np.isfinite(scores[1]).all()


@torch.no_grad()
def test_a_particle_keeps_its_member_with_that_members_context_and_draws_from_its_gaussian():
    settings, particles = pets(members=2), 4000
    model = model_of(settings, particles)
    contexts, state = model.contexts(noise(1, K * (S + A))), noise(1, S, seed=3)
    seen = list(model.play(state, contexts, torch.tensor([[1, 0]]), torch.Generator().manual_seed(0)))
    first = seen[0][2]
    for e in range(2):
        inputs = torch.cat([model.scales.states.normalise(state[0]), torch.eye(A)[1], contexts[e, 0]])
        out = mlp(model.nets.ahead, e, inputs[None], silu)[0]
        logvar = model.nets.highest[0, 0] - softplus(model.nets.highest[0, 0] - out[S:])
        logvar = model.nets.lowest[0, 0] + softplus(logvar - model.nets.lowest[0, 0])
        spread = model.scales.targets.spread * torch.exp(0.5 * logvar)
        mean = state[0] + model.scales.targets.restore(out[:S])
        error = (first[e, :, 0].mean(0) - mean) / spread
        assert error.abs().max() < 4 / np.sqrt(particles)
        torch.testing.assert_close(first[e, :, 0].std(0), spread, rtol=0.05, atol=0)
    assert torch.equal(seen[1][0], first)  # every particle stays with its member


def test_the_mixed_members_of_the_public_code_leave_a_fifth_of_the_particles_their_own_context():
    contexts = torch.arange(5.0).view(5, 1, 1).expand(5, 3, 1)  # member e's context is e
    own = model_of(pets(), 4).of_particles(contexts)
    assert all((own[e] == e).all() for e in range(5))
    mixed = model_of(pets(), 4, mixed_members=True).of_particles(contexts)
    slow = torch.tensor([[float((4 * e + j) % 5) for j in range(4)] for e in range(5)])
    torch.testing.assert_close(mixed[:, :, 0, 0], slow)
    assert (mixed == own).float().mean() == pytest.approx(0.2)


@pytest.mark.parametrize("episodes", [1, 3])
def test_the_mixed_episodes_of_the_public_code_differ_in_every_second_round(episodes):
    contexts = noise(5, episodes, 4)
    model = model_of(pets(), 4, mixed_episodes=True)
    scorer = ContextScorer(model, contexts, plan_reward(PUSHED), torch.Generator())
    turned = np.transpose(contexts.numpy(), (1, 0, 2))  # round 1: [m, E]; round 2 turns it once more
    again = np.transpose(turned, (1, 0, 2)).reshape(episodes, 5, 4)
    for wanted in (turned, again, turned, again):
        np.testing.assert_array_equal(scorer._round_contexts().numpy(), np.transpose(wanted, (1, 0, 2)))
    assert np.array_equal(turned, again) == (episodes == 1)


def test_cartpole_plans_for_limits_kept_and_may_recover():
    reward = plan_reward(get("cartpole"))
    following = torch.tensor([[0, 0, 0, 0], [2.5, 0, 0, 0], [2.5, 0, 0.3, 0], [0, 0, 0.3, 0]], dtype=torch.float32)
    assert reward.reward(following, torch.zeros(4), following).tolist() == [1, 0, -1, 0]
    steps = [(state, torch.zeros(4), state) for state in (following, torch.zeros(4, 4))]
    assert reward.returns(following, steps).tolist() == [2, 1, 0, 1]


def test_mountaincar_goes_on_at_the_goal_and_other_environments_end():
    assert not plan_reward(get("mountaincar")).ends
    assert plan_reward(PUSHED).ends


@pytest.mark.parametrize("progress", [False, True])
def test_progress_adds_the_best_height_on_the_way_once_a_step_if_it_is_asked_for(progress):
    reward = plan_reward(get("mountaincar"), progress=progress)
    states = [torch.tensor([[left, 0.01], [right, 0.01]]) for left, right in ((-0.4, -0.6), (-0.7, -0.9))]
    steps = [(state, torch.zeros(2), state) for state in states]
    found = reward.returns(torch.tensor([[-0.5, 0.0], [-0.5, 0.0]]), steps)
    helped = np.array([-2 + 2 * 0.01 * -0.4, -2 + 2 * 0.01 * -0.5])
    np.testing.assert_allclose(found.numpy(), helped if progress else [-2, -2], rtol=1e-6)


def test_the_history_of_a_prediction_is_what_the_policy_would_have_recorded():
    model, rng = model_of(vanilla()), np.random.default_rng(0)
    states, actions = rng.normal(size=(2, 15, S)).astype(np.float32), rng.integers(0, 2, (2, 14))
    recorder = Recorder(2, model)
    for t in range(14):
        recorder.add(*(torch.from_numpy(x) for x in (states[:, t], actions[:, t], states[:, t + 1])))
    torch.testing.assert_close(recorded(History(states, actions), 2, model), recorder.histories())
    assert not recorded(None, 2, model).any()
    short = recorded(History(states[:, :4], actions[:, :3]), 2, model)
    assert short[:, : 3 * S].all()
    assert not short[:, 3 * S : K * S].any()
