"""The contract of methods; every method of the registry is held to it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from baselines.model_free.settings import PAPER_UPDATES
from baselines.registry import METHODS, PRESETS, Budget, make_method
from persim.data import collect_regime
from persim.data.collect import collect
from persim.data.policies import UniformPolicy
from persim.envs import get
from persim.errors import InputError
from persim.learning.ensemble import EnsembleSettings, train_ensemble
from persim.learning.presets import preset
from persim.learning.training import TrainSettings
from persim.methods import Part, Predictor

TINY = Budget(
    "tiny",
    epochs=2,
    average_last=1,
    members=2,
    spare=1,
    episodes=1,
    updates=dict.fromkeys(PAPER_UPDATES, 3),
    cadm={"iterations": 2, "epochs": 2, "updates": 6, "particles": 10, "plans": 12},
    morel={"epochs": 1, "min_updates": 3, "ppo_steps": 1024},
    planning={"plans": 12, "horizon": 5},
)
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


def budget_for(env):
    return TINY if get(env).discrete else Budget(**{**TINY.__dict__, "planning": {"plans": 20, "horizon": 5}})


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("name", METHODS)
def test_a_fitted_method_acts_in_its_space_and_predicts_if_it_says_so(name, env, data):
    spec = replace(get(env), horizon=20)  # spares synthetic episodes of HalfCheetah's whole length
    method = make_method(name, spec, budget_for(env))
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


def test_the_base_of_a_method_is_the_one_that_the_registry_names():
    for name, entry in METHODS.items():
        spec = get("cartpole")
        base = make_method(name, spec, TINY, 4 if entry.ranked else None).base
        assert (base is None) == (entry.base is None)
        if base is not None:
            assert base.learns_with() == make_method(entry.base, spec, TINY, 4).learns_with()


def test_parts_are_the_members_of_the_ensemble_trained_in_one_go(data):
    spec = get("cartpole")
    method = make_method("persim", spec, TINY)
    apart = method.assemble([method.fit_part(Part(part, data["cartpole"], spec, 5)) for part in range(3)])
    together, _ = train_ensemble(
        data["cartpole"],
        preset("cartpole").rank,
        EnsembleSettings(2, 3),
        TrainSettings(2, preset("cartpole").batch_size, average_last=1),
        5,
    )
    for name, array in together.arrays().items():
        np.testing.assert_allclose(apart.arrays[name], array, rtol=1e-4, atol=1e-6)


def test_the_true_environment_needs_covariates():
    spec = get("cartpole")
    method = make_method("true-env", spec, TINY)
    with pytest.raises(InputError, match="needs the covariates"):
        method.restore(method.assemble([]), spec, None)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'persim'"):
        make_method("persin", get("cartpole"), TINY)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"members": 0},
        {"episodes": 0},
        {"spare": -1},
        {"policy_episodes": 0},
        {"updates": {"bcq": 0}},
        {"cadm": {"epochs": 0}},
        {"cadm": {"epoch": 1}},
        {"morel": {"ppo_steps": 0}},
    ],
)
def test_budgets_are_checked(change):
    with pytest.raises(InputError, match=next(iter(change))):
        Budget(**{**PRESETS["smoke"].__dict__, **change})
