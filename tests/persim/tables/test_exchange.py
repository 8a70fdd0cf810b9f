import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from persim import Schema, Table
from persim.errors import InputError
from persim.tables.exchange import of_episodes, to_episodes, to_mdp_dataset, to_minari


def episode(rng, steps, after, discrete=False):
    actions = rng.integers(3, size=steps) if discrete else rng.normal(size=(steps, 2))
    return SimpleNamespace(
        observations=rng.normal(size=(steps + after, 3)), actions=actions, rewards=rng.normal(size=steps)
    )


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("after", [0, 1])
def test_episodes_become_a_table(rng, after, discrete):
    episodes = [episode(rng, steps, after, discrete) for steps in (7, 9, 8)]
    static = pd.DataFrame({"mass": [2.0, 1.0]}, index=["b", 1])
    table = of_episodes(episodes, [1, "b", 1], static=static, lags=2)
    assert table.names == ("1", "b")
    assert table.trajectories == ("0", "2", "1")
    assert table.schema.lags == 2
    assert np.bincount(table.block).tolist() == [7 + after, 8 + after, 9 + after]
    np.testing.assert_array_equal(table.static, [[1], [2]])
    np.testing.assert_array_equal(table.state[: 7 + after], episodes[0].observations)
    actions = episodes[0].actions.reshape(7, -1)
    np.testing.assert_array_equal(table.action[:7], actions)
    np.testing.assert_array_equal(table.reward[:7], episodes[0].rewards)
    assert np.isnan(table.action[7 : 7 + after]).all()
    assert table.schema.state == ("state_0", "state_1", "state_2")
    assert table.schema.action == (("action",) if discrete else ("action_0", "action_1"))


def test_episodes_go_out_and_in(rng):
    given = [episode(rng, steps, 0) for steps in (7, 9)]
    table = of_episodes(given, ["a", "b"], state=["x", "y", "z"], action=["u", "v"])
    again = of_episodes(to_episodes(table), ["a", "b"], state=["x", "y", "z"], action=["u", "v"])
    pd.testing.assert_frame_equal(again.to_frame(), table.to_frame(), rtol=1e-6)


def test_observations_hold_what_is_known_and_gaps_end_episodes(rng):
    schema = Schema(agent="a", time="t", state=["x"], action=["u"], known=["k"], static=["m"], reward="r", every=1)
    frame = pd.DataFrame(rng.normal(size=(24, 4)), columns=["x", "u", "k", "r"])
    frame = frame.assign(a=np.repeat(["p", "q"], 12), m=np.repeat([5.0, 6.0], 12), t=np.tile(np.arange(12), 2))
    frame.loc[4, "x"] = frame.loc[6, "u"] = np.nan  # leaves row 5 alone
    episodes = to_episodes(Table.of_frame(frame.drop(index=20), schema))
    assert [(one.agent, len(one.rewards)) for one in episodes] == [("p", 4), ("p", 5), ("q", 8), ("q", 3)]
    np.testing.assert_allclose(episodes[1].observations, frame.loc[7:11, ["x", "k", "m"]], rtol=1e-6)
    np.testing.assert_allclose(episodes[1].actions[:, 0], frame.u[7:12], rtol=1e-6)
    np.testing.assert_allclose(episodes[1].rewards, frame.r[7:12], rtol=1e-6)


@pytest.mark.parametrize("discrete", [False, True])
def test_an_mdp_dataset_of_d3rlpy(rng, discrete):
    table = of_episodes([episode(rng, steps, 0, discrete) for steps in (7, 9)], ["a", "b"])
    dataset = to_mdp_dataset(table)
    assert [len(one) for one in dataset.episodes] == [7, 9]
    assert not any(one.terminated for one in dataset.episodes)
    assert dataset.dataset_info.action_size == (3 if discrete else 2)
    assert dataset.sample_transition_batch(4).observations.shape == (4, 3)
    again = of_episodes(dataset, ["a", "b"])
    pd.testing.assert_frame_equal(again.to_frame(), table.to_frame(), rtol=1e-6)


class Storage:
    """What ``to_minari`` and ``of_episodes`` use of Minari's; the interface is that of Minari 0.5.4."""

    def __init__(self):
        self.metadata = []

    def update_episode_metadata(self, metadatas):
        self.metadata = list(metadatas)

    def get_episode_metadata(self, indices):
        return [self.metadata[index] for index in indices]


class Dataset:
    def __init__(self, buffers):
        self.buffers, self.storage, self.episode_indices = buffers, Storage(), np.arange(len(buffers))

    def iterate_episodes(self):
        for one in self.buffers:
            yield SimpleNamespace(**{name: np.array(value) for name, value in vars(one).items()})


@pytest.fixture
def minari(monkeypatch):
    def create(name, buffers, *, observation_space, action_space, author=None):
        if " " in name:
            raise ValueError(f"malformed\ndataset id {name}")
        assert all(observation_space.contains(one) for buffer in buffers for one in buffer.observations)
        assert all(action_space.contains(one) for buffer in buffers for one in buffer.actions)
        return Dataset(buffers)

    module, collector = ModuleType("minari"), ModuleType("minari.data_collector")
    module.create_dataset_from_buffers = create
    collector.EpisodeBuffer = SimpleNamespace
    monkeypatch.setitem(sys.modules, "minari", module)
    monkeypatch.setitem(sys.modules, "minari.data_collector", collector)


@pytest.mark.usefixtures("minari")
@pytest.mark.parametrize("discrete", [False, True])
def test_a_minari_dataset_keeps_the_agents(rng, discrete):
    table = of_episodes([episode(rng, steps, 0, discrete) for steps in (7, 9)], ["a", "b"])
    dataset = to_minari(table, "own/data-v0", author="me")
    assert [len(one.truncations) for one in dataset.buffers] == [6, 8]
    assert dataset.buffers[0].truncations == [False] * 5 + [True]
    again = of_episodes(dataset).to_frame()
    assert again["agent"].tolist() == table.to_frame()["agent"].tolist()
    pd.testing.assert_frame_equal(again.iloc[:6], table.to_frame().iloc[:6], rtol=1e-6, check_dtype=False)
    with pytest.raises(InputError, match=r"^minari refuses the dataset \(malformed dataset id no id\)$"):
        to_minari(table, "no id")


@pytest.mark.parametrize(("name", "use"), [("minari", lambda table: to_minari(table, "a-v0")),
                                           ("d3rlpy", to_mdp_dataset)])  # fmt: skip
def test_what_is_not_installed_is_one_line(rng, monkeypatch, name, use):
    for module in [one for one in sys.modules if one.split(".")[0] == name] + [name, "d3rlpy.constants"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"{name} is not installed; install it with pip install"):
        use(of_episodes([episode(rng, 7, 0)], ["a"]))


def test_what_does_not_fit_is_refused(rng):
    one = episode(rng, 7, 0)
    for given, agents, more, message in [
        ([one], ["a", "b"], {}, "2 agents for 1 episodes"),
        ([one], None, {}, "do not say whose they are"),
        ([], [], {}, "there is no episode"),
        ([object()], ["a"], {}, "an episode is a object without 'observations'"),
        ([SimpleNamespace(**(vars(one) | {"observations": np.zeros((7, 2, 2))}))], ["a"], {}, "of shape (7, 2, 2)"),
        ([SimpleNamespace(**(vars(one) | {"observations": np.zeros((9, 2))}))], ["a"], {}, "of shape (9, 2)"),
        ([one], ["a"], {"state": ["x"]}, "1 names for 3 columns of state"),
        ([one], ["a"], {"static": pd.DataFrame({"m": [1.0]}, index=["b"])}, "static has no row for agent 'a'"),
        ([one], ["a"], {"lag": 3}, "key 'lag' is unknown (did you mean 'lags'?)"),
    ]:
        with pytest.raises(InputError) as caught:
            of_episodes(given, agents, **more)
        assert message in str(caught.value)
    table = of_episodes([one], ["a"])
    with pytest.raises(InputError, match="no reward column"):
        to_episodes(Table.of_frame(table.to_frame(), Schema(agent="agent", time="step", state=["state_0"])))
    with pytest.raises(InputError, match="no two rows follow"):
        to_episodes(table, np.where(np.arange(7) % 2, np.nan, 1.0))
