"""Training: Adam, resume, divergence, and a rank-3 system recovered."""

import dataclasses

import numpy as np
import pytest
import torch

from persim import seeding
from persim.errors import InputError
from persim.learning.ensemble import EnsembleSettings
from persim.learning.gradients import FlatParameters, LossGradient, TrainingRows
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.training import DivergenceError, TrainSettings, _Run, holdout_errors, split, train

SETTINGS = TrainSettings(epochs=6, batch_size=32, halve_every=4, average_last=3)
EVERY = {"holdout_every": 2, "checkpoint_every": 2}


def build(data, rank=2, members=2):
    shape = ModelSettings(data.n_agents, data.state_dim, data.action_dim, data.discrete, rank, members)
    return LowRankDynamics(shape, [seeding.sequence(0, "init", k) for k in range(members)])


def orders(members=2):
    return [seeding.sequence(0, "batches", k) for k in range(members)]


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def plain_training(data, settings, members):
    """Autograd and torch.optim.Adam, member by member, batch by batch."""
    model = build(data, members=members)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    averages, count = [torch.zeros_like(p) for p in model.parameters()], 0
    for epoch in range(settings.epochs):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * 0.5 ** (epoch // settings.halve_every)
        perms = []
        for seed in orders(members):
            child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, epoch))
            perms.append(np.random.default_rng(child).permutation(len(data)))
        for first in range(0, len(data), settings.batch_size):
            rows = np.stack([perm[first : first + settings.batch_size] for perm in perms])
            states = torch.from_numpy(data.observation[rows]).mT
            actions = torch.nn.functional.one_hot(torch.from_numpy(data.action[rows]), 2).float().mT
            delta = model.delta(torch.from_numpy(data.agent[rows]), states, actions)
            loss = (delta - torch.from_numpy(data.delta[rows]).mT).square().mean((1, 2)).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if epoch >= settings.epochs - settings.average_last:
                count += 1
                with torch.no_grad():
                    for average, p in zip(averages, model.parameters(), strict=True):
                        average.lerp_(p, 1 / count)
    return torch.cat([average.reshape(-1) for average in averages]) if count else weights(model)


@pytest.mark.parametrize("average_last", [0, 3])
def test_fast_training_is_plain_training(cartpole_data, average_last):
    settings = dataclasses.replace(SETTINGS, average_last=average_last)
    model = build(cartpole_data)
    train(model, cartpole_data, settings, orders())
    torch.testing.assert_close(weights(model), plain_training(cartpole_data, settings, 2), rtol=1e-4, atol=1e-6)


def test_next_states_are_learnt_where_differences_are_not(cartpole_data):
    """Trained on the same steps, its product is the next state: what ``holdout_errors`` measures is what it misses."""
    usual = build(cartpole_data)
    model = LowRankDynamics.from_arrays(usual.arrays(), dataclasses.replace(usual.settings, residual=False))
    before, rows = weights(model).clone(), np.arange(len(cartpole_data))
    train(model, cartpole_data, SETTINGS, orders())
    assert not torch.equal(weights(model), before)
    who, states, actions = (
        torch.from_numpy(column) for column in (cartpole_data.agent, cartpole_data.observation, cartpole_data.action)
    )
    with torch.no_grad():
        missed = model(who, states, actions) - torch.from_numpy(cartpole_data.next_observation)
    found = holdout_errors(model, TrainingRows(model, cartpole_data, rows))
    np.testing.assert_allclose(found, missed.double().square().mean(1).numpy(), rtol=1e-4)
    assert found.mean() < 0.9 * np.square(cartpole_data.next_observation).mean()  # that of a model that says zero


def test_a_step_is_that_of_torchs_adam(cartpole_data):
    """The private fused kernel against the public optimiser on the same gradients."""
    model, reference = build(cartpole_data), build(cartpole_data)
    run = _Run(model, SETTINGS)
    optimiser = torch.optim.Adam(reference.parameters(), lr=1e-3)
    rows = TrainingRows(model, cartpole_data, np.arange(len(cartpole_data)))
    with torch.no_grad():
        for batch in rows.batches(32, [np.arange(len(rows))] * 2):
            run.step(batch, 1e-3)
            for p, own in zip(reference.parameters(), model.parameters(), strict=True):
                p.grad = run.flat.gradient_of(own).clone()
            optimiser.step()
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-5, atol=1e-7)


def test_members_do_not_touch_each_other(cartpole_data):
    both, alone = build(cartpole_data), build(cartpole_data, members=1)
    train(both, cartpole_data, SETTINGS, orders())
    train(alone, cartpole_data, SETTINGS, orders(1))
    for one, two in zip(alone.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(one[0], two[0], rtol=1e-4, atol=1e-6)


def test_same_seed_twice_is_equal_to_the_last_bit(cartpole_data):
    first, second = build(cartpole_data), build(cartpole_data)
    train(first, cartpole_data, SETTINGS, orders())
    train(second, cartpole_data, SETTINGS, orders())
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_stopped_and_resumed_is_uninterrupted(cartpole_data, tmp_path, stop_after):
    rows, holdout = split(len(cartpole_data), 0.2, np.random.default_rng(0))
    whole = build(cartpole_data)
    expected = train(whole, cartpole_data, SETTINGS, orders(), rows=rows, holdout=holdout, **EVERY)
    assert expected.holdout_epochs == [2, 4, 6]

    class Stopped(Exception):
        pass

    def stop(report):
        if report.epoch == stop_after:
            raise Stopped

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stopped):
        train(build(cartpole_data), cartpole_data, SETTINGS, orders(), rows=rows, holdout=holdout,
              checkpoint=path, progress=stop, **EVERY)  # fmt: skip
    assert path.exists() == (stop_after >= 2)
    resumed = build(cartpole_data)
    result = train(resumed, cartpole_data, SETTINGS, orders(), rows=rows, holdout=holdout, checkpoint=path, **EVERY)
    assert torch.equal(weights(resumed), weights(whole))
    assert result.losses == expected.losses
    assert result.holdout_losses == expected.holdout_losses
    np.testing.assert_array_equal(result.holdout_mse, expected.holdout_mse)


def test_resumed_after_the_end_trains_no_more(cartpole_data, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    rows, holdout = split(len(cartpole_data), 0.2, np.random.default_rng(0))
    first, second = build(cartpole_data), build(cartpole_data)
    expected = train(first, cartpole_data, SETTINGS, orders(), rows=rows, holdout=holdout, checkpoint=path)
    result = train(second, cartpole_data, SETTINGS, orders(), rows=rows, holdout=holdout, checkpoint=path)
    assert torch.equal(weights(first), weights(second))
    np.testing.assert_array_equal(result.holdout_mse, expected.holdout_mse)


def test_foreign_and_damaged_checkpoints_are_refused(cartpole_data, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    train(build(cartpole_data), cartpole_data, SETTINGS, orders(), checkpoint=path)
    other = dataclasses.replace(SETTINGS, learning_rate=1e-4)
    with pytest.raises(InputError, match="belongs to another run"):
        train(build(cartpole_data), cartpole_data, other, orders(), checkpoint=path)
    with pytest.raises(InputError, match="belongs to another run"):
        train(build(cartpole_data), cartpole_data, SETTINGS, orders(), checkpoint=path, holdout_every=1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged"):
        train(build(cartpole_data), cartpole_data, SETTINGS, orders(), checkpoint=path)


def test_a_nan_in_a_checkpoint_is_refused(tmp_path):
    from persim.storage import store

    store.write_arrays(tmp_path / "c", {"values": np.array([1.0, np.nan])}, "checkpoint", {})
    with pytest.raises(InputError, match="non-finite value in 'values'"):
        store.read_arrays(tmp_path / "c", "checkpoint")


def test_divergence_stops_with_its_step(cartpole_data):
    model = build(cartpole_data)
    with torch.no_grad():
        model.agent_layer[1, 0, 0] = float("inf")
    with pytest.raises(DivergenceError, match=r"step \d+ \(epoch 1\)"):
        train(model, cartpole_data, SETTINGS, orders())


def test_holdout_rows_are_not_trained_on():
    rows, holdout = split(100, 0.2, np.random.default_rng(0))
    assert len(holdout) == 20
    assert sorted([*rows, *holdout]) == list(range(100))
    again = split(100, 0.2, np.random.default_rng(1))[1]
    assert set(again.tolist()) != set(holdout.tolist())


def test_holdout_error_is_the_mean_square(cartpole_data):
    model, rows = build(cartpole_data), np.arange(0, len(cartpole_data), 3)
    measured = holdout_errors(model, TrainingRows(model, cartpole_data, rows))
    d = cartpole_data
    with torch.no_grad():
        predicted = model(*(torch.from_numpy(x[rows]) for x in (d.agent, d.observation, d.action))).numpy()
    np.testing.assert_allclose(measured, np.square(predicted - d.next_observation[rows]).mean(1), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan"), 1e-9])
def test_impossible_holdout_is_refused(share):
    with pytest.raises(InputError, match="hold-out share"):
        split(100, share, np.random.default_rng(0))


def test_a_rank_3_system_is_recovered(cartpole_data, rng):
    """Data made by a random rank-3 model: rank 3 fits it far better than rank 1."""
    teacher = build(cartpole_data, rank=3, members=1)
    with torch.no_grad():
        teacher.agent_layer.normal_(generator=torch.Generator().manual_seed(0))
    rows = 6000
    agent = np.sort(rng.integers(12, size=rows))
    step = np.zeros(rows, dtype=np.int64)
    observation = rng.uniform(-1, 1, size=(rows, 4)).astype(np.float32)
    action = rng.integers(2, size=rows)
    with torch.no_grad():
        following = teacher(*(torch.from_numpy(x) for x in (agent, observation, action)))[0].numpy()
    data = dataclasses.replace(
        cartpole_data, agent=agent, step=step, observation=observation, action=action, next_observation=following,
        reward=np.ones(rows, np.float32), terminated=np.ones(rows, bool), truncated=np.zeros(rows, bool),
    )  # fmt: skip
    train_rows, holdout = split(rows, 0.2, rng)
    errors = {}
    for rank in (1, 3):
        model = build(data, rank=rank, members=1)
        result = train(
            model, data, TrainSettings(epochs=80, batch_size=64), orders(1), rows=train_rows, holdout=holdout
        )
        errors[rank] = float(result.holdout_mse.mean()) / float(data.delta.var())
    assert errors[3] < 2e-3
    assert errors[1] > 20 * errors[3]


def test_impossible_settings_are_refused(cartpole_data):
    for name in EVERY:
        with pytest.raises(InputError, match=f"{name} is 0"):
            train(build(cartpole_data), cartpole_data, SETTINGS, orders(), **{name: 0})
    with pytest.raises(InputError, match="epochs is 0"):
        TrainSettings(epochs=0)
    with pytest.raises(InputError, match="learning_rate"):
        TrainSettings(learning_rate=-1.0)
    with pytest.raises(InputError, match="fewer than the 5 members"):
        EnsembleSettings(members=5, candidates=4)


def test_products_in_bfloat16_give_nearly_the_gradient_of_float32(cartpole_data):
    gradients = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = build(cartpole_data, rank=3)
        with torch.no_grad():
            flat = FlatParameters(model)
            rows = TrainingRows(model, cartpole_data, np.arange(64))
            batch = next(rows.batches(32, [np.arange(64)] * 2))
            squared = LossGradient(model, flat, 32, dtype)(batch)
        gradients[dtype] = (flat.gradient, squared)
    (exact, error), (rounded, other) = gradients.values()
    assert flat.gradient.dtype == torch.float32
    assert 0 < (exact - rounded).norm() < 0.03 * exact.norm()
    torch.testing.assert_close(error, other, rtol=0.02, atol=0)


def test_training_in_bfloat16_ends_near_that_in_float32(cartpole_data):
    losses = []
    for precision in ("float32", "bfloat16"):
        settings = TrainSettings(epochs=30, batch_size=32, average_last=10, precision=precision)
        losses.append(train(build(cartpole_data), cartpole_data, settings, orders()).losses)
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.1)
    assert losses[1][-1] < 0.9 * losses[1][0]


def test_only_a_precision_that_is_not_usual_is_part_of_what_settings_say():
    assert "precision" not in TrainSettings().about()
    assert TrainSettings(precision="bfloat16").about()["precision"] == "bfloat16"
    with pytest.raises(InputError, match="precision"):
        TrainSettings(precision="float16")
