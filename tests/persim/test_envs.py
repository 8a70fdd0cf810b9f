"""Environments: the same physics as gymnasium's, in batches, with covariates."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import persim  # noqa: F401 (registers the environments)
from persim import envs
from persim.data.collect import collect
from persim.data.policies import UniformPolicy
from persim.envs import mountaincar
from persim.envs.trial import check_functions
from persim.errors import InputError

REFERENCES = {"mountaincar": "MountainCar-v0", "cartpole": "CartPole-v1"}
BUILT_IN = [envs.get(name) for name in REFERENCES]


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: spec.name)
def test_same_as_gymnasium_step_by_step(spec, rng):
    reference = gym.make(REFERENCES[spec.name]).unwrapped
    steps = 0
    for episode in range(20):
        reference.reset(seed=episode)
        state = np.array(reference.state, dtype=np.float64)[None]
        for _ in range(spec.horizon):
            action = int(rng.integers(spec.action_dim)) if episode else spec.action_dim - 1
            before, state = state, spec.step(state, np.array([action]), spec.default_agent[None])
            _, reward, terminated, _, _ = reference.step(action)
            np.testing.assert_allclose(state[0], reference.state, rtol=1e-12, atol=1e-15)
            after = torch.from_numpy(state)
            ours = spec.reward(torch.from_numpy(before), torch.tensor([action]), after)
            at_goal = spec.name == "mountaincar" and terminated  # the paper pays 0 there, gymnasium -1
            assert float(ours[0]) == (0.0 if at_goal else reward)
            assert bool(spec.terminated(after)[0]) == terminated
            steps += 1
            if terminated:
                break
    assert steps > 300


def test_mountaincar_pays_nothing_at_the_goal():
    state = np.array([[0.49, 0.05]])
    after = torch.from_numpy(mountaincar.step(state, np.array([2]), np.array([[0.0025]])))
    assert bool(mountaincar.terminated(after)[0])
    assert float(mountaincar.reward(after, torch.tensor([2]), after)[0]) == 0.0


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: spec.name)
def test_a_batch_steps_as_its_rows_do(spec, rng):
    covariates = spec.sample_agents(50, rng)
    states, actions = spec.reset(rng, covariates), rng.integers(spec.action_dim, size=50)
    together = spec.step(states, actions, covariates)
    singly = [spec.step(states[[i]], actions[[i]], covariates[[i]])[0] for i in range(50)]
    np.testing.assert_array_equal(together, np.stack(singly))


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: spec.name)
@pytest.mark.filterwarnings("ignore:.*Box observation space:UserWarning")
def test_gymnasium_accepts_the_environment(spec):
    check_env(gym.make(f"PerSim/{spec.title}-v0").unwrapped)


def test_gymnasium_environment_takes_covariates_and_truncates():
    env = gym.make("PerSim/MountainCar-v0", gravity=0.0035)
    env.reset(seed=0)
    steps, truncated = 0, False
    while not truncated:
        _, _, terminated, truncated, _ = env.step(1)
        assert not terminated
        steps += 1
    assert steps == 500


def test_gymnasium_environment_is_the_batched_dynamics():
    env = gym.make("PerSim/CartPole-v0", force=2.0, pole_length=0.85)
    observation, _ = env.reset(seed=3)
    start = np.array([[0.1, 0.2, 0.05, -0.3]])
    observation, _ = env.reset(options={"state": start[0]})
    np.testing.assert_allclose(observation, start[0], rtol=1e-6)
    observation, *_ = env.step(1)
    expected = envs.get("cartpole").step(start, np.array([1]), np.array([[2.0, 0.85]]))
    np.testing.assert_array_equal(observation, expected[0].astype(np.float32))


def test_covariates_change_the_dynamics():
    spec = envs.get("cartpole")
    start, push = np.zeros((3, 4)), np.ones(3, dtype=np.int64)
    after = spec.step(start, push, np.array([[2.0, 0.5], [18.0, 0.5], [10.0, 0.15]]))
    assert after[1, 1] == pytest.approx(9 * after[0, 1])  # acceleration is linear in the force at rest
    assert after[2, 3] < after[1, 3] < after[0, 3] < 0  # a short pole turns fastest


def test_test_agents_come_first_and_the_rest_lie_in_range(rng):
    spec = envs.get("cartpole")
    agents = spec.sample_agents(200, rng)
    np.testing.assert_array_equal(agents[:5], spec.test_agents)
    for column, covariate in zip(agents.T, spec.covariates, strict=True):
        assert covariate.low <= column.min() < column.max() <= covariate.high


def test_an_environment_of_another_package_can_be_used(monkeypatch):
    import types

    spec = dataclasses.replace(envs.get("cartpole"), name="swing")
    module = types.ModuleType("my_envs")
    module.SWING = spec
    monkeypatch.setitem(__import__("sys").modules, "my_envs", module)
    assert envs.get("my_envs:SWING") is spec


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cartpol", "did you mean 'cartpole'"),
        ("nowhere:SPEC", "cannot be loaded"),
        ("persim.envs:get", "give module:ATTRIBUTE of an EnvSpec"),
    ],
)
def test_unknown_environment_is_refused(name, expected):
    with pytest.raises(InputError, match=expected):
        envs.get(name)


def test_unusable_values_are_refused(rng):
    spec = envs.get("mountaincar")
    with pytest.raises(InputError, match="5 test agents"):
        spec.sample_agents(4, rng)
    with pytest.raises(InputError, match="non-finite"):
        spec.covariate_rows([[float("nan")]])
    with pytest.raises(InputError, match="columns gravity"):
        spec.covariate_rows([[1.0, 2.0]])
    with pytest.raises(InputError, match="did you mean 'gravity'"):
        gym.make("PerSim/MountainCar-v0", gravty=0.001)
    env = gym.make("PerSim/MountainCar-v0").unwrapped
    with pytest.raises(InputError, match="call reset first"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(InputError, match="is not in Discrete"):
        env.step(3)


def test_covariates_outside_their_range_are_refused_unless_asked_for():
    with pytest.raises(InputError, match=r"gravity is 0.01, outside 0.0001 to 0.0035 .* any_covariates=True"):
        gym.make("PerSim/MountainCar-v0", gravity=0.01)
    gym.make("PerSim/MountainCar-v0", gravity=0.01, any_covariates=True).reset(seed=0)


def test_an_environment_without_test_agents_is_simulated_but_nothing_is_measured_on_it():
    spec = dataclasses.replace(envs.get("cartpole"), name="untested", test_agents=())
    check_functions(spec)
    agents = spec.sample_agents(3, np.random.default_rng(0))
    assert agents.shape == (3, 2)
    assert collect(spec, agents, UniformPolicy(spec.action_space), np.random.default_rng(0)).n_agents == 3
    assert len(spec.sample_agents(1, np.random.default_rng(0))) == 1
