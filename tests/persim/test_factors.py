"""Agent factors: what a regression finds in them, and the map of agents."""

import numpy as np
import pytest
import torch

from persim import seeding
from persim.errors import InputError
from persim.evaluation.factors import agent_factors, covariate_r2, tsne
from persim.learning.model import LowRankDynamics, ModelSettings

AGENTS = 200


@pytest.fixture(scope="module")
def covariates():
    return np.random.default_rng(1).uniform([2, 0.1], [18, 0.9], size=(AGENTS, 2))


def informed(covariates, rng):
    """Factors of two members that hold both covariates, each in a basis of its own, and two spare terms."""
    force, length = covariates.T
    spare = rng.normal(size=(2, AGENTS, 2))
    known = np.stack([np.stack([force, 1 / length], axis=1), np.stack([-1e6 * length, force**2], axis=1)])
    return np.concatenate([known, spare], axis=2).astype(np.float32)


def test_factors_are_those_the_model_multiplies_with():
    model = LowRankDynamics(
        ModelSettings(n_agents=6, state_dim=2, action_dim=3, discrete=True, rank=4, members=2),
        [seeding.sequence(k) for k in range(2)],
    )
    factors = agent_factors(model)
    assert factors.shape == (2, 6, 4)
    expected = model.agent_factors(torch.tensor([[3], [3]]))[:, :, 0].detach().numpy()
    np.testing.assert_array_equal(factors[:, 3], expected)


def test_covariates_are_found_in_factors_that_hold_them(covariates, rng):
    r2 = covariate_r2(informed(covariates, rng), covariates)
    assert r2.shape == (2,)
    assert (r2 > 0.95).all()
    assert (r2 < 1).all()


def test_and_not_in_factors_that_do_not(covariates, rng):
    factors = informed(covariates, rng)
    assert (covariate_r2(factors[:, :, 2:], covariates) < 0.1).all()
    only_force = covariate_r2(factors[:1, :, [0, 2]], covariates)
    assert only_force[0] > 0.95
    assert only_force[1] < 0.1


def test_the_mean_is_over_members_not_over_their_factors(covariates, rng):
    """A member that knows nothing costs half; mixed bases would lose both or neither."""
    factors = informed(covariates, rng)
    each = np.array([covariate_r2(member[None], covariates) for member in factors])
    np.testing.assert_allclose(covariate_r2(factors, covariates), each.mean(0), rtol=1e-12)


def test_scale_and_sign_of_a_term_do_not_matter(covariates, rng):
    factors = informed(covariates, rng)
    scaled = factors * np.array([-1e-4, 1e5, 3, -1], dtype=np.float32)
    np.testing.assert_allclose(covariate_r2(scaled, covariates), covariate_r2(factors, covariates), atol=0.01)


def test_what_cannot_be_said_is_not_a_number(covariates, rng):
    factors = informed(covariates, rng)
    constant = np.stack([covariates[:, 0], np.full(AGENTS, 0.5)], axis=1)
    assert np.isnan(covariate_r2(factors, constant)).tolist() == [False, True]
    assert np.isnan(covariate_r2(factors[:, :4], covariates[:4])).all()
    with pytest.raises(InputError, match="7 rows of covariates do not fit factors of 200 agents"):
        covariate_r2(factors, covariates[:7])


def test_the_same_factors_give_the_same_numbers_and_map(covariates, rng):
    factors = informed(covariates, rng)
    assert covariate_r2(factors, covariates).tobytes() == covariate_r2(factors, covariates).tobytes()
    first = tsne(factors[0])
    assert first.shape == (AGENTS, 2)
    assert first.tobytes() == tsne(factors[0]).tobytes()


def test_neighbours_on_the_map_are_alike(rng):
    gravity = rng.uniform(size=100)
    mapped = tsne(np.stack([gravity, np.sin(gravity), np.zeros(100)], axis=1).astype(np.float32))
    distance = np.linalg.norm(mapped[:, None] - mapped, axis=2) + np.where(np.eye(100), np.inf, 0)
    assert np.abs(gravity - gravity[distance.argmin(1)]).mean() < 0.02  # 0.33 by chance


def test_few_agents_have_a_map(rng):
    assert tsne(rng.normal(size=(6, 3)).astype(np.float32)).shape == (6, 2)
