"""Trajectories: validated when built, whole or absent on disk."""

import dataclasses
import os

import numpy as np
import pytest

from persim.data import Trajectories, collect, collect_regime
from persim.data.policies import EpsilonPolicy, NetworkPolicy, UniformPolicy, has_test_policy, load_test_policy
from persim.data.train_policies import RECIPES, mean_reward
from persim.envs import get
from persim.errors import InputError
from persim.storage import store


def test_collected_episodes_are_whole_and_follow_the_dynamics(cartpole_data):
    data, spec = cartpole_data, get("cartpole")
    assert data.n_agents == 12
    assert set(data.agent.tolist()) == set(range(12))
    ends = np.append(data.step[1:] == 0, True)
    np.testing.assert_array_equal(ends, data.terminated | data.truncated)
    same = ~ends[:-1]
    np.testing.assert_array_equal(data.next_observation[:-1][same], data.observation[1:][same])
    expected = spec.step(data.observation.astype(float), data.action, data.covariates[data.agent])
    np.testing.assert_allclose(data.next_observation, expected, atol=2e-6)


def test_random_data_look_like_table_5():
    car = collect_regime(get("mountaincar"), "random", 500, seed=1)
    assert len(car) / 500 == pytest.approx(496.3, rel=0.02)
    pole = collect_regime(get("cartpole"), "random", 500, seed=1)
    assert pole.reward.sum() / 500 == pytest.approx(22.39, rel=0.1)


def test_same_seed_same_data_other_seed_other_data():
    first, again, other = (collect_regime(get("cartpole"), "random", 8, seed) for seed in (0, 0, 1))
    assert first.content_hash == again.content_hash != other.content_hash


def test_truncated_at_the_limit_not_terminated(rng):
    spec = get("mountaincar")
    data = collect(spec, [[0.0035]], UniformPolicy(spec.action_space), rng, horizon=7)
    assert len(data) == 7
    assert data.truncated.tolist() == [False] * 6 + [True]
    assert not data.terminated.any()


def test_save_and_load_give_the_same(tmp_path, cartpole_data):
    path = tmp_path / "data.safetensors"
    assert cartpole_data.save(path) == cartpole_data.content_hash
    loaded = Trajectories.load(path)
    assert loaded.content_hash == cartpole_data.content_hash
    np.testing.assert_array_equal(loaded.observation, cartpole_data.observation)
    np.testing.assert_array_equal(loaded.covariates, cartpole_data.covariates)
    assert os.listdir(tmp_path) == ["data.safetensors"]


def test_of_agents_keeps_ids(cartpole_data):
    part = cartpole_data.of_agents([3, 7])
    assert set(part.agent.tolist()) == {3, 7}
    assert part.n_agents == 12
    with pytest.raises(InputError, match=r"not all in 0\.\.11"):
        cartpole_data.of_agents([12])


def test_synthetic_data_say_so_and_recorded_ones_keep_their_hash(tmp_path, cartpole_data):
    settings = {"env": "cartpole", "n_agents": 12, "action_space": {"type": "discrete", "n": 2}, "regime": "random"}
    columns = ("agent", "step", "observation", "action", "next_observation", "reward", "terminated", "truncated")
    arrays = {name: getattr(cartpole_data, name) for name in (*columns, "covariates")}
    before_the_field = store.content_hash(arrays, settings)
    assert not cartpole_data.synthetic
    assert cartpole_data.content_hash == before_the_field
    assert dataclasses.replace(cartpole_data, synthetic=False).content_hash == before_the_field
    made = dataclasses.replace(cartpole_data, synthetic=True)
    assert made.content_hash != before_the_field
    assert made.of_agents([3]).synthetic
    assert not cartpole_data.of_agents([3]).synthetic
    made.save(tmp_path / "made.safetensors")
    cartpole_data.save(tmp_path / "recorded.safetensors")
    assert Trajectories.load(tmp_path / "made.safetensors").synthetic
    assert not Trajectories.load(tmp_path / "recorded.safetensors").synthetic


def test_is_immutable(cartpole_data):
    with pytest.raises(ValueError, match="read-only"):
        cartpole_data.observation[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        cartpole_data.reward = None


@pytest.mark.parametrize(
    ("column", "change", "expected"),
    [
        ("observation", lambda x: np.where(np.arange(len(x))[:, None] == 3, np.nan, x), "non-finite"),
        ("reward", lambda x: x[:-1], "has shape"),
        ("agent", lambda x: x + 5, "agent ids run from"),
        ("action", lambda x: x + 1, "outside Discrete"),
        ("action", lambda x: x.astype(np.float32), "'action' has type float32; give int64"),
        ("agent", lambda x: x.astype(np.float64), "'agent' has type float64; give int64"),
        ("observation", lambda x: x.astype(complex), "'observation' has type complex128; give float32"),
        ("observation", lambda x: np.full(x.shape, 1e300), "non-finite"),
        ("reward", lambda x: x > 0, "'reward' has type bool; give float32"),
        ("terminated", lambda x: x.astype(np.int64), "'terminated' has type int64; give bool"),
        ("observation", lambda x: np.float32(1), "has shape"),
        ("step", lambda x: x + 1, "has to count 0, 1, 2"),
        ("covariates", lambda x: x[:-1], r"'covariates' has shape \(11, 2\)"),
    ],
)
def test_invalid_columns_are_refused(cartpole_data, column, change, expected):
    with pytest.raises(InputError, match=expected):
        dataclasses.replace(cartpole_data, **{column: change(getattr(cartpole_data, column))})


def test_columns_of_another_width_are_converted(cartpole_data):
    wide = {
        name: getattr(cartpole_data, name).astype(np.float64) for name in ("observation", "next_observation", "reward")
    }
    narrow = {name: getattr(cartpole_data, name).astype(np.int32) for name in ("agent", "step", "action")}
    made = dataclasses.replace(cartpole_data, **wide, **narrow)
    assert made.content_hash == cartpole_data.content_hash
    assert made.observation.dtype == np.float32
    assert made.action.dtype == np.int64


def test_damaged_files_are_refused_in_one_line(tmp_path, cartpole_data):
    path = tmp_path / "data.safetensors"
    cartpole_data.save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for data, expected in (
        (whole[:-100], "truncated"),
        (whole[:4], "header"),
        (bytes(flipped), "checksum"),
        (b"", "header"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=expected) as error:
            Trajectories.load(path)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        Trajectories.load(tmp_path / "absent.safetensors")


def test_regimes_without_policies_say_how_to_train_them(monkeypatch, tmp_path):
    monkeypatch.setattr("persim.data.policies.WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(InputError, match="train-policies --env cartpole --policies 1,2,3,4,5"):
        collect_regime(get("cartpole"), "pure-eps-20", 5, 0)


def test_unknown_regime_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'pure-eps-20'"):
        collect_regime(get("cartpole"), "pure-eps-2", 5, 0)


def test_epsilon_policy_explores_at_its_rate(rng):
    layer = (np.zeros((2, 4), dtype=np.float32), np.array([0.0, 1.0], dtype=np.float32))
    policy = EpsilonPolicy(NetworkPolicy([layer]), 0.2, get("cartpole").action_space)
    actions = policy.act(np.zeros((20_000, 4)), rng)
    assert (actions == 0).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("name", [name for name in RECIPES if has_test_policy(name)])
def test_shipped_test_policies_earn_what_the_paper_names(name):
    spec = get(name)
    reward = mean_reward(spec, load_test_policy(name, spec.action_space), spec.default_agent, seed=123)
    assert reward == pytest.approx(RECIPES[name].test_target, rel=0.1)


def test_without_a_test_policy_actions_are_random():
    assert isinstance(load_test_policy("swing", get("cartpole").action_space), UniformPolicy)
