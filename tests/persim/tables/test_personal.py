import numpy as np
import pytest
import torch

from persim import read_table
from persim.tables import personal
from persim.tables.personal import Prior, Sums
from persim.tables.steps import steps_of
from persim.tables.units import Covariates
from tests.persim.tables.systems import frame


@pytest.mark.parametrize("piece", [7, 256])
def test_sums_are_those_of_a_slow_loop(remembering, piece, monkeypatch):
    monkeypatch.setattr(personal, "PIECE", piece)
    table = read_table(frame(3, 40, seed=3), remembering.schema)
    of = remembering.dynamics
    inputs = of.features.inputs_of(table)
    steps = steps_of(table, inputs, of.units.for_agents(table, inputs.acts))
    sums = Sums.of(of.terms, steps, 3)
    terms = of.terms(torch.from_numpy(steps.observation)[None], torch.from_numpy(steps.action)).double()
    scale = of.terms.model.delta_scale.double().numpy()
    gram, moment = np.zeros(sums.gram.shape), np.zeros(sums.moment.shape)
    square = np.zeros(sums.square.shape)
    for step, agent in enumerate(steps.agent):
        y = (steps.delta[step, 0] - scale[0, 0]) / scale[1, 0]
        for member in range(2):
            x = terms[member, step, 0].numpy()
            gram[member, 0, agent] += np.outer(x, x)
            moment[member, 0, agent] += x * y
        square[0, agent] += y**2
    np.testing.assert_allclose(sums.gram.numpy(), gram, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums.moment.numpy(), moment, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums.square.numpy(), square, rtol=1e-5)
    assert sums.count.tolist() == [37, 37, 37]  # 40 rows less two of the lags and the last


def test_weights_are_those_of_bayesian_regression(rng):
    x, y, size, noise = rng.normal(size=(30, 3)), rng.normal(size=30), rng.normal(size=(4, 1)), 0.4
    unit, mean, root = rng.uniform(0.5, 2, 3), rng.normal(size=(2, 3)), rng.normal(size=(3, 3))
    cov = root @ root.T + np.eye(3)
    prior = Prior(
        torch.from_numpy(mean)[None, None], torch.from_numpy(cov)[None, None], torch.tensor([[noise]]).double(),
        torch.from_numpy(unit)[None, None], Covariates.of(size),
    )  # fmt: skip
    one = size[:1]
    sums = Sums(*(torch.from_numpy(np.asarray(part)) for part in
                  ((x.T @ x)[None, None, None], (x.T @ y)[None, None, None], [[y @ y]], [30.0])))  # fmt: skip
    theta, deviation = prior.weights(one, sums)
    standard = (one[0, 0] - size.mean()) / size.std()
    before = mean.T @ [1, standard]
    scaled = x * unit
    precision = scaled.T @ scaled / noise + np.linalg.inv(cov)
    expected = np.linalg.solve(precision, scaled.T @ y / noise + np.linalg.solve(cov, before))
    np.testing.assert_allclose(theta[0, 0, 0].numpy(), expected * unit, rtol=1e-4)
    np.testing.assert_allclose(deviation[0, 0, 0].numpy(), np.sqrt(np.diag(np.linalg.inv(precision))) * unit, rtol=1e-4)


def test_a_prior_finds_the_weights_that_covariates_explain(rng):
    """500 agents with 20 steps each: M, C and the noise are those that the data were drawn with."""
    agents, noise, spread = 500, 0.3, 0.5
    static = rng.normal(size=(agents, 1))
    theta = np.stack([1 + 2 * static[:, 0], -1 + 0 * static[:, 0]], axis=1) + spread * rng.normal(size=(agents, 2))
    x = rng.normal(size=(agents, 20, 2))
    y = np.einsum("nbf,nf->nb", x, theta) + noise * rng.normal(size=(agents, 20))
    sums = Sums(*(torch.from_numpy(part) for part in (
        np.einsum("nbf,nbg->nfg", x, x)[None, None], np.einsum("nbf,nb->nf", x, y)[None, None],
        np.square(y).sum(1)[None], np.full(agents, 20.0))))  # fmt: skip
    prior = personal.fit_prior(sums, static)
    unit = prior.unit[0, 0].numpy()
    deviation = static.std()
    np.testing.assert_allclose(prior.mean[0, 0].numpy() * unit, [[1, -1], [2 * deviation, 0]], atol=0.1)
    np.testing.assert_allclose(np.sqrt(np.diag(prior.cov[0, 0])) * unit, spread, rtol=0.1)
    np.testing.assert_allclose(prior.noise.item(), noise**2, rtol=0.1)
