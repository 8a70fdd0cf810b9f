"""CaDM's histories, windows and normalisation against slow, obvious versions."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.cadm.rollouts import Model
from baselines.cadm.stage import Stage, Table, stage_scales
from baselines.cadm.windows import (
    CheetahObservations,
    Histories,
    Observations,
    encoded_actions,
    observations,
    pairs,
    split,
)
from baselines.common.scale import Scale
from persim.data.collect import collect
from persim.envs import get
from persim.envs.halfcheetah import SPEC_COST_005
from persim.errors import InputError
from persim.methods import Part
from tests.baselines.cadm_toys import GLIDE, PUSHED, method, pets, pushed, recorded, vanilla

K, M = 10, 10
ENDING = pushed(ends=1.5)  # episodes of different lengths
SPACES = pytest.mark.parametrize("spec", [ENDING, GLIDE], ids=["discrete", "continuous"])


def slow_histories(data, spec):
    """The buffer of CaDM's sampler, filled from the first slot on and then shifted; one row per transition."""
    found = []
    for row in range(len(data)):
        if data.step[row] == 0:
            slots, count = [(np.zeros(data.state_dim), np.zeros(data.action_dim))] * K, 0
        found.append(np.concatenate([np.concatenate([d for d, _ in slots]), np.concatenate([a for _, a in slots])]))
        action = np.eye(data.action_dim)[data.action[row]] if spec.discrete else data.action[row]
        step = (data.next_observation[row] - data.observation[row], action)
        slots = [*slots[:count], step, *slots[count + 1 :]] if count < K else [*slots[1:], step]
        count = min(count + 1, K)
    return np.array(found)


@SPACES
def test_histories_are_the_last_ten_transitions_oldest_first(spec):
    data = recorded(spec)
    found = Histories(data, spec, K, "cpu")(torch.arange(len(data)))
    np.testing.assert_allclose(found, slow_histories(data, spec), atol=1e-6)
    assert not found[torch.from_numpy(data.step == 0)].any()


@SPACES
@pytest.mark.parametrize("make", [vanilla, pets])
def test_the_policy_reads_the_histories_that_it_was_trained_on(spec, make, monkeypatch):
    fitted = method(make(updates=2), spec).fit(recorded(spec), spec, seed=0)
    seen, contexts = [], Model.contexts
    monkeypatch.setattr(Model, "contexts", lambda self, rows: seen.append(rows) or contexts(self, rows))
    agents = spec.sample_agents(6, np.random.default_rng(4))
    played = collect(spec, agents, fitted.policy(np.arange(6)), np.random.default_rng(5), horizon=25)
    trained = Histories(played, spec, K, "cpu")(torch.arange(len(played)))
    steps = [trained[torch.from_numpy(played.step == step)] for step in range(len(seen))]
    if spec is ENDING:
        assert len({int(n) for n in np.bincount(played.agent)}) > 1  # some episodes ended, the others went on
    for expected, found in zip(steps, seen, strict=True):
        torch.testing.assert_close(
            found, expected, atol=1e-5, rtol=0
        )  # float64 in the environment, float32 in the data


def test_every_window_explains_what_follows_within_its_episode():
    data = recorded(ENDING)
    windows = np.flatnonzero(data.step != 3)
    slow = [
        (row, row + offset)
        for row in windows
        for offset in range(M)
        if row + offset < len(data) and data.agent[row + offset] == data.agent[row]
    ]
    np.testing.assert_array_equal(np.stack(pairs(data, windows, M), axis=1), slow)


def test_held_out_trajectories_share_no_transition_with_those_for_training():
    data = recorded(PUSHED, agents=20)
    used = {}
    for overlap in (False, True):
        held = split(data, np.arange(20), 60, np.random.default_rng(0), overlap=overlap)
        assert len(held) == 60
        train = np.setdiff1d(np.arange(len(data)), held)
        used[overlap] = np.intersect1d(pairs(data, held, M)[1], pairs(data, train, M)[1])
    assert len(used[False]) == 0
    assert len(used[True]) > 60  # the defect


def test_something_is_held_out_if_there_are_two_trajectories():
    data = recorded(PUSHED)
    chosen = [split(data, np.arange(n), 1, np.random.default_rng(0), overlap=False) for n in (1, 2, 5)]
    assert [len(rows) for rows in chosen] == [0, 30, 30]


def table(settings, data=None, spec=PUSHED):
    return Table(Part(0, recorded(spec) if data is None else data, spec, seed=0), settings)


def test_the_first_window_of_each_trajectory_is_trained_unless_the_defect_is_asked_for():
    for defect in (False, True):
        settings = vanilla(skip_first_window=defect, iterations=1)
        stage = Stage(table(settings), 0)
        windows = stage._train[0]
        assert (windows % 30 == 0).any() == (not defect)  # all episodes have 30 steps


def test_iterations_add_equal_shares_of_the_trajectories():
    settings = vanilla(iterations=4)
    of = table(settings)
    counts = [len(of.episodes(iteration)) for iteration in range(4)]
    assert counts == [3, 6, 9, 12]
    assert all(set(of.episodes(i)) < set(of.episodes(i + 1)) for i in range(3))


@SPACES
def test_scales_are_means_and_spreads_of_the_rows_in_use(spec):
    data = recorded(spec)
    of = table(vanilla(iterations=3), data, spec)
    scales, rows = stage_scales(of, 0), np.isin(data.agent, of.episodes(0))
    delta = (data.next_observation - data.observation)[rows].astype(np.float64)
    np.testing.assert_allclose(scales.states.mean, data.observation[rows].mean(0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(scales.targets.spread, delta.std(0), rtol=1e-5)
    np.testing.assert_allclose(scales.back_targets.mean, -delta.mean(0), rtol=1e-4)
    states = K * data.state_dim
    assert (scales.history.mean[:states] == 0).all()  # differences stay as they are
    assert (scales.history.spread[:states] == 1).all()
    if spec.discrete:
        assert (scales.actions.mean == 0).all()
        assert (scales.history.spread[states:] == 1).all()
    else:
        past = slow_histories(data, spec)[rows, states:]  # with the zeros of empty slots
        np.testing.assert_allclose(scales.history.mean[states:], past.mean(0), atol=1e-6)
        np.testing.assert_allclose(scales.history.spread[states:], past.std(0), rtol=1e-5)
        np.testing.assert_allclose(scales.actions.spread, data.action[rows].std(0), rtol=1e-5)


def test_a_batch_holds_the_scaled_columns_of_its_rows():
    data = recorded(GLIDE)
    of = table(vanilla(iterations=1), data, GLIDE)
    stage = Stage(of, 0)
    chosen = torch.tensor([[5, 70, 200, 11]])
    batch, windows, rows = stage.batch(chosen), stage._train[0][chosen[0]], stage._train[1][chosen[0]]
    s = stage.scales
    before, after = torch.tensor(data.observation[rows]), torch.tensor(data.next_observation[rows])
    torch.testing.assert_close(batch.states[0], (before - s.states.mean) / s.states.spread)
    torch.testing.assert_close(batch.following[0], (after - s.states.mean) / s.states.spread)
    torch.testing.assert_close(batch.targets[0], (after - before - s.targets.mean) / s.targets.spread)
    torch.testing.assert_close(batch.back_targets[0], (before - after - s.back_targets.mean) / s.back_targets.spread)
    torch.testing.assert_close(batch.actions[0], s.actions.normalise(torch.tensor(data.action[rows])))
    torch.testing.assert_close(batch.history[0], s.history.normalise(of.histories(windows)))


def test_a_constant_column_is_left_at_0():
    values = torch.tensor([[3.7, 1.0], [3.7, 2.0], [3.7, 3.0]])
    scale = Scale.exact(values)
    assert scale.spread[0] == 0
    assert scale.normalise(values)[:, 0].abs().max() < 1e-6
    torch.testing.assert_close(scale.restore(torch.ones(2)), torch.tensor([3.7, 2 + np.sqrt(2 / 3)]), check_dtype=False)
    torch.testing.assert_close(scale.restore(scale.normalise(values)), values)
    torch.testing.assert_close(scale.spread[1], torch.tensor(np.sqrt(2 / 3), dtype=torch.float32))


def test_halfcheetah_is_seen_without_velocity_and_predicted_with_it():
    spec = get("halfcheetah")
    rule = observations(spec)
    assert isinstance(rule, CheetahObservations)
    assert isinstance(observations(SPEC_COST_005), CheetahObservations)
    assert type(observations(PUSHED)) is Observations
    before, after = torch.randn(2, 4, 18, generator=torch.Generator().manual_seed(0))
    seen = rule.inputs(before)
    expected = torch.cat([before[:, 1:2], before[:, 2:3].sin(), before[:, 2:3].cos(), before[:, 3:]], dim=1)
    torch.testing.assert_close(seen, expected)
    targets = rule.targets(before, after)
    torch.testing.assert_close(targets[:, 0], after[:, 0])
    torch.testing.assert_close(targets[:, 1:], after[:, 1:] - before[:, 1:])
    torch.testing.assert_close(rule.following(before, targets), after)
    torch.testing.assert_close(rule.targets(after, before)[:, 0], before[:, 0])


def test_discrete_actions_are_one_hot():
    assert encoded_actions(torch.tensor([1, 0]), PUSHED).tolist() == [[0, 1], [1, 0]]


def test_short_trajectories_are_padded_and_counted(caplog):
    data = recorded(PUSHED, horizon=6)
    with caplog.at_level(logging.WARNING):
        fitted = method(vanilla(updates=20)).fit(data, PUSHED, seed=0)
    assert "12 of 12 trajectories of pushed are shorter than the history of 10 steps" in caplog.text
    predicted = fitted.predict(np.zeros(3, int), data.observation[:3], data.action[:12].reshape(3, 4))
    assert np.isfinite(predicted).all()


def test_data_of_another_environment_are_refused():
    with pytest.raises(InputError, match="give data of this environment"):
        method(vanilla()).fit(recorded(GLIDE), PUSHED, seed=0)


def test_data_without_anything_to_learn_from_are_refused():
    data = recorded(PUSHED, horizon=1)
    with pytest.raises(InputError, match="hold no transition to learn from; give longer trajectories"):
        method(vanilla(skip_first_window=True)).fit(data, PUSHED, seed=0)


def test_a_constant_state_and_action_train():
    data = recorded(PUSHED)
    columns = {name: getattr(data, name).copy() for name in ("observation", "next_observation")}
    for column in columns.values():
        column[:, 1] = 0.3
    data = replace(data, **columns, action=np.ones_like(data.action), reward=np.ones_like(data.reward))
    fitted = method(pets(updates=30)).fit(data, PUSHED, seed=0)
    predicted = fitted.predict(np.zeros(2, int), data.observation[:2], np.ones((2, 5), int))
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(predicted[..., 1], 0.3, atol=1e-6)
