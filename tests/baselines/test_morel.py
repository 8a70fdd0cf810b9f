"""The parts of MOReL: z-scores, ensemble, detector, pessimistic MDP, episodes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from baselines.common.scale import Scale
from baselines.morel.dynamics import DynamicsTraining, Ensemble, disagreement, training_rows
from baselines.morel.mdp import Episodes, PessimisticMDP, halting_threshold
from baselines.morel.policy import StochasticActor
from baselines.morel.settings import DynamicsSettings, MorelSettings, PessimismSettings, PPOSettings
from persim.envs import get
from persim.errors import InputError
from persim.learning.training import DivergenceError
from tests.baselines.toy import COLUMNS, GLIDE, WALK, recorded

PESSIMISM = PessimismSettings(penalty=-50.0, horizon=5)


def ensemble_of(data, width=8, members=4):
    return Ensemble(data, DynamicsSettings(width, members=members), np.random.SeedSequence(1), "cpu")


def mdp_of(data, spec, threshold=np.inf, **changes):
    settings = replace(PESSIMISM, **changes)
    return PessimisticMDP(ensemble_of(data), torch.from_numpy(np.array(data.observation)), threshold, settings, spec)


def test_z_scores_are_those_of_the_columns_and_a_constant_column_scores_zero():
    rows = np.random.default_rng(0).normal(3, 2, (1000, 3)).astype(np.float32)
    rows[:, 1] = 0.1  # whose mean in floating point is not exactly 0.1
    scale = Scale.of(torch.from_numpy(rows))
    scores = scale.normalise(torch.from_numpy(rows))
    torch.testing.assert_close(scores.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.std(0, correction=0), torch.tensor([1.0, 0.0, 1.0]), atol=1e-5, rtol=0)
    assert (scores[:, 1] == 0).all()
    torch.testing.assert_close(scale.restore(scores), torch.from_numpy(rows))


@pytest.mark.parametrize("spec", [WALK, GLIDE], ids=["discrete", "box"])
def test_members_are_what_four_linear_layers_say_one_at_a_time(spec):
    data = recorded(spec)
    ensemble = ensemble_of(data)
    inputs, targets = training_rows(ensemble, data, "cpu")
    assert inputs.shape == (len(data), 1 + data.action_dim)
    assert targets.shape == (len(data), 2)
    if spec.discrete:
        assert set(inputs[:, 1:].unique().tolist()) == {0.0, 1.0}
    else:
        torch.testing.assert_close(inputs.std(0, correction=0), torch.ones(2))
    outputs = ensemble(inputs)
    for member in range(4):
        weights = [
            (weight[member].T, bias[member, 0]) for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True)
        ]
        hidden = linear(inputs, *weights[0])
        for weight in weights[1:3]:
            hidden = linear(hidden, *weight).relu()
        torch.testing.assert_close(outputs[member], linear(hidden, *weights[3]))


def test_the_detector_measures_the_largest_distance_of_two_members():
    outputs = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 30, 3)))
    slow = [
        max(float((outputs[i, row] - outputs[j, row]).norm()) for i, j in itertools.product(range(4), repeat=2))
        for row in range(30)
    ]
    torch.testing.assert_close(disagreement(outputs), torch.tensor(slow, dtype=torch.float64))


def test_data_of_constant_rewards_and_states_are_learnt_without_a_division_by_zero():
    data = recorded(WALK)
    still = np.full_like(data.observation, 0.1)
    data = replace(data, observation=still, next_observation=still, reward=np.full_like(data.reward, -0.3))
    training = DynamicsTraining(DynamicsSettings(8, min_updates=300), data, (0, 0), "cpu")
    assert training.advance(0, 300) < 0.01
    mdp = PessimisticMDP(training.ensemble, torch.from_numpy(still), 1.0, PESSIMISM, WALK)
    outcome = mdp.step(torch.from_numpy(still[:3]), torch.tensor([0, 1, 2]))
    assert not outcome.halted.any()
    torch.testing.assert_close(outcome.rewards, torch.full((3,), -0.3), atol=0.2, rtol=0)


def test_two_epochs_over_little_data_are_topped_up_and_over_much_are_not():
    data = recorded(WALK)  # 8 agents, 40 steps
    assert DynamicsTraining(DynamicsSettings(8, min_updates=50), data, (0, 0), "cpu").updates == 50
    training = DynamicsTraining(DynamicsSettings(8, min_updates=1, batch_size=100), data, (0, 0), "cpu")
    assert training.updates == 2 * 4
    rows = torch.cat([training._rows(update) for update in range(4)])
    assert sorted(rows.tolist()) == list(range(320))  # an epoch sees every transition once
    assert not torch.equal(training._rows(4), training._rows(0))


def test_the_detector_fires_in_the_half_of_the_states_that_the_data_do_not_cover():
    data = recorded(WALK, agents=20, horizon=200)
    kept = (data.observation[:, 0] < 0) & (data.next_observation[:, 0] < 0)
    starts = np.concatenate([[True], ~kept[:-1]])[kept]
    columns = {name: getattr(data, name)[kept] for name in COLUMNS if name != "step"}
    episode = np.cumsum(starts)
    columns["step"] = np.arange(len(starts)) - np.searchsorted(episode, episode)
    columns["agent"] = np.zeros(len(starts), np.int64)
    half = replace(data, **columns)
    training = DynamicsTraining(DynamicsSettings(32, min_updates=1000), half, (0, 0), "cpu")
    training.advance(0, training.updates)
    for rule in ("fixed", "percentile"):
        settings = replace(PESSIMISM, rule=rule)
        threshold = halting_threshold(training.ensemble, training.inputs, settings)
        mdp = PessimisticMDP(training.ensemble, torch.zeros(1, 1), threshold, settings, WALK)
        states = torch.linspace(-0.95, 4, 400)[:, None]
        halted = mdp.step(states, torch.arange(400) % 3).halted
        assert halted[states[:, 0] < -0.05].float().mean() < 0.05, rule
        assert halted[states[:, 0] > 2].float().mean() > 0.9, rule


def test_the_percentile_rule_takes_that_percentile_of_the_data_and_the_fixed_one_its_number():
    data = recorded(WALK)
    ensemble = ensemble_of(data)
    inputs, _ = training_rows(ensemble, data, "cpu")
    found = disagreement(ensemble(inputs)).detach().numpy()
    settings = replace(PESSIMISM, rule="percentile", percentile=75)
    assert halting_threshold(ensemble, inputs, settings) == pytest.approx(np.percentile(found, 75))
    assert halting_threshold(ensemble, inputs, replace(PESSIMISM, threshold=1.5)) == 1.5


def test_a_step_is_the_mean_of_the_members_and_a_halt_replaces_the_reward_and_ends():
    data = recorded(GLIDE)
    mdp = mdp_of(data, GLIDE)
    states, actions = (torch.from_numpy(np.array(part[:50])) for part in (data.observation, data.action))
    free = mdp.step(states, actions)
    ensemble = ensemble_of(data)
    outputs = ensemble(ensemble.inputs(states, actions)).detach()
    mean = ensemble.outputs.restore(outputs.mean(0))
    torch.testing.assert_close(free.following, states + mean[:, :1])
    torch.testing.assert_close(free.rewards, mean[:, 1])
    assert not free.ended.any()
    mdp.threshold = float(disagreement(outputs).median())
    strict = mdp.step(states, actions)
    assert 20 < strict.halted.sum() < 30
    torch.testing.assert_close(strict.rewards, torch.where(strict.halted, -50.0, free.rewards))
    assert torch.equal(strict.ended, strict.halted)


def test_what_is_not_a_number_halts():
    mdp = mdp_of(recorded(GLIDE), GLIDE)
    outcome = mdp.step(torch.tensor([[0.0], [torch.nan]]), torch.zeros(2, 1))
    assert outcome.halted.tolist() == [False, True]
    assert outcome.rewards[1] == -50


def test_ends_of_the_environment_end_only_if_asked_for():
    spec = replace(GLIDE, terminated=lambda following: following[..., 0] > 0)
    data = recorded(GLIDE)
    states, actions = (torch.from_numpy(np.array(part)) for part in (data.observation, data.action))
    assert not mdp_of(data, spec).step(states, actions).ended.any()
    outcome = mdp_of(data, spec, terminates=True).step(states, actions)
    assert outcome.ended.any()
    assert torch.equal(outcome.ended, outcome.following[:, 0] > 0)
    assert (outcome.rewards > -50).all()


def test_episodes_start_in_states_of_the_data_or_with_the_defect_in_their_z_scores():
    data = recorded(GLIDE)
    known = set(data.observation[:, 0].tolist())
    starts = mdp_of(data, GLIDE).start(5000, np.random.default_rng(0))
    assert set(starts[:, 0].tolist()) <= known
    assert len(set(starts[:, 0].tolist())) > 0.9 * len(known)
    twice = mdp_of(data, GLIDE, normalises_starts_twice=True).start(5000, np.random.default_rng(0))
    torch.testing.assert_close(twice, Scale.of(torch.from_numpy(np.array(data.observation))).normalise(starts))


def test_an_episode_is_cut_off_at_the_horizon_and_shows_the_state_it_would_have_been_in():
    data = recorded(GLIDE)
    mdp = mdp_of(data, GLIDE)
    episodes = Episodes(mdp, 6)
    states, action = episodes.reset(), np.zeros((6, 1), np.float32)
    for step in range(1, 11):
        outcome = mdp.step(torch.from_numpy(states), torch.from_numpy(action))
        states, rewards, ended, infos = episodes.step(action)
        np.testing.assert_array_equal(rewards, outcome.rewards.numpy())
        assert ended.all() if step % 5 == 0 else not ended.any()
        if ended.all():
            assert all(info["TimeLimit.truncated"] for info in infos)
            shown = np.stack([info["terminal_observation"] for info in infos])
            np.testing.assert_array_equal(shown, outcome.following.numpy())
            assert set(states[:, 0].tolist()) <= set(data.observation[:, 0].tolist())
        else:
            np.testing.assert_array_equal(states, outcome.following.numpy())
    assert episodes.totals[[0, 2, 3]].tolist() == [60, 12, 0]


def test_a_halted_episode_begins_anew_and_is_no_cut_off():
    data = recorded(GLIDE)
    episodes = Episodes(mdp_of(data, GLIDE, threshold=0.0), 6)
    episodes.reset()
    for _ in range(7):
        states, rewards, ended, infos = episodes.step(np.zeros((6, 1), np.float32))
        assert (rewards == -50).all()
        assert ended.all()
        assert not any(infos)
        assert set(states[:, 0].tolist()) <= set(data.observation[:, 0].tolist())
    assert episodes.totals.tolist() == [42, -2100, 42, 42]


def test_the_defect_keeps_ends_to_itself():
    data = recorded(GLIDE)
    episodes = Episodes(mdp_of(data, GLIDE, threshold=0.0), 6, ignores_ends=True)
    before = episodes.reset()
    states, rewards, ended, _ = episodes.step(np.zeros((6, 1), np.float32))
    assert (rewards == -50).all()
    assert not ended.any()
    assert (states != before).any()


@pytest.mark.parametrize("spec", [WALK, GLIDE], ids=["discrete", "box"])
def test_the_actor_draws_from_its_distribution(spec):
    rng = np.random.default_rng(0)
    arrays = {"0.weight": np.array([[1.0]]), "0.bias": np.zeros(1)}
    if spec.discrete:
        arrays |= {"1.weight": np.zeros((3, 1)), "1.bias": np.log([0.2, 0.5, 0.3])}
        drawn = StochasticActor(arrays, spec.action_space).act(np.zeros((20_000, 1)), rng)
        np.testing.assert_allclose(np.bincount(drawn) / 20_000, [0.2, 0.5, 0.3], atol=0.01)
        return
    arrays |= {"1.weight": np.array([[2.0]]), "1.bias": np.zeros(1), "log_spread": np.log([0.5])}
    drawn = StochasticActor(arrays, spec.action_space).act(np.full((20_000, 1), 0.3), rng)
    assert drawn.min() >= -2
    assert drawn.max() == 2
    assert np.median(drawn) == pytest.approx(2 * np.tanh(0.3), abs=0.02)
    assert np.quantile(drawn, 0.1587) == pytest.approx(2 * np.tanh(0.3) - 0.5, abs=0.02)


def test_diverging_dynamics_stop_with_their_step():
    training = DynamicsTraining(DynamicsSettings(8, min_updates=9, learning_rate=0.9), recorded(WALK), (0, 0), "cpu")
    with torch.no_grad():
        training.ensemble.weights[0].fill_(torch.inf)
    with pytest.raises(DivergenceError, match=r"dynamics became (inf|nan) at step 4; lower the learning rate"):
        training.advance(3, 9)


def test_settings_are_the_papers():
    budget = {"epochs": 2, "min_updates": 5000, "ppo_steps": 1_000_000}
    found = {env: MorelSettings.of(get(env), **budget) for env in ("mountaincar", "cartpole", "halfcheetah")}
    assert [s.dynamics.width for s in found.values()] == [128, 128, 1024]
    assert [s.pessimism.penalty for s in found.values()] == [-50, -50, -200]
    assert found["cartpole"].ppo.updates == 976
    assert (MorelSettings.of(GLIDE, **budget).dynamics.width, MorelSettings.of(WALK, **budget).dynamics.width) == (
        512,
        128,
    )


@pytest.mark.parametrize(("make", "what"), [
    (lambda: DynamicsSettings(8, members=1), "disagreement needs two members"),
    (lambda: DynamicsSettings(8, min_updates=0), "min_updates"),
    (lambda: DynamicsSettings(8, learning_rate=1), "learning_rate"),
    (lambda: PessimismSettings(-50, rule="percentil"), "did you mean 'percentile'"),
    (lambda: PessimismSettings(-50, threshold=0), "threshold is 0, but it has to be positive"),
    (lambda: PessimismSettings(-50, percentile=101), "between 0 and 100"),
    (lambda: PessimismSettings(-50, horizon=0), "horizon"),
    (lambda: PPOSettings(0), "steps is 0"),
    (lambda: PPOSettings(episodes=100), "episodes is 100, which does not divide update_steps, 1024"),
    (lambda: PPOSettings(gamma=1.0), "gamma"),
])  # fmt: skip
def test_bad_settings_are_refused(make, what):
    with pytest.raises(InputError, match=what):
        make()
