"""Alternating least squares as the last step of training, and the choice of ensemble members."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from persim.data import collect_regime
from persim.envs import get
from persim.errors import InputError
from persim.learning.ensemble import EnsembleSettings, best_members, chosen_members, recorded_errors, train_ensemble
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.polish import PolishSettings, _chunks, _Rows, _solve_agents, _solve_last, _Weights, polish
from persim.learning.training import TrainSettings

RIDGE = 1e-6
SCALE = torch.tensor([[0.1, 0.5, 0.2, 0.3], [1.0, 0.1, 0.4, 0.2]], dtype=torch.float64)


@pytest.fixture(scope="module")
def cartpole():
    return collect_regime(get("cartpole"), "random", n_agents=40, seed=0)


def seeds(count):
    return np.random.SeedSequence(7).spawn(count)


def model_of(data, rank=2, members=2, width=6, **more):
    sizes = data.n_agents, data.state_dim, data.action_dim, data.discrete
    return LowRankDynamics(ModelSettings(*sizes, rank, members, (width,), **more), seeds(members))


def continuous(cartpole):
    """The same data as if the actions had been numbers, all of them different."""
    rng = np.random.default_rng(1)
    action = (cartpole.action[:, None] + rng.uniform(-0.4, 0.4, (len(cartpole), 1))).astype(np.float32)
    return dataclasses.replace(cartpole, action=action, action_space=Box(-1, 2, (1,), np.float32))


def design(model, data, member):
    """The plain features of the last layer ``[M, R F]``, of the agents' factors ``[M, S, R]``, and the errors."""
    with torch.no_grad():
        arrays = {name: value[member].double().numpy() for name, value in model.state_dict().items()}
    rows = np.hstack([data.observation, np.ones((len(data), 1))])
    units = np.maximum(rows @ arrays["state_layers.0"].T, 0)
    units = np.hstack([units, np.ones((len(data), 1))])
    v = (units @ arrays["state_layers.1"].T).reshape(len(data), data.state_dim, -1)
    actions = np.eye(data.action_dim)[data.action] if data.discrete else data.action
    w = np.hstack([actions, np.ones((len(data), 1))]) @ arrays["action_layers.0"].T
    u = (arrays["agent_layer"][:, :-1] + arrays["agent_layer"][:, -1:])[:, data.agent].T
    inputs = np.stack([np.kron(a, b) for a, b in zip(u * w, units, strict=True)])
    return inputs, v * w[:, None], data.delta - (v * (u * w)[:, None]).sum(2), arrays


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_the_last_layer_is_the_plain_ridge_regression(cartpole, kind):
    data = cartpole if kind == "discrete" else continuous(cartpole)
    model = model_of(data)
    rows = _Rows(model, data, np.arange(len(data)))
    found = _solve_last(_Weights(model), rows, _chunks(rows, data.discrete), SCALE, RIDGE)
    for member in range(2):
        inputs, _, error, arrays = design(model, data, member)
        share = 1 / np.sqrt(1 + np.square(error / SCALE[member].numpy()).mean(1))
        gram = (inputs.T * share) @ inputs
        gram += RIDGE * np.diag(gram).mean() * np.eye(len(gram))
        change = np.linalg.solve(gram, (inputs.T * share) @ error)  # [R F, S]
        change = change.reshape(model.settings.rank, -1, data.state_dim).transpose(2, 0, 1)
        wanted = arrays["state_layers.1"] + change.reshape(arrays["state_layers.1"].shape)
        np.testing.assert_allclose(found[member].numpy(), wanted, rtol=1e-5, atol=1e-7)


def test_the_agents_factors_are_plain_ridge_regressions(cartpole):
    model = model_of(cartpole)
    rows = _Rows(model, cartpole, np.arange(len(cartpole)))
    found = _solve_agents(_Weights(model), rows, SCALE, RIDGE)
    for member in range(2):
        _, inputs, error, arrays = design(model, cartpole, member)
        scale = SCALE[member].numpy()
        share = np.power(1 + np.square(error / scale).mean(1, keepdims=True), -0.25) / scale
        inputs, error = inputs * share[..., None], error * share
        grams = np.zeros((cartpole.n_agents, 2, 2))
        for agent in range(cartpole.n_agents):
            own = inputs[cartpole.agent == agent].reshape(-1, 2)
            grams[agent] = own.T @ own
        shift = RIDGE * np.einsum("nrr->nr", grams).mean() * np.eye(2)
        for agent in range(cartpole.n_agents):
            own = cartpole.agent == agent
            change = np.linalg.solve(grams[agent] + shift, inputs[own].reshape(-1, 2).T @ error[own].reshape(-1))
            was = arrays["agent_layer"][:, agent] + arrays["agent_layer"][:, -1]
            np.testing.assert_allclose(found[member, :, agent].numpy(), was + change, rtol=1e-6, atol=1e-9)


def test_a_jump_does_not_spoil_the_rest(cartpole):
    """One transition in twenty is of other dynamics: all others are still predicted as if it were not there."""
    truth, data = truth_of(cartpole)
    jumps = np.random.default_rng(0).random(len(data)) < 0.05
    following = data.next_observation.copy()
    following[jumps] += 1
    jumpy, model = dataclasses.replace(data, next_observation=following), truth.select([0])
    ids, states, actions = (torch.tensor(x) for x in (data.agent, data.observation, data.action))

    def error():
        with torch.no_grad():
            return float((model(ids, states, actions)[0] - truth(ids, states, actions)[0]).abs().mean())

    with torch.no_grad():
        model.state_layers[-1].add_(0.1 * torch.randn(model.state_layers[-1].shape, generator=torch.manual_seed(0)))
    assert error() > 0.004
    polish(model, jumpy, PolishSettings(8), np.random.default_rng(0))
    assert error() < 1e-4  # with plain squares no round agrees with the held-out transitions


def truth_of(data, rank=2):
    """A model of rank two, and data that it made: what the least squares can fit exactly."""
    truth = model_of(data, rank, members=1)
    with torch.no_grad():
        ids, states, actions = (torch.tensor(x) for x in (data.agent, data.observation, data.action))
        following = truth(ids, states, actions)[0].numpy()
    return truth, dataclasses.replace(data, next_observation=following)


def test_what_is_linear_in_the_last_layer_is_recovered(cartpole):
    truth, data = truth_of(cartpole)
    model = truth.select([0])
    with torch.no_grad():
        model.state_layers[-1].add_(0.1 * torch.randn(model.state_layers[-1].shape, generator=torch.manual_seed(0)))
    ids, states, actions = (torch.tensor(x) for x in (data.agent, data.observation, data.action))
    before = (model(ids, states, actions)[0] - truth(ids, states, actions)[0]).abs().max()
    assert polish(model, data, PolishSettings(2, 1e-9), np.random.default_rng(0)) != [0]
    after = (model(ids, states, actions)[0] - truth(ids, states, actions)[0]).abs().max()
    assert before > 1e-2
    assert after < 1e-5


def test_too_few_transitions_are_not_fitted(caplog):
    few = collect_regime(get("cartpole"), "random", n_agents=5, seed=0)
    model = model_of(few, rank=3, members=1, width=200)
    before = model.state_layers[-1].clone()
    with caplog.at_level(logging.INFO):
        assert polish(model, few, PolishSettings(2), np.random.default_rng(0)) == [0]
    assert "too few to solve for 603 weights of each state dimension" in caplog.text
    assert torch.equal(model.state_layers[-1], before)


def test_a_round_that_does_not_help_on_held_out_rows_is_undone(cartpole, caplog, monkeypatch):
    """There are more unknowns than transitions: the fit is perfect and worthless."""
    monkeypatch.setattr("persim.learning.polish.EQUATIONS", 0)
    few = collect_regime(get("cartpole"), "random", n_agents=5, seed=0)
    model = model_of(few, rank=3, members=1, width=200)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    noise = np.random.default_rng(0).normal(size=few.next_observation.shape)
    noisy = dataclasses.replace(few, next_observation=(few.observation + 0.1 * noise).astype(np.float32))
    with caplog.at_level(logging.INFO):
        assert polish(model, noisy, PolishSettings(2), np.random.default_rng(0)) == [0]
    assert "did not lower the held-out error of member 0" in caplog.text
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_weights_that_are_not_finite_are_kept_as_trained(cartpole):
    model = model_of(cartpole)
    with torch.no_grad():
        model.agent_layer[1, 0, 0] = torch.inf
    before = model.agent_layer.clone()
    kept = polish(model, cartpole, PolishSettings(1), np.random.default_rng(0))
    assert kept[1] == 0
    assert torch.equal(model.agent_layer[1], before[1])


def test_a_ridge_below_what_float64_bears_keeps_the_trained_weights(cartpole, caplog, monkeypatch):
    """With many more units than transitions the normal equations are singular: no round has a solution to keep."""
    monkeypatch.setattr("persim.learning.polish.EQUATIONS", 0)
    few = collect_regime(get("cartpole"), "random", n_agents=5, seed=0)
    model = model_of(few, rank=3, members=1, width=200)
    before = model.state_layers[-1].clone()
    with caplog.at_level(logging.INFO):
        assert polish(model, few, PolishSettings(2, 1e-25), np.random.default_rng(0)) == [0]
    assert torch.equal(model.state_layers[-1], before)
    assert "keeps its weights" in caplog.text


def test_an_agent_with_fewer_rows_than_the_rank_keeps_its_factors(cartpole, caplog):
    order = np.flatnonzero((cartpole.agent != 7) | (cartpole.step < 1))
    columns = ["agent", "step", "observation", "action", "next_observation", "reward", "terminated", "truncated"]
    data = dataclasses.replace(cartpole, **{name: getattr(cartpole, name)[order] for name in columns})
    model = model_of(data, rank=4)
    before = (model.agent_layer[:, :, 7]).clone()
    with caplog.at_level(logging.INFO):
        polish(model, data, PolishSettings(1), np.random.default_rng(0))
    assert "1 of 40 agents have too few transitions for factors of rank 4" in caplog.text
    torch.testing.assert_close(model.agent_layer[:, :, 7], before)


def test_no_rounds_change_nothing(cartpole):
    model = model_of(cartpole)
    before = model.agent_layer.clone()
    assert polish(model, cartpole, PolishSettings(0), np.random.default_rng(0)) == [0, 0]
    assert torch.equal(model.agent_layer, before)


def test_a_member_gives_the_same_alone_and_twice(cartpole):
    both, alone, again = model_of(cartpole), model_of(cartpole).select([1]), model_of(cartpole).select([1])
    for model in (both, alone, again):
        polish(model, cartpole, PolishSettings(2), np.random.default_rng(3))
    assert torch.equal(alone.state_layers[-1], again.state_layers[-1])
    torch.testing.assert_close(both.state_layers[-1][1], alone.state_layers[-1][0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("values", [{"rounds": -1}, {"ridge": 0.0}, {"ridge": np.nan}])
def test_settings_are_checked(values):
    with pytest.raises(InputError, match=r"polish is -1|ridge is"):
        PolishSettings(**values)


def test_recorded_errors_are_those_of_the_plain_loop(cartpole):
    model = model_of(cartpole)
    found = recorded_errors(model, cartpole, np.random.default_rng(0), starts=10_000, horizon=5)
    scale = cartpole.observation.astype(np.float64).std(0)
    for member in range(2):
        one, errors = model.select([member]), []
        for row in range(len(cartpole)):
            agent, length = cartpole.agent[row], (cartpole.agent == cartpole.agent[row]).sum()
            if cartpole.step[row] + 5 > length and cartpole.step[row] > 0:
                continue
            state, squares = torch.from_numpy(cartpole.observation[row][None]), []
            for at in range(row, min(row + 5, row + length - cartpole.step[row])):
                with torch.no_grad():
                    state = one(torch.tensor([agent]), state, torch.from_numpy(cartpole.action[at][None]))[0]
                squares.append(np.square((state[0].numpy() - cartpole.next_observation[at]) / scale).mean())
            errors.append(np.sqrt(np.mean(squares)))
        assert found[member] == pytest.approx(np.mean(errors), rel=1e-5)


def test_a_member_whose_rollouts_leave_the_numbers_is_last(cartpole):
    model = model_of(cartpole, members=3)
    with torch.no_grad():
        model.state_layers[-1][0] *= 1e30
    errors = recorded_errors(model, cartpole, np.random.default_rng(0))
    assert np.isinf(errors[0])
    assert np.isfinite(errors[1:]).all()
    assert best_members(errors.tolist(), 2) == [1, 2]


def test_members_twice_as_bad_as_the_best_are_left_out():
    size = EnsembleSettings(3, 5)
    assert chosen_members([0.4, 0.3, 0.1, 0.2, 0.15], size) == [2, 3, 4]
    assert chosen_members([0.4, 0.3, 0.1, 0.2, 9.0], size) == [2, 3]
    assert chosen_members([np.inf, 0.1, np.inf, 0.5, np.inf], size) == [1]
    assert chosen_members([9.0, 0.1, 0.2], EnsembleSettings(3, 3)) == [0, 1, 2]


def test_members_are_chosen_by_recorded_errors(cartpole):
    settings, size = TrainSettings(epochs=4, batch_size=32, average_last=2), EnsembleSettings(2, 4)
    kept, _ = train_ensemble(cartpole, 2, size, settings, seed=0)
    everyone, _ = train_ensemble(cartpole, 2, EnsembleSettings(4, 4), settings, seed=0)
    errors = recorded_errors(everyone, cartpole, np.random.default_rng(5))
    wanted = everyone.select(chosen_members(errors.tolist(), size))
    assert torch.equal(kept.state_layers[0], wanted.state_layers[0])
