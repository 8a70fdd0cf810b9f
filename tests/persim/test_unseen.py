"""Agents that were never observed: known factors recovered, predictions and plans, the draw of p, bad input."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from baselines.registry import METHODS
from persim.errors import InputError
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.unseen import FactorMap, MapSettings, fit_map, known_agents, unseen_model
from persim.methods import Part, PerSim, PerSimSettings
from persim.methods.persim import ModelSimulator, PlanningSettings, make_simulator
from persim.methods.unseen import UnseenAgents
from tests.baselines.toy import WALK, recorded, share_of_the_way

MEMBERS, RANK, AGENTS = 3, 4, 40


@pytest.fixture(scope="module")
def handmade():
    """A model whose factors are affine in one covariate, in a basis of its own for every member."""
    rng = np.random.default_rng(0)
    covariates = np.sort(rng.uniform(0.1, 0.5, (AGENTS, 1)), axis=0)
    basis = rng.normal(size=(MEMBERS, RANK, 2))

    def factors(rows):
        return torch.from_numpy(basis @ np.stack([rows[:, 0], np.ones(len(rows))])).float()

    shape = ModelSettings(AGENTS, 1, 3, True, RANK, MEMBERS, state_widths=(8,))
    seeds = [np.random.SeedSequence(k) for k in range(MEMBERS)]
    return LowRankDynamics(shape, seeds).with_agents(factors(covariates)), covariates, factors


def everyone(covariates):
    return range(len(covariates)), covariates


@pytest.mark.parametrize("p", [1.0, 0.25])
def test_factors_that_are_affine_in_a_covariate_are_recovered_also_a_little_outside(handmade, p):
    model, covariates, factors = handmade
    new = np.array([[0.09], [0.2], [0.333], [0.52]])
    factor_map, _ = fit_map(model, WALK, everyone(covariates), p, 0)
    placed = unseen_model(model, factor_map, new)
    ids = torch.arange(4).expand(MEMBERS, -1)
    with torch.no_grad():
        found, spread = placed.agent_factors(ids), factors(covariates).std(-1, keepdim=True)
    assert ((found - factors(new)) / spread).abs().max() < 1e-3


def test_what_is_not_affine_is_learnt(handmade):
    model, covariates, _ = handmade
    basis = torch.randn(MEMBERS, RANK, 2, generator=torch.Generator().manual_seed(0))

    def curved(rows):
        return basis @ torch.from_numpy(np.stack([1 / rows[:, 0], np.ones(len(rows))])).float()

    factor_map, losses = fit_map(model.with_agents(curved(covariates)), WALK, everyone(covariates), 1.0, 0)
    between = (covariates[1:] + covariates[:-1]) / 2
    with torch.no_grad():
        error = (factor_map(torch.from_numpy(between).mT) - curved(between)) / curved(covariates).std(-1, keepdim=True)
    assert error.abs().max() < 0.1
    assert losses[-1] < losses[0] / 100


def test_all_but_the_agents_is_the_old_model(handmade):
    model, covariates, factors = handmade
    other = model.with_agents(factors(covariates[[7, 30]]))
    assert other.settings.n_agents == 2
    states, actions = torch.randn(2, 1), torch.tensor([0, 2])
    with torch.no_grad():
        torch.testing.assert_close(
            other(torch.tensor([0, 1]), states, actions), model(torch.tensor([7, 30]), states, actions)
        )


def test_a_member_gets_the_same_map_beside_other_siblings(handmade):
    model, covariates, _ = handmade
    short = MapSettings(steps=20)
    together, _ = fit_map(model, WALK, everyone(covariates), 1.0, 3, short)
    alone, _ = fit_map(model.select([0]), WALK, everyone(covariates), 1.0, 3, short)
    rows = torch.tensor([[0.15, 0.4]])
    with torch.no_grad():
        torch.testing.assert_close(together(rows)[:1], alone(rows))


def test_the_same_seed_gives_the_same_map_and_another_one_another(handmade):
    model, covariates, _ = handmade

    def arrays(seed):
        return fit_map(model, WALK, everyone(covariates), 0.5, seed, MapSettings(steps=5))[0].arrays()

    first, again, other = arrays(1), arrays(1), arrays(2)
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
    assert any((other[name] != array).any() for name, array in first.items())


def test_the_affine_map_does_not_depend_on_where_its_arguments_lie_in_memory():
    rng, found = np.random.default_rng(0), set()
    covariates, factors = torch.tensor(rng.normal(size=(2, 60))), torch.tensor(rng.normal(size=(2, 3, 60)))
    for _ in range(60):
        held = [np.empty(size, np.uint8) for size in rng.integers(1, 5000, 200)]
        built = FactorMap(2, 3, (16,), [np.random.SeedSequence(k) for k in range(2)])
        built.fit_affine(covariates.clone(), factors.clone())
        found.add(built.affine.numpy().tobytes())
        del held
    assert len(found) == 1


def test_a_smaller_share_is_part_of_a_larger_one():
    shares = [set(known_agents(500, p, 7).tolist()) for p in (1.0, 0.5, 0.25, 0.1)]
    assert [len(share) for share in shares] == [500, 250, 125, 50]
    for larger, smaller in pairwise(shares):
        assert smaller < larger
    assert set(known_agents(500, 0.1, 8).tolist()) != shares[-1]


def test_only_the_chosen_agents_are_looked_at(handmade):
    model, covariates, _ = handmade
    chosen = known_agents(AGENTS, 0.25, 0)
    others = np.setdiff1d(np.arange(AGENTS), chosen)
    spoilt = covariates.copy()
    spoilt[others] = 99
    first, second = (
        fit_map(model, WALK, everyone(rows), 0.25, 0, MapSettings(steps=5))[0].arrays() for rows in (covariates, spoilt)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)


@pytest.fixture(scope="module")
def walkers():
    """PerSim on agents that walk a line in steps of their covariate."""
    data = recorded(WALK, agents=60)
    planning = PlanningSettings.of(WALK, plans=60, horizon=5)
    method = PerSim(PerSimSettings.of(WALK, planning, rank=2, members=2, spare=0, epochs=60, average_last=10))
    weights = method.train(data, WALK, 0)
    return data, method, weights, method.restore(weights, WALK)


NEW = np.array([[0.15], [0.27], [0.45]])


def test_an_unseen_agent_is_predicted_and_planned_for(walkers):
    data, _, _, simulator = walkers
    placed = simulator.for_covariates(NEW, data, p=0.5)
    assert isinstance(placed, ModelSimulator)
    actions = np.array([[0, 2, 2, 1], [2, 2, 0, 0], [0, 1, 0, 2]])
    states = np.array([[0.1], [0.2], [0.3]], dtype=np.float32)
    true = states + np.concatenate([np.zeros((3, 1)), np.cumsum(NEW * (actions - 1), axis=1)], axis=1)
    predicted = placed.predict(np.arange(3), states, actions)[..., 0]
    assert np.abs(predicted - true).max() < 0.1
    strangers = simulator.predict(np.arange(3), states, actions)[..., 0]  # ids of agents of the data
    assert np.abs(strangers - true).max() > 0.2
    plans = placed.plan(np.arange(3), states, np.random.default_rng(0))
    assert plans.shape == (3, 5)

    class New:
        covariates = NEW

    assert (share_of_the_way(WALK, New, placed) > 0.95).all()


def test_the_method_is_the_library_call_with_the_weights_of_its_base(walkers):
    data, base, weights, simulator = walkers
    method = UnseenAgents(base, 0.5)
    fitted = method.restore(method.assemble([method.fit_part(Part(0, data, WALK, 4, base=weights))]), WALK, NEW)
    called = simulator.for_covariates(NEW, data, p=0.5, seed=4)
    states, actions = np.zeros((3, 1), dtype=np.float32), np.array([[0, 2], [2, 1], [1, 0]])
    np.testing.assert_array_equal(
        fitted.predict(np.arange(3), states, actions), called.predict(np.arange(3), states, actions)
    )
    assert method.learns_with() != UnseenAgents(base, 0.25).learns_with()
    assert method.about()["p"] == 0.5
    assert "planning" not in method.learns_with()


def test_the_papers_shares_are_methods():
    titles = {entry.title for entry in METHODS.values() if entry.p is not None}
    assert titles == {"PerSim(p=1.0)", "PerSim(p=0.5)", "PerSim(p=0.25)", "PerSim(p=0.1)"}


def without_covariates(data):
    return replace(data, covariates=None)


BAD = [
    (lambda s, d: s.for_covariates(NEW, d, p=0.01), "p is 0.01, which leaves 1 of 60 training agents"),
    (lambda s, d: s.for_covariates(NEW, d, p=0), "p is 0, but it is a share"),
    (lambda s, d: s.for_covariates(NEW, d, p=1.5), "p is 1.5, but it is a share"),
    (lambda s, d: s.for_covariates(NEW, d, p=float("nan")), "p is nan, but it is a share"),
    (lambda s, d: s.for_covariates([[1.0, 2.0]], d), r"covariates of shape \(1, 2\) do not fit line"),
    (lambda s, d: s.for_covariates([[np.nan]], d), "hold a non-finite value"),
    (lambda s, d: s.for_covariates(np.zeros((0, 1)), d), "n_agents is 0"),
    (lambda s, d: s.for_covariates(NEW, without_covariates(d)), "the data have no covariates of their agents"),
    (lambda s, d: s.for_covariates(NEW, recorded(WALK, agents=8)), "have 8 agents, but the model was trained on 60"),
    (lambda s, d: s.for_covariates(NEW, ([0, 1, 2], NEW[:2])), "3 training agents came with 2 rows"),
    (lambda s, d: s.for_covariates(NEW, ([0, 1, 60], NEW)), r"not all in 0\.\.59"),
    (lambda s, d: s.for_covariates(NEW, ([0, 1, 1], NEW)), "named twice"),
    (lambda s, d: s.for_covariates(NEW, ([0], NEW[:1])), "leaves 1 of 1 training agents"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_input_is_one_line(walkers, call, message):
    data, _, _, simulator = walkers
    with pytest.raises(InputError, match=message) as caught:
        call(simulator, data)
    assert "\n" not in str(caught.value)


def test_a_fitted_method_needs_to_be_told_whom_it_acts_for(walkers):
    data, base, weights, _ = walkers
    method = UnseenAgents(base, 0.5, MapSettings(steps=2))
    own = method.fit_part(Part(0, data, WALK, 4, base=weights))
    with pytest.raises(InputError, match="placed by its covariates"):
        method.restore(own, WALK)


def test_settings_of_the_map_are_checked():
    for change in ({"widths": (0,)}, {"steps": 0}, {"learning_rate": 1.0}):
        with pytest.raises(InputError, match=next(iter(change))):
            MapSettings(**change)


def test_a_simulator_of_a_model_of_ones_own_places_agents_too(handmade):
    model, covariates, _ = handmade
    simulator = make_simulator(model, WALK, PlanningSettings.of(WALK, plans=5, horizon=3))
    placed = simulator.for_covariates(0.3, everyone(covariates), settings=MapSettings(steps=5))
    assert placed.model.settings.n_agents == 1
