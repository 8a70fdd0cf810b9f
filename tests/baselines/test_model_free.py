"""BCQ and CQL as methods: known best policies, resuming, odd data, divergence."""

import logging
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from baselines.common import chunks
from baselines.model_free.augmented import Augmented
from baselines.model_free.learner import Transitions
from baselines.model_free.method import ModelFree
from baselines.model_free.settings import (
    BCQSettings,
    CQLSettings,
    DiscreteBCQSettings,
    DiscreteCQLSettings,
    offline_settings,
)
from persim.errors import InputError
from persim.learning.training import KIND as CHECKPOINT
from persim.learning.training import DivergenceError
from persim.methods import Part, PerSim, PerSimSettings
from persim.methods.persim import PlanningSettings
from persim.storage import store
from tests.baselines.toy import COLUMNS, GLIDE, WALK, line, recorded, share_of_the_way

SMALL = {"gamma": 0.5, "widths": (32, 32)}
DISCRETE = [
    DiscreteBCQSettings(300, **SMALL, learning_rate=3e-3, tau=0.1),
    DiscreteCQLSettings(300, 64, **SMALL, learning_rate=3e-3, target_interval=10),
]
CONTINUOUS = [
    BCQSettings(600, **SMALL, learning_rate=3e-3, vae_widths=(32, 32), phi=0.5, tau=0.1),
    CQLSettings(400, 64, **SMALL, actor_learning_rate=1e-3, critic_learning_rate=3e-3, threshold=1.0),
]


def spec_for(settings):
    return WALK if isinstance(settings, (DiscreteBCQSettings, DiscreteCQLSettings)) else GLIDE


def named(settings):
    return type(settings).__name__.removesuffix("Settings")


@pytest.mark.parametrize(("settings", "pooled"), [
    *((settings, pooled) for settings in DISCRETE for pooled in (True, False)),
    *((settings, True) for settings in CONTINUOUS),
    *(pytest.param(settings, False, marks=pytest.mark.slow) for settings in CONTINUOUS),
], ids=lambda value: ("P" if value else "A") if isinstance(value, bool) else named(value))  # fmt: skip
def test_each_learns_the_best_policy_of_a_toy_from_random_data(settings, pooled):
    spec = spec_for(settings)
    data = recorded(spec, horizon=200)
    fitted = ModelFree(settings, spec, pooled=pooled).fit(data, spec, seed=0)
    assert (share_of_the_way(spec, data, fitted) > 0.65).all()


@pytest.mark.parametrize("settings", [DISCRETE[0], pytest.param(CONTINUOUS[1], marks=pytest.mark.slow)], ids=named)
def test_synthetic_trajectories_of_the_simulator_teach_what_the_recorded_one_cannot(settings):
    spec = spec_for(settings)
    data = recorded(spec, agents=20, horizon=60)
    still = np.isin(data.agent, (0, 1)) & (data.step > 3)  # the test agents' own data end after four steps
    columns = {name: getattr(data, name)[~still] for name in COLUMNS}
    data = replace(data, **columns)
    planning = PlanningSettings.of(spec, plans=100, horizon=5)
    simulator = PerSim(PerSimSettings.of(spec, planning, rank=3, members=1, spare=0, epochs=30))
    method = Augmented(settings, spec, simulator)
    fitted = method.fit(data, spec, seed=0)
    assert (share_of_the_way(spec, data, fitted) > 0.65).all()
    assert (share_of_the_way(spec, data, ModelFree(settings, spec, pooled=False).fit(data, spec, 0)) < 0.65).any()


@pytest.mark.parametrize("settings", DISCRETE + CONTINUOUS, ids=named)
def test_a_training_that_is_killed_and_resumed_is_the_same_to_the_last_bit(settings, tmp_path, monkeypatch):
    spec, settings = spec_for(settings), replace(settings, updates=120)
    method, data = ModelFree(settings, spec, pooled=True), recorded(spec)
    expected = method.fit_part(Part(0, data, spec, seed=3))
    monkeypatch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "checkpoint.safetensors"

    def kill(share):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit_part(Part(0, data, spec, seed=3, checkpoint=path, report=kill))
    done = store.read_arrays(path, CHECKPOINT)[1]["chunks"]
    with pytest.raises(InputError, match="belongs to another run"):
        method.fit_part(Part(0, data, spec, seed=4, checkpoint=path))
    resumed = method.fit_part(Part(0, data, spec, seed=3, checkpoint=path))
    assert 0 < done < 60
    assert resumed.settings["about"]["curves"] == expected.settings["about"]["curves"]
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], array)


def test_torchs_and_numpys_global_generators_are_left_alone():
    spec, data = GLIDE, recorded(GLIDE)
    method = ModelFree(replace(CONTINUOUS[0], updates=3), spec, pooled=True)
    torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002 (the global generator is what is tested)
    expected = (torch.rand(1), np.random.rand())  # noqa: NPY002
    torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002
    first = method.fit(data, spec, seed=0).policy(np.array([0])).act(data.observation[:1], np.random.default_rng(0))
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002
    again = method.fit(data, spec, seed=0).policy(np.array([0])).act(data.observation[:1], np.random.default_rng(0))
    np.testing.assert_array_equal(first, again)


def test_a_batch_of_agents_gets_each_its_own_policy():
    spec, data = WALK, recorded(WALK)
    fitted = ModelFree(DISCRETE[1], spec, pooled=False).fit(data, spec, seed=0)
    states = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    rng = np.random.default_rng(0)
    alone = {agent: fitted.policy(np.full(40, agent)).act(states, rng) for agent in (0, 1)}
    assert (alone[0] != alone[1]).any()
    agents = np.arange(40) % 2
    policy = fitted.policy(agents)
    np.testing.assert_array_equal(policy.act(states, rng), np.where(agents == 0, alone[0], alone[1]))
    running = np.arange(40) >= 7
    policy.keep(running)
    np.testing.assert_array_equal(policy.act(states[running], rng), np.where(agents == 0, alone[0], alone[1])[running])
    with pytest.raises(InputError, match="agent 3 has no policy of its own; only the test agents 1 to 2"):
        fitted.policy(np.array([0, 2]))


def test_timeouts_are_no_terminals_and_actions_of_a_box_are_scaled():
    data = recorded(GLIDE)
    assert data.truncated.any()
    batch = Transitions([data, data], "cpu").batch(torch.arange(2 * len(data)))
    assert not batch.terminals.any()
    assert len(batch.observations) == 2 * len(data)
    torch.testing.assert_close(2 * batch.actions[: len(data)], torch.from_numpy(np.array(data.action)))


@pytest.mark.parametrize("settings", [DISCRETE[1], CONTINUOUS[0]], ids=named)
def test_with_normalised_states_the_unit_of_a_state_does_not_matter(settings):
    """The toy in other units is the same problem; on raw states of that size, learning would differ."""
    spec, settings = spec_for(settings), replace(settings, updates=20, normalised=True)
    data = recorded(spec)
    far = {name: getattr(data, name) * 1000 + 7000 for name in ("observation", "next_observation")}
    states = data.observation[:30]

    def actions(data, states):
        method = ModelFree(settings, spec, pooled=True)
        policy = method.restore(method.train(data, spec, seed=0), spec).policy(np.zeros(30, int))
        return policy.act(states, np.random.default_rng(0))

    np.testing.assert_allclose(actions(replace(data, **far), states * 1000 + 7000), actions(data, states), atol=0.01)


def test_a_state_that_never_changes_is_not_divided_by_zero():
    data = recorded(WALK)
    columns = {name: np.ones_like(getattr(data, name)) for name in ("observation", "next_observation")}
    rows = Transitions([replace(data, **columns)], "cpu")
    rows.normalise()
    assert not rows.batch(torch.arange(5)).observations.any()


def test_data_without_terminals_or_with_an_action_lacking_can_be_learnt_from(caplog):
    spec = WALK
    data = recorded(spec)
    data = replace(data, action=np.where(data.action == 1, 0, data.action))
    with caplog.at_level(logging.WARNING):
        fitted = ModelFree(replace(DISCRETE[1], updates=20), spec, pooled=False).fit(data, spec, seed=0)
    assert "the data of agent 1 lack action [1]: what it does is a guess" in caplog.text
    actions = fitted.policy(np.zeros(5, int)).act(data.observation[:5], np.random.default_rng(0))
    assert set(actions) <= {0, 1, 2}


def test_bad_data_are_refused_in_one_line():
    data = recorded(WALK)
    one = replace(data, **{name: getattr(data, name)[(data.agent > 0) | (data.step == 0)] for name in COLUMNS})
    method = ModelFree(DISCRETE[0], WALK, pooled=False)
    with pytest.raises(InputError, match="the data of agent 1 have 1 transition, but a policy needs at least 2"):
        method.fit_part(Part(0, one, WALK, seed=0))
    with pytest.raises(InputError, match="actions of the data are Box"):
        method.fit_part(Part(0, recorded(GLIDE), WALK, seed=0))
    with pytest.raises(InputError, match="need bounds of every action"):
        ModelFree(CONTINUOUS[0], line(gym.spaces.Box(-np.inf, np.inf, (1,)), lambda a: a), pooled=True)


@pytest.mark.parametrize("settings", [DISCRETE[1], CONTINUOUS[1]], ids=named)
def test_a_diverged_critic_stops_with_its_step(settings):
    spec = spec_for(settings)
    data = recorded(spec)
    data = replace(data, reward=np.full(len(data), 3e38, np.float32))
    with pytest.raises(DivergenceError, match=r"(loss|td_loss|critic_loss) became (inf|nan) at step 1; lower"):
        ModelFree(settings, spec, pooled=True).fit_part(Part(0, data, spec, seed=0))


@pytest.mark.parametrize(("make", "what"), [
    (lambda: DiscreteBCQSettings(0), "updates"),
    (lambda: CQLSettings(5, gamma=1.0), "gamma"),
    (lambda: DiscreteCQLSettings(5, critics=0), "critics"),
    (lambda: CQLSettings(5, form="0.85"), "use one of: 0.80, 0.90, 2.8"),
    (lambda: offline_settings("bqc", 5), "did you mean 'bcq'"),
    (lambda: Augmented(DISCRETE[0], WALK, None, per_agent=0), "per_agent"),
])  # fmt: skip
def test_bad_settings_are_refused(make, what):
    with pytest.raises(InputError, match=what):
        make()


def test_a_short_training_of_discrete_cql_copies_its_target_as_often_as_a_long_one():
    assert offline_settings("discrete_cql", 500_000).target_interval == 8000
    assert offline_settings("discrete_cql", 10_000).target_interval == 160
