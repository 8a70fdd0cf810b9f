import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch

from persim.data import collect
from persim.data.policies import UniformPolicy
from persim.envs import Covariate
from persim.errors import InputError
from persim.tables.factories import collect_table, spec_of

LENGTHS = pd.DataFrame({"length": [1.0, 0.5, 2.0]}, index=["one", "half", "two"])


class Pendulums(gym.Wrapper):
    """Pendulums of any length."""

    def __init__(self, length):
        super().__init__(gym.make("Pendulum-v1"))
        self.unwrapped.l = length


def carts(length):
    env = gym.make("CartPole-v1")
    env.unwrapped.length = length
    return env


def set_pendulum(env, seen):
    env.state = np.array([np.arctan2(seen[1], seen[0]), seen[2]])


def spec(**changes):
    covariates = [Covariate("length", "m", 0.5, 2.0, 1.0)]
    about = {"horizon": 20, "reward": lambda before, acts, after: -after[..., 2].square()} | changes
    return spec_of("pendulums", Pendulums, covariates, set_pendulum, **about)


def test_a_table_of_environments_of_ones_own():
    names = {"state": ["cos", "sin", "speed"], "action": ["torque"]}
    table = collect_table(Pendulums, LENGTHS, 30, lambda seen, rng: rng.normal(size=1) - seen[2:], lags=3, **names)
    assert table.names == ("one", "half", "two")
    assert table.static[:, 0].tolist() == [1, 0.5, 2]
    assert np.bincount(table.agent).tolist() == [31, 31, 31]
    assert table.schema.state == ("cos", "sin", "speed")
    assert table.schema.lags == 3
    env = Pendulums(1.0)
    env.reset()
    set_pendulum(env.unwrapped, table.state[4])
    np.testing.assert_allclose(env.step(table.action[4])[0], table.state[5], atol=1e-5)
    assert (table.reward[:30] < 0).all()


def test_an_episode_that_ends_is_followed_by_another_and_seeds_repeat():
    one, same, other = (collect_table(carts, LENGTHS, 60, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one.to_frame(), same.to_frame())
    assert not np.array_equal(one.state[:5], other.state[:5])
    assert one.labels == ("0", "1")
    steps = np.bincount(one.agent, np.isfinite(one.action[:, 0]))
    assert steps.tolist() == [60, 60, 60]
    assert len(one.trajectories) > 3
    starts = one.state[one.step == 0]
    assert len(np.unique(starts, axis=0)) == len(starts)
    assert np.abs(starts).max() <= 0.05


def test_a_spec_steps_the_environments_of_its_agents():
    given = spec()
    rng, rows = np.random.default_rng(0), np.array([[1.0], [0.5], [1.0]])
    states = given.reset(rng, rows)
    acts = np.array([[0.5], [-1.0], [2.0]], dtype=np.float32)
    following = given.step(states, acts, rows)
    for state, act, row, after in zip(states, acts, rows, following, strict=True):
        env = Pendulums(row[0])
        env.reset()
        set_pendulum(env.unwrapped, state)
        np.testing.assert_allclose(env.step(act)[0], after, atol=1e-6)
    np.testing.assert_array_equal(given.step(states, acts, rows), following)
    assert not given.terminated(torch.zeros(2, 3)).any()
    assert given.test_agents == ((1.0,),)
    assert spec(test_agents=[[0.5], [2]]).test_agents == ((0.5,), (2,))


def test_trajectories_are_collected_with_such_a_spec():
    given = spec()
    rows = np.array([[0.5], [2.0]])
    data = collect(given, rows, UniformPolicy(given.action_space), np.random.default_rng(0))
    assert (data.n_agents, len(data)) == (2, 40)
    np.testing.assert_allclose(data.reward, -(data.next_observation[:, 2] ** 2), rtol=1e-5)


def test_what_is_not_flat_is_refused():
    class Grid(gym.Env):
        observation_space = gym.spaces.Discrete(4)
        action_space = gym.spaces.Discrete(2)

        def reset(self, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return 0, 0.0, False, False, {}

    with pytest.raises(InputError, match=r"grid has observations Discrete\(4\)"):
        spec_of("grid", Grid, [], lambda env, state: None, lambda *_: torch.zeros(1), horizon=3)
    with pytest.raises(InputError, match="observations of shape"):
        collect_table(Grid, pd.DataFrame(index=["a"]), 5)
    with pytest.raises(InputError, match="steps is 0"):
        collect_table(Grid, pd.DataFrame(index=["a"]), 0)
