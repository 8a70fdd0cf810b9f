"""The model: shapes, the plain formula, the closed-form gradient against autograd."""

import dataclasses

import numpy as np
import pytest
import torch

from persim import seeding
from persim.errors import InputError
from persim.learning.gradients import FlatParameters, LossGradient, Minibatch, TrainingRows
from persim.learning.model import KIND, LowRankDynamics, ModelSettings
from persim.storage import store

DISCRETE = ModelSettings(n_agents=7, state_dim=4, action_dim=2, discrete=True, rank=3, members=2)
CONTINUOUS = dataclasses.replace(DISCRETE, discrete=False, action_dim=3, state_widths=(16, 12), action_widths=(8, 9))


def build(settings, seed=0):
    return LowRankDynamics(settings, [seeding.sequence(seed, k) for k in range(settings.members)])


def inputs(settings, rng, batch=11):
    agents = torch.from_numpy(rng.integers(settings.n_agents, size=batch))
    states = torch.from_numpy(rng.normal(size=(batch, settings.state_dim)).astype(np.float32))
    if settings.discrete:
        return agents, states, torch.from_numpy(rng.integers(settings.action_dim, size=batch))
    return agents, states, torch.from_numpy(rng.normal(size=(batch, settings.action_dim)).astype(np.float32))


def plain_next_state(model, member, agent, state, action):
    """The sum of Section 4, one transition, one member, one output dimension and rank at a time."""

    def layer(matrix, x):
        return matrix[:, :-1] @ x + matrix[:, -1]

    def network(layers, x):
        for index, matrix in enumerate(layers):
            x = layer(matrix[member].detach().numpy(), x)
            x = np.maximum(x, 0) if index < len(layers) - 1 else x
        return x

    shape = model.settings
    one_hot = np.eye(shape.n_agents)[agent]
    u = layer(model.agent_layer[member].detach().numpy(), one_hot)
    encoded = np.eye(shape.action_dim)[action] if shape.discrete else action
    w = network(model.action_layers, encoded)
    v = network(model.state_layers, state).reshape(shape.state_dim, shape.rank)
    return np.array([state[d] + sum(u[i] * v[d, i] * w[i] for i in range(shape.rank)) for d in range(shape.state_dim)])


@pytest.mark.parametrize("normalised", [False, True])
def test_without_residual_the_product_is_the_next_state(normalised, rng):
    """The same weights give the same product; it is trained on the next states, and nothing else changes."""
    usual = build(dataclasses.replace(DISCRETE, normalised=normalised))
    settings = dataclasses.replace(usual.settings, residual=False)
    other = LowRankDynamics.from_arrays(usual.arrays(), settings)
    agents, states, actions = inputs(DISCRETE, rng)
    with torch.no_grad():
        torch.testing.assert_close(other(agents, states, actions), usual(agents, states, actions) - states)
    deltas = torch.from_numpy(rng.normal(size=states.shape).astype(np.float32))
    torch.testing.assert_close(other.target(states, deltas), states + deltas)
    assert usual.target(states, deltas) is deltas
    if normalised:
        other.fit_scales(states, deltas)
        torch.testing.assert_close(other.delta_scale[0], (states + deltas).mean(0))
        torch.testing.assert_close(other.state_scale[0], states.mean(0))


@pytest.mark.parametrize("settings", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_forward_is_the_papers_formula(settings, rng):
    model = build(settings)
    agents, states, actions = inputs(settings, rng)
    predicted = model(agents, states, actions).detach().numpy()
    assert predicted.shape == (2, 11, 4)
    for member in range(2):
        for row in range(11):
            expected = plain_next_state(model, member, int(agents[row]), states[row].numpy(), actions[row].numpy())
            np.testing.assert_allclose(predicted[member, row], expected, rtol=1e-5, atol=1e-6)


def test_encoders_have_the_sizes_of_appendix_d1():
    model = build(ModelSettings(n_agents=500, state_dim=4, action_dim=2, discrete=True, rank=5))
    assert tuple(model.agent_layer.shape) == (1, 5, 501)  # 500 one-hot inputs and a bias
    assert [tuple(layer.shape) for layer in model.state_layers] == [(1, 256, 5), (1, 20, 257)]
    assert [tuple(layer.shape) for layer in model.action_layers] == [(1, 5, 3)]


@pytest.mark.parametrize("settings", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("batch", [1, 11])
def test_closed_form_gradient_is_autograds(settings, batch, rng, cartpole_data):
    model = build(settings).double()
    flat = FlatParameters(model)
    agents = torch.from_numpy(rng.integers(settings.n_agents, size=(2, batch)))
    states = torch.from_numpy(rng.normal(size=(2, settings.state_dim + 1, batch)))
    actions = torch.from_numpy(rng.normal(size=(2, settings.action_dim + 1, batch)))
    states[:, -1], actions[:, -1] = 1, 1
    targets = torch.from_numpy(rng.normal(size=(2, settings.state_dim, batch)))

    error = model.delta(agents, states[:, :-1], actions[:, :-1]) - targets
    error.square().mean((1, 2)).sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])

    index = agents.unsqueeze(1).expand(2, settings.rank, batch)
    with torch.no_grad():
        squared = LossGradient(model, flat, batch, torch.float64)(Minibatch(index, states, actions, targets))
    torch.testing.assert_close(flat.gradient, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(squared.flatten(), error.square().sum((1, 2)).detach())


def test_a_member_is_the_same_whatever_its_siblings():
    alone, both = build(dataclasses.replace(DISCRETE, members=1)), build(DISCRETE)
    for one, two in zip(alone.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(one[0], two[0], rtol=0, atol=0)


def test_select_keeps_the_chosen_members(rng):
    model = build(DISCRETE)
    chosen = model.select([1])
    data = inputs(DISCRETE, rng)
    torch.testing.assert_close(chosen(*data)[0], model(*data)[1])


def test_weights_of_another_method_are_refused(tmp_path):
    path = tmp_path / "bcq.safetensors"
    store.write_arrays(path, {"a": np.zeros(1)}, KIND, {"about": {}})
    with pytest.raises(InputError, match="holds another method's weights"):
        LowRankDynamics.load(path)


def test_save_and_load_give_the_same_predictions(tmp_path, rng):
    model = build(CONTINUOUS)
    model.save(tmp_path / "model.safetensors", env="x")
    loaded, about = LowRankDynamics.load(tmp_path / "model.safetensors")
    data = inputs(CONTINUOUS, rng)
    torch.testing.assert_close(loaded(*data), model(*data), rtol=0, atol=0)
    assert about == {"env": "x"}


def test_rows_of_an_epoch_are_each_used_once(cartpole_data, rng):
    settings = dataclasses.replace(DISCRETE, n_agents=12, members=2)
    rows = TrainingRows(build(settings), cartpole_data, np.arange(len(cartpole_data)))
    orders = [rng.permutation(len(rows)) for _ in range(2)]
    batches = list(rows.batches(16, orders))
    assert [b.targets.shape[-1] for b in batches[:-1]] == [16] * (len(batches) - 1)
    for member, order in enumerate(orders):
        seen = torch.cat([b.states[member, :-1] for b in batches], dim=-1).numpy().T
        np.testing.assert_array_equal(seen, cartpole_data.observation[order])
        agents = torch.cat([b.agents[member, 0] for b in batches]).numpy()
        np.testing.assert_array_equal(agents, cartpole_data.agent[order])


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"rank": 0}, "rank is 0"), ({"members": 0}, "members"), ({"state_widths": (0,)}, "widths")],
)
def test_impossible_shapes_are_refused(change, expected):
    with pytest.raises(InputError, match=expected):
        dataclasses.replace(DISCRETE, **change)


def test_seeds_have_to_match_members():
    with pytest.raises(InputError, match="1 seeds were given for 2 members"):
        LowRankDynamics(DISCRETE, [seeding.sequence(0)])


NORMALISED = dataclasses.replace(CONTINUOUS, normalised=True)


def test_normalised_model_works_in_physical_units(rng):
    """s' = s + mean + deviation * network((s - mean) / deviation)."""
    model, plain = build(NORMALISED), build(CONTINUOUS)
    data_states, data_deltas = rng.normal(3, 5, (400, 4)), rng.normal(-1, 0.1, (400, 4))
    data_deltas[:, 2] = 0.7  # a constant dimension has no deviation to divide by
    model.fit_scales(torch.from_numpy(data_states), torch.from_numpy(data_deltas))
    agents, states, actions = inputs(NORMALISED, rng)
    with torch.no_grad():
        scaled = (states - torch.from_numpy(data_states.mean(0)).float()) / torch.from_numpy(
            data_states.std(0, ddof=1)
        ).float()
        network = plain(agents, scaled, actions) - scaled
        deviation = torch.tensor([data_deltas[:, d].std(ddof=1) if d != 2 else 1.0 for d in range(4)]).float()
        wanted = states + torch.from_numpy(data_deltas.mean(0)).float() + deviation * network
        torch.testing.assert_close(model(agents, states, actions), wanted, rtol=1e-4, atol=1e-4)


def test_scales_are_saved_and_selected(tmp_path, rng):
    model = build(NORMALISED)
    model.fit_scales(torch.from_numpy(rng.normal(3, 5, (400, 4))), torch.from_numpy(rng.normal(-1, 0.1, (400, 4))))
    model.save(tmp_path / "m.safetensors", env="x")
    loaded, _ = LowRankDynamics.load(tmp_path / "m.safetensors")
    case = inputs(NORMALISED, rng)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*case), model(*case), rtol=0, atol=0)
        torch.testing.assert_close(loaded.select([1])(*case)[0], model(*case)[1])
