"""Energies of terms and directions: the slow reference, closed forms, systems of known rank."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from persim import seeding
from persim.data import Trajectories
from persim.errors import InputError
from persim.evaluation.diagnosis import diagnose
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.training import TrainSettings, train

SHAPE = ModelSettings(n_agents=6, state_dim=4, action_dim=3, discrete=True, rank=3, members=2, state_widths=(8,))


def build(shape, seed=0):
    return LowRankDynamics(shape, [seeding.sequence(seed, k) for k in range(shape.members)])


def recorded(shape, rng, rows=60, delta=None):
    """One trajectory of each agent, with states that follow no dynamics; differences as given, or random."""
    columns = {
        "agent": np.repeat(np.arange(shape.n_agents), rows),
        "step": np.tile(np.arange(rows), shape.n_agents),
        "observation": rng.normal(size=(shape.n_agents * rows, shape.state_dim)).astype(np.float32),
        "reward": np.zeros(shape.n_agents * rows, dtype=np.float32),
        "terminated": np.zeros(shape.n_agents * rows, dtype=bool),
        "truncated": np.tile(np.arange(rows) == rows - 1, shape.n_agents),
    }
    total = len(columns["agent"])
    if shape.discrete:
        space, action = gym.spaces.Discrete(shape.action_dim), rng.integers(shape.action_dim, size=total)
    else:
        space = gym.spaces.Box(-9, 9, (shape.action_dim,), np.float32)
        action = rng.uniform(-1, 1, size=(total, shape.action_dim)).astype(np.float32)
    if delta is None:
        delta = rng.normal(size=(total, shape.state_dim)) * [1, 0.01, 5, 1][: shape.state_dim]
    else:
        delta = delta(columns["agent"], columns["observation"], action)
    following = (columns["observation"] + delta).astype(np.float32)
    return Trajectories("x", shape.n_agents, space, action=action, next_observation=following, **columns)


def by_hand(model, data):
    """The whole tensor: every agent in every recorded state under every recorded action, unfolded by state."""
    shape = model.settings
    states = model.scaled(torch.tensor(data.observation).mT).expand(shape.members, -1, -1)
    encoded = model.encode_actions(torch.tensor(data.action)).expand(shape.members, -1, -1)
    everyone = torch.arange(shape.n_agents).expand(shape.members, -1)
    deltas = model.scaled_deltas(torch.tensor(data.delta).mT).detach().numpy().astype(float)
    unit = np.square(deltas).mean(1)
    u, v, w = (
        part.detach().numpy().astype(float)
        for part in (model.agent_factors(everyone), model.state_factors(states), model.action_factors(encoded))
    )
    terms, directions, error = [], [], []
    for k in range(shape.members):
        pieces = np.einsum("ln,dlm,la->lnmda", u[k], v[k], w[k]) / np.sqrt(unit)[:, None]
        count = pieces[0].size
        terms.append(sorted((np.square(piece).sum() / count for piece in pieces), reverse=True))
        by_state = np.moveaxis(pieces.sum(0), (1, 2), (0, 1)).reshape(len(data) * shape.state_dim, -1)
        directions.append(np.square(np.linalg.svd(by_state, compute_uv=False))[: shape.rank] / count)
        own = np.einsum("lm,dlm,lm->dm", u[k][:, data.agent], v[k], w[k])
        error.append((np.square(own - deltas).mean(1) / unit).mean())
    return np.array(terms), np.array(directions), np.array(error)


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        dataclasses.replace(SHAPE, normalised=True, rank=5),
        dataclasses.replace(SHAPE, discrete=False, action_widths=(5,)),
    ],
    ids=["plain", "normalised", "continuous"],
)
def test_energies_are_those_of_the_whole_tensor(shape, rng):
    model, data = build(shape), recorded(shape, rng, rows=8)
    if shape.normalised:
        model.fit_scales(torch.tensor(data.observation), torch.tensor(data.delta))
    found = diagnose(model, data)
    for ours, theirs in zip((found.terms, found.directions, found.error), by_hand(model, data), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-9)


def set_factors(model, agent, state, action):
    """A linear model with these factors: u ``[N, R]``, v ``[R, S]`` on each one's own state dimension, w ``[A, R]``."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.agent_layer[0, :, :-1] = torch.tensor(agent).T
        model.action_layers[0][0, :, :-1] = torch.tensor(action).T
        model.state_layers[0][0, :, -1] = torch.tensor(state).T.reshape(-1)


ONE_EACH = ModelSettings(n_agents=6, state_dim=2, action_dim=3, discrete=True, rank=2, state_widths=())


def test_two_terms_of_known_energy(rng):
    """Term one moves dimension 0 by 3, term two dimension 1 by 4 times the sign of the agent."""
    model = build(ONE_EACH)
    sign = np.array([1, -1] * 3)
    set_factors(model, np.stack([np.ones(6), sign], axis=1), [[3.0, 0.0], [0.0, 4.0]], np.ones((3, 2)))
    data = recorded(ONE_EACH, rng, delta=lambda agent, _, __: np.stack([3 + 0 * agent, 8 * sign[agent]], axis=1))
    found = diagnose(model, data)
    np.testing.assert_allclose(found.terms, [[1 / 2, 1 / 8]], rtol=1e-5)  # 9/9 and 16/64, each one dimension of two
    np.testing.assert_allclose(found.directions, [[1 / 2, 1 / 8]], rtol=1e-5)
    np.testing.assert_allclose(found.error, [(0 + (4 / 8) ** 2) / 2], rtol=1e-4)
    np.testing.assert_allclose(found.lost, [1 / 8, 0], rtol=1e-4, atol=1e-12)


def test_terms_that_cancel_or_repeat_are_one_direction_or_none(rng):
    """Energies of terms say nothing of this; that is what the directions are for."""
    data = recorded(ONE_EACH, rng, delta=lambda agent, _, __: np.ones((len(agent), 2)))
    model = build(ONE_EACH)
    for second, left in ((1.0, 4.0), (-0.999, 1e-6)):
        set_factors(model, np.ones((6, 2)), [[1.0, 1.0], [second, second]], np.ones((3, 2)))
        found = diagnose(model, data)
        np.testing.assert_allclose(found.terms, [[1, second**2]], rtol=1e-4)
        np.testing.assert_allclose(found.directions, [[left, 0]], rtol=1e-3, atol=1e-9)


def test_scaling_within_a_term_changes_nothing(rng):
    model, data = build(SHAPE), recorded(SHAPE, rng, rows=8)
    before = diagnose(model, data)
    scale = torch.tensor([8.0, -0.25, 2.0])
    with torch.no_grad():
        model.agent_layer *= scale[:, None]
        last = model.action_layers[-1]
        last /= scale[:, None]
    after = diagnose(model, data)
    np.testing.assert_allclose(after.terms, before.terms, rtol=1e-5)
    np.testing.assert_allclose(after.directions, before.directions, rtol=1e-4, atol=1e-9)


@pytest.fixture(scope="module")
def of_rank_three():
    """Data of a random linear system of rank three."""
    rng = np.random.default_rng(5)
    shape = dataclasses.replace(SHAPE, n_agents=30, members=1, state_widths=())
    u, v, w = rng.normal(size=(30, 3)), rng.normal(size=(4, 3, 5)), rng.normal(size=(3, 3))

    def delta(agent, states, action):
        seen = np.concatenate([states, np.ones((len(states), 1))], axis=1)
        return np.einsum("ml,dlj,mj,ml->md", u[agent], v, seen, w[action])

    return shape, recorded(shape, rng, rows=60, delta=delta)


def fitted(shape, data, rank):
    model = build(dataclasses.replace(shape, rank=rank))
    settings = TrainSettings(epochs=120, batch_size=32, learning_rate=0.01, average_last=20)
    train(model, data, settings, [seeding.sequence(0, "batches")])
    return model


def test_a_rank_too_large_shows_the_spare_directions(of_rank_three):
    shape, data = of_rank_three
    found = diagnose(fitted(shape, data, 5), data)
    assert found.error.max() < 1e-2
    assert found.needed == 3
    assert found.lost[1] > 100 * found.lost[2]


def test_a_rank_too_small_needs_all_and_errs(of_rank_three):
    shape, data = of_rank_three
    found = diagnose(fitted(shape, data, 2), data)
    assert found.needed == 2
    assert found.error.min() > 0.05


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"n_agents": 7}, "the data have 6 agents, 4 state dimensions and 3 discrete actions, the model 7 agents, 4"),
        ({"state_dim": 3}, "the model 6 agents, 3 state dimensions and 3 discrete actions"),
        ({"action_dim": 2, "discrete": False}, "the model 6 agents, 4 state dimensions and 2 action dimensions"),
    ],
)
def test_other_data_are_refused(change, expected, rng):
    with pytest.raises(InputError, match=expected):
        diagnose(build(dataclasses.replace(SHAPE, **change)), recorded(SHAPE, rng))
