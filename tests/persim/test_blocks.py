"""Blocks of time: what is held out, what is trained on, and the open-loop error inside them, on known answers."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from persim.data import Trajectories
from persim.errors import InputError
from persim.learning.blocks import open_loop_errors, split_blocks, windows
from persim.learning.gradients import TrainingRows
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.training import holdout_errors
from persim.methods import holdout
from persim.methods.holdout import HoldOut, holdouts, run_trial
from persim.storage.cells import CellStore
from sweeps.tuning.ranks import SweepSettings


def episodes(*lengths, seed=0):
    """One random episode of each of these lengths, of as many agents; rows follow each other as in recorded data."""
    rng = np.random.default_rng(seed)
    agent, step = np.repeat(np.arange(len(lengths)), lengths), np.concatenate([np.arange(n) for n in lengths])
    paths = [rng.normal(size=(n + 1, 3)).cumsum(0).astype(np.float32) for n in lengths]
    last = np.append(step[1:] == 0, True)
    return Trajectories(
        "toy", len(lengths), gym.spaces.Discrete(2), agent, step, np.concatenate([path[:-1] for path in paths]),
        rng.integers(0, 2, len(agent)), np.concatenate([path[1:] for path in paths]),
        np.zeros(len(agent), np.float32), np.zeros(len(agent), bool), last)  # fmt: skip


def model_of(data, members=2, normalised=False):
    shape = ModelSettings(data.n_agents, 3, 2, True, 2, members, (8,), (), normalised)
    model = LowRankDynamics(shape, [np.random.SeedSequence(k) for k in range(members)])
    if normalised:
        model.fit_scales(torch.tensor(data.observation), torch.tensor(data.delta))
    return model


def test_every_long_trajectory_gives_one_block_and_no_state_of_it_is_trained_on():
    data = episodes(50, 20, 30, 2)
    for seed in range(20):
        train, held = split_blocks(data, 0.2, np.random.default_rng(seed))
        assert np.bincount(data.agent[held]).tolist() == [10, 4, 6]  # a fifth of each; none of the last
        for agent in range(3):
            own = held[data.agent[held] == agent]
            assert (np.diff(own) == 1).all()
        assert not set(train) & set(held)
        gaps = sorted(set(range(len(data))) - set(train) - set(held))
        assert all((g + 1 in held or g - 1 in held) and data.step[g] >= 0 for g in gaps)
        assert len(gaps) <= 6
        block = {tuple(x) for rows in (data.observation[held], data.next_observation[held]) for x in rows.tolist()}
        trained = {tuple(x) for rows in (data.observation[train], data.next_observation[train]) for x in rows.tolist()}
        assert not block & trained
        assert (data.agent[train] == 3).sum() == 2  # too short: trained on in full


def test_blocks_follow_from_the_seed_reach_both_ends_and_do_not_move_with_the_shortest():
    data = episodes(20)
    firsts = {int(split_blocks(data, 0.2, np.random.default_rng(seed))[1][0]) for seed in range(200)}
    assert firsts == set(range(17))
    two = episodes(60, 20)
    (_, all_blocks), (_, long_ones) = (split_blocks(two, 0.2, np.random.default_rng(5), n) for n in (1, 5))
    np.testing.assert_array_equal(long_ones, all_blocks[two.agent[all_blocks] == 0])


def test_data_that_bear_no_block_are_refused():
    for share, shortest, lengths in ((0.2, 5, [20, 10]), (0.2, 1, [2, 2]), (0.9, 1, [20])):
        with pytest.raises(InputError, match=f"at least {shortest} transitions .* the longest has {max(lengths)}"):
            split_blocks(episodes(*lengths), share, np.random.default_rng(0), shortest)
    for share in (0, 1, float("nan")):
        with pytest.raises(InputError, match="strictly between 0 and 1"):
            split_blocks(episodes(20), share, np.random.default_rng(0))


def test_windows_follow_each_other_inside_a_block():
    data = episodes(12, 8, 9)
    held = np.array([2, 3, 4, 5, 6, 10, 11, 12, 13, 20, 21, 22])  # 10 to 13 touch across two episodes
    assert windows(data, held, 2).tolist() == [[2, 3], [4, 5], [10, 11], [12, 13], [20, 21]]
    assert windows(data, held, 3).tolist() == [[2, 3, 4], [20, 21, 22]]
    assert windows(data, held, 1).ravel().tolist() == held.tolist()


@pytest.mark.parametrize("normalised", [False, True])
def test_one_step_is_the_error_of_every_transition(normalised):
    data = episodes(30, 20)
    model, rows = model_of(data, normalised=normalised), np.arange(5, 45)
    mse, variance = open_loop_errors(model, data, rows[:, None])
    np.testing.assert_allclose(mse, holdout_errors(model, TrainingRows(model, data, rows)), rtol=1e-5)
    deltas = model.scaled_deltas(torch.from_numpy(data.delta[rows].astype(np.float64)).mT)
    np.testing.assert_allclose(variance, deltas.var(1, correction=0).numpy(), rtol=1e-6)


def test_several_steps_are_rolled_out_from_the_first_state_alone():
    data = episodes(12)
    model, rows = model_of(data), np.array([[0, 1, 2], [5, 6, 7]])
    mse, variance = open_loop_errors(model, data, rows)
    squared, changes = np.zeros((2, 3)), []
    for window in rows:  # the slow, obvious version
        for member in range(2):
            alone, state = model.select([member]), torch.from_numpy(data.observation[window[:1]])
            for row in window:
                state = alone(torch.tensor([0]), state, torch.from_numpy(data.action[[row]]))[0].detach()
                squared[member] += np.square(state.numpy()[0].astype(float) - data.next_observation[row])
        changes += [data.next_observation[row].astype(float) - data.observation[window[0]] for row in window]
    np.testing.assert_allclose(mse, squared / 6, rtol=1e-5)
    np.testing.assert_allclose(variance, np.var(changes, axis=0), rtol=1e-6)


def test_a_hold_out_is_read_back_from_its_cell_and_checked():
    for test in (HoldOut(0.2, 1), HoldOut(0.2, 0, "blocks"), HoldOut(0.3, 2, "blocks", 5)):
        assert HoldOut.of(holdouts(test.share, test.number, None, test.by, test.steps)) == test
    assert holdouts(0.2, 1) == {"what": "holdout", "share": 0.2, "split": 1}
    for bad, expected in (
        ({"steps": 5}, "measured inside blocks of time, but transitions are held out"),
        ({"by": "block"}, "did you mean 'blocks'"),
        ({"by": "blocks", "steps": 0}, "steps is 0"),
    ):
        with pytest.raises(InputError, match=expected):
            holdouts(0.2, 0, **bad)


def test_a_trial_trains_outside_its_blocks_and_is_measured_inside(cartpole_data, tmp_path, monkeypatch):
    common = dict(env="cartpole", regime="random", agents=12, holdout=0.2, seed=0, ranks=(2, 3), repeats=1, epochs=1)
    rolled = SweepSettings(**common, holdout_by="blocks", error="multi-step", steps=3)
    seen, real = [], holdout.train

    def spy(model, data, settings, seeds, *, rows, holdout, **more):
        seen.append((rows, holdout))
        return real(model, data, settings, seeds, rows=rows, holdout=holdout, **more)

    monkeypatch.setattr(holdout, "train", spy)
    cells = CellStore(tmp_path)
    done = [run_trial(job, cartpole_data, cells, lambda _: None) for job in rolled.jobs()]
    done.append(run_trial(replace(rolled, error="one-step", steps=1).job(2, 0), cartpole_data, cells, lambda _: None))
    np.testing.assert_array_equal(seen[0][1], seen[1][1])  # the same blocks for both ranks
    for train, held in seen:
        assert not set(train) & set(held)
    errors = [each.value("holdout_error") for each in done]
    assert len(set(errors)) == 3
    model, _ = LowRankDynamics.load(tmp_path / done[1].model)
    mse, variance = open_loop_errors(model, cartpole_data, windows(cartpole_data, seen[1][1], 3))
    assert errors[1] == pytest.approx(mse.sum() / variance.sum(), rel=1e-6)
