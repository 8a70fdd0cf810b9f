"""Proposition 1: away from walls and top speed, MountainCar is a sum of exactly three rank-one terms; CartPole of five.

The paper's equations move the car by half of what changes its velocity, gymnasium's by all of it (``share``); the
factors of Appendix C.2 are the same but for that number.
"""

import numpy as np
import pytest
import torch

from persim import seeding
from persim.envs import cartpole as cp
from persim.envs import mountaincar
from persim.learning.model import LowRankDynamics, ModelSettings

PAPER, GYMNASIUM = 0.5, 1.0


def agent_factors(gravity):
    """u ``[N, 3]``."""
    return np.stack([np.ones_like(gravity), gravity, np.ones_like(gravity)], axis=1)


def state_factors(states, share):
    """v ``[M, 2, 3]``."""
    position, velocity = states.T
    pull, one = -np.cos(3 * position), np.ones_like(position)
    return np.stack([
        np.stack([position + velocity, share * pull, share * one], axis=1),
        np.stack([velocity, pull, one], axis=1),
    ], axis=1)  # fmt: skip


def action_factors(forces):
    """w ``[A, 3]``."""
    return np.stack([np.ones_like(forces), np.ones_like(forces), forces], axis=1)


def tensor(gravity, states, forces, share):
    """X ``[N, M, 2, A]``: the next states, as sums of three terms."""
    return np.einsum("nl,mdl,al->nmda", agent_factors(gravity), state_factors(states, share), action_factors(forces))


def drawn(rng, states=300, agents=40):
    """Gravities in and around their range, and states from which no step reaches a wall or the top speed."""
    gravity = rng.uniform(0, 0.005, size=agents)
    inside = np.array([1.0, mountaincar.MAX_SPEED - 0.0061])
    return gravity, rng.uniform([-1.1, -1], [0.5, 1], size=(states, 2)) * inside


def test_the_three_factors_give_the_papers_equations(rng):
    gravity, states = drawn(rng)
    forces = rng.uniform(-0.002, 0.002, size=7)
    n, (position, velocity), a = gravity[:, None, None], states.T[:, None, :, None], forces
    expected = np.stack(
        [position + velocity - n * np.cos(3 * position) / 2 + a / 2, velocity - n * np.cos(3 * position) + a], axis=2
    )
    np.testing.assert_allclose(tensor(gravity, states, forces, PAPER), expected, rtol=0, atol=1e-15)


def test_they_give_the_environment(rng):
    gravity, states = drawn(rng)
    forces = (np.arange(3) - 1) * mountaincar.FORCE
    predicted = tensor(gravity, states, forces, GYMNASIUM)
    n, m, a = (index.ravel() for index in np.indices((len(gravity), len(states), len(forces))))
    stepped = mountaincar.step(states[m], a, gravity[n, None]).reshape(*np.moveaxis(predicted, 2, 3).shape)
    np.testing.assert_allclose(predicted, np.moveaxis(stepped, 3, 2), rtol=0, atol=1e-15)


def test_clipping_is_no_part_of_it():
    at_top_speed = np.array([[-0.5, mountaincar.MAX_SPEED]])
    predicted = tensor(np.array([0.0]), at_top_speed, np.array([mountaincar.FORCE]), GYMNASIUM)
    stepped = mountaincar.step(at_top_speed, np.array([2]), np.zeros((1, 1)))
    assert predicted[0, 0, 1, 0] - stepped[0, 1] == pytest.approx(mountaincar.FORCE)


@pytest.mark.parametrize("share", [PAPER, GYMNASIUM])
def test_fewer_terms_are_not_enough(share, rng):
    """A sum of r terms has unfoldings of rank r at most; one of them has rank 3, and stays far from any of rank 2."""
    gravity, states = drawn(rng)
    forces = (np.arange(3) - 1) * mountaincar.FORCE
    whole = tensor(gravity, states, forces, share)
    by_state = np.moveaxis(whole, (1, 2), (0, 1)).reshape(2 * len(states), -1)
    values = np.linalg.svd(by_state, compute_uv=False)
    assert values[2] > 1e-4 * values[0]
    assert values[3] < 1e-14 * values[0]
    for axis in (0, 3):  # gravity and action alone would pass for rank 2: gravity and a constant, force and a constant
        values = np.linalg.svd(np.moveaxis(whole, axis, 0).reshape(whole.shape[axis], -1), compute_uv=False)
        assert values[1] > 1e-4 * values[0]
        assert values[2] < 1e-14 * values[0]


class Proposition(LowRankDynamics):
    """The model with v as the proposition has it, which no ReLU network is; of state differences, as it predicts."""

    def state_factors(self, states):
        rows = states[0].T.double().numpy()
        factors = state_factors(rows, GYMNASIUM)
        factors[:, 0, 0], factors[:, 1, 0] = rows[:, 1], 0
        return torch.from_numpy(factors).permute(1, 2, 0)[None].float()


def test_a_model_of_rank_three_is_mountaincar(rng):
    gravity, states = drawn(rng)
    forces = (np.arange(3) - 1) * mountaincar.FORCE
    settings = ModelSettings(n_agents=len(gravity), state_dim=2, action_dim=3, discrete=True, rank=3)
    model = Proposition(settings, [seeding.sequence(0)])
    with torch.no_grad():
        for layer, factors in (
            (model.agent_layer, agent_factors(gravity)),
            (model.action_layers[0], action_factors(forces)),
        ):
            layer.zero_()
            layer[0, :, :-1] = torch.from_numpy(factors.T)
    agents, actions = rng.integers(len(gravity), size=len(states)), rng.integers(3, size=len(states))
    who, where, what = torch.from_numpy(agents), torch.from_numpy(states).float(), torch.from_numpy(actions)
    predicted = model(who, where, what).detach().numpy()[0]
    stepped = mountaincar.step(where.double().numpy(), actions, gravity[agents, None])
    np.testing.assert_allclose(predicted, stepped, rtol=0, atol=2e-7)


def test_cartpoles_dynamics_have_rank_5(rng):
    """Its agents enter through 1/l, F/l, 1, F and l only, so five rank-one terms are exact."""
    force, length = rng.uniform(2, 18, size=100), rng.uniform(0.15, 0.85, size=100)
    states, action = rng.normal(size=(100, 4)) * [1, 1, 0.2, 2], rng.integers(2, size=100)
    _, velocity, angle, turn = states.T
    one, zero, sign = np.ones(100), np.zeros(100), 2.0 * action - 1
    sine, cosine, share = np.sin(angle), np.cos(angle), cp.POLE_MASS_KG / cp.TOTAL_MASS_KG
    inertia = 4 / 3 - share * cosine**2
    u = np.stack([1 / length, force / length, one, force, length])
    w = np.stack([one, sign, one, sign, one])
    centrifugal = share * turn**2 * sine
    v = cp.STEP_S * np.array(
        [
            [zero, zero, velocity, zero, zero],
            [zero, zero, -share * cp.GRAVITY_M_S2 * sine * cosine / inertia,
             (1 + share * cosine**2 / inertia) / cp.TOTAL_MASS_KG, centrifugal * (1 + share * cosine**2 / inertia)],
            [zero, zero, turn, zero, zero],
            [cp.GRAVITY_M_S2 * sine / inertia, -cosine / (cp.TOTAL_MASS_KG * inertia),
             -centrifugal * cosine / inertia, zero, zero],
        ]
    )  # fmt: skip
    after = cp.step(states, action, np.stack([force, length], axis=1))
    np.testing.assert_allclose(states + (u * v * w).sum(1).T, after, atol=1e-12)


def test_and_no_fewer(rng):
    """The unfolding by state has rank five; the fifth direction, where the pole's length enters by itself, is faint."""
    agents, states = rng.uniform([2, 0.15], [18, 0.85], size=(30, 2)), rng.normal(size=(100, 4)) * [1, 1, 0.2, 2]
    n, m, a = (index.ravel() for index in np.indices((30, 100, 2)))
    deltas = (cp.step(states[m], a, agents[n]) - states[m]).reshape(30, 100, 2, 4)
    values = np.linalg.svd(deltas.transpose(1, 3, 0, 2).reshape(400, 60), compute_uv=False)
    assert values[4] > 1e-5 * values[0]
    assert values[5] < 1e-13 * values[0]
