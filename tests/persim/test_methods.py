"""The contract of methods; every method of the registry is held to it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from baselines.registry import METHODS, make_method
from persim.data import collect_regime
from persim.data.collect import collect
from persim.data.policies import UniformPolicy
from persim.envs import get
from persim.errors import InputError
from persim.learning.ensemble import EnsembleSettings, train_ensemble
from persim.methods import Options, Part, PerSim, Predictor

TINY = Options("smoke")
ENVS = ["mountaincar", "cartpole", "halfcheetah"]
AGENTS = 20  # of which a tenth is enough for the regression of unseen agents


@pytest.fixture(scope="module")
def data():
    found = {env: collect_regime(get(env), "random", AGENTS, seed=3) for env in ("mountaincar", "cartpole")}
    spec = get("halfcheetah")
    covariates = spec.sample_agents(AGENTS, np.random.default_rng(3))
    rng = np.random.default_rng(4)
    found["halfcheetah"] = collect(spec, covariates, UniformPolicy(spec.action_space), rng, horizon=60)
    return found


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("name", METHODS)
def test_a_fitted_method_acts_in_its_space_and_predicts_if_it_says_so(name, env, data):
    spec = replace(get(env), horizon=20)  # spares synthetic episodes of HalfCheetah's whole length
    method = make_method(name, spec, TINY)
    fitted = method.fit(data[env], spec, seed=5)
    agents = np.array([0, 4, 4])
    states = data[env].observation[:3]
    policy = fitted.policy(agents)
    rng = np.random.default_rng(1)
    for running in (np.array([True, True, True]), np.array([True, False, True])):
        actions = policy.act(states, rng)
        assert len(actions) == len(states)
        assert all(spec.action_space.contains(action) for action in actions.astype(spec.action_space.dtype))
        policy.keep(running)
        states = states[running]
    assert isinstance(fitted, Predictor) == method.predicts
    if method.predicts:
        played = data[env].action[: 3 * 7].reshape(3, 7, *data[env].action.shape[1:])
        start = data[env].observation[:3]
        predicted = fitted.predict(agents, start, played)
        assert predicted.shape == (3, 8, spec.state_dim)
        np.testing.assert_array_equal(predicted[:, 0], start)
        assert np.isfinite(predicted).all()


@pytest.mark.parametrize("name", METHODS)
def test_parts_trained_apart_and_twice_give_the_same_weights(name, data):
    spec = get("cartpole")
    method = make_method(name, spec, TINY)
    base = method.base and method.base.train(data["cartpole"], spec, 5)

    def weights(order):
        parts = {part: method.fit_part(Part(part, data["cartpole"], spec, 5, base=base)) for part in order}
        return method.assemble([parts[part] for part in range(method.parts)])

    first, second = weights(range(method.parts)), weights(reversed(range(method.parts)))
    assert first.arrays.keys() == second.arrays.keys()
    for array, values in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[array], values)
    json.dumps(first.settings)
    json.dumps(method.about())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_the_registry_says_and_what_it_costs(name):
    for env in ENVS:
        spec, entry = get(env), METHODS[name]
        method = make_method(name, spec)
        assert method.name == name
        assert entry.learns == (method.parts > 0)
        assert (method.part_seconds(spec, 500, 100.0) > 0) == entry.learns
        assert method.episode_seconds(spec) > 0
        assert isinstance(method.plans, bool)
        assert entry.ranked == (make_method(name, spec, Options(rank=7)).about() != method.about())
        if method.base is not None:
            assert method.base.name in METHODS


def test_parts_are_the_members_of_the_ensemble_trained_in_one_go(data):
    spec = get("cartpole")
    made = make_method("persim", spec, TINY).settings
    method = PerSim(replace(made, size=EnsembleSettings(2, 3)))
    part = Part(0, data["cartpole"], spec, 5)
    apart = method.assemble([method.fit_part(replace(part, number=number)) for number in range(3)])
    assert method.trains_jointly("cpu")
    joint = method.assemble(method.fit_parts(part, range(3)))
    together, _ = train_ensemble(data["cartpole"], made.rank, EnsembleSettings(2, 3), made.train, 5)
    for name, array in together.arrays().items():
        np.testing.assert_allclose(apart.arrays[name], array, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(joint.arrays[name], array)


def test_the_true_environment_needs_covariates():
    spec = get("cartpole")
    method = make_method("true-env", spec, TINY)
    with pytest.raises(InputError, match="needs the covariates"):
        method.restore(method.assemble([]), spec, None)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'persim'"):
        make_method("persin", get("cartpole"), TINY)
