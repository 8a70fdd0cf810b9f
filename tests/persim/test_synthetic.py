"""Synthetic trajectories: whole plans played in a simulator, cut where episodes end."""

import dataclasses
import os

import gymnasium as gym
import numpy as np
import pytest
import torch

from persim import console, seeding
from persim.cli import main
from persim.data import Trajectories, collect, collect_regime
from persim.data.policies import UniformPolicy
from persim.envs import get
from persim.envs.spec import Covariate, EnvSpec
from persim.errors import InputError
from persim.methods import PerSim, PerSimSettings, Simulator, TrueEnv, synthetic_trajectories
from persim.methods.persim import PlanningSettings
from persim.methods.synthetic import spread_starts

HORIZON, GOAL = 10, 6.0


def true_step(states, actions, covariates):
    return states + covariates * (1 + actions[:, None])


# A walk on a line: each step goes 1 or 2 times the agent's speed, an episode ends beyond 6.
LINE = EnvSpec(
    name="line",
    title="Line",
    covariates=(Covariate("speed", "m", 0.0, 1.0, 0.5),),
    test_agents=((0.0,), (0.5,), (1.0,)),
    policy_agents=(),
    horizon=HORIZON,
    observation_space=gym.spaces.Box(-np.inf, np.inf, (1,)),
    action_space=gym.spaces.Discrete(2),
    reset=lambda rng, covariates: rng.choice([0.0, 0.25, 1.0], size=(len(covariates), 1)),
    step=true_step,
    reward=lambda states, actions, following: following[..., 0] - 10 * actions,
    terminated=lambda following: following[..., 0] > GOAL,
)


class Walk:
    """The line as a simulator; plans are random, or follow from the state alone."""

    def __init__(self, length=4, fixed=False, spoil=lambda agents, path: path):
        self.length, self.fixed, self.spoil = length, fixed, spoil
        self.agents, self.starts, self.plans = [], [], []

    def policy(self, agents):
        raise AssertionError("MPC is not asked for")

    def plan(self, agents, states, rng):
        chosen = rng.integers(2, size=(len(states), self.length))
        if self.fixed:
            chosen = (np.floor(states * 4).astype(np.int64) + np.arange(self.length)) % 2
        self.agents.append(agents)
        self.starts.append(states)
        self.plans.append(chosen)
        return chosen

    def predict(self, agents, states, actions):
        steps = np.array(LINE.test_agents)[agents] * (1 + actions)
        path = states[:, None] + np.cumsum(np.pad(steps, ((0, 0), (1, 0))), axis=1)[..., None]
        return self.spoil(agents, path.astype(np.float64))


@pytest.fixture(scope="module")
def data():
    rows = np.tile(LINE.test_agents, (4, 1))
    return collect(LINE, rows, UniformPolicy(LINE.action_space), np.random.default_rng(0), regime="random")


def made(simulator, data, agents=(0, 1, 2), seed=0, spec=LINE, **options):
    return synthetic_trajectories(simulator, data, spec, np.random.default_rng(seed), agents=agents, **options)


def episodes(trajectories):
    """Rows of each episode."""
    return np.split(np.arange(len(trajectories)), np.flatnonzero(trajectories.step == 0)[1:])


def test_whole_plans_are_played_before_the_next_is_sought(data):
    """The agent that stands still never ends: 4 + 4 + 2 steps of three plans."""
    walk, seen = Walk(), []
    result = made(walk, data, agents=[0], per_agent=3, progress=lambda *told: seen.append(told))
    assert len(walk.plans) == 3
    assert seen == [(4, 3), (8, 3), (10, 3)]
    played = np.concatenate(walk.plans, axis=1)[:, :HORIZON]
    np.testing.assert_array_equal(result.action.reshape(3, HORIZON), played)
    np.testing.assert_array_equal(result.step.reshape(3, HORIZON), np.tile(np.arange(HORIZON), (3, 1)))
    assert result.truncated.reshape(3, HORIZON)[:, -1].all()
    assert result.truncated.sum() == 3
    assert not result.terminated.any()


def test_episodes_end_at_their_first_terminated_state(data):
    result = made(Walk(), data, agents=[2, 1], seed=1, per_agent=6)
    for rows in episodes(result):
        np.testing.assert_array_equal(result.terminated[rows], result.next_observation[rows, 0] > GOAL)
        assert result.terminated[rows[-1]]
        assert not result.terminated[rows[:-1]].any()
        np.testing.assert_array_equal(result.next_observation[rows[:-1]], result.observation[rows[1:]])
    assert not result.truncated.any()
    assert result.agent[[rows[0] for rows in episodes(result)]].tolist() == [2] * 6 + [1] * 6


def test_only_episodes_that_go_on_are_planned_for(data):
    walk = Walk()
    made(walk, data, per_agent=2)
    assert walk.agents[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert walk.agents[-1].tolist()[:2] == [0, 0]
    assert 2 not in walk.agents[2]  # 7 steps of at least 1 are beyond 6


def one_at_a_time(simulator, start, agent):
    """The slow, obvious version of one episode: (state, action, next state, reward, terminated, truncated)."""
    rows, state, step = [], start, 0
    while True:
        plan = simulator.plan(np.array([agent]), state[None], np.random.default_rng(0))
        path = simulator.predict(np.array([agent]), state[None], plan)[0].astype(np.float32)
        for before, action, after in zip(path, plan[0], path[1:], strict=False):
            reward = LINE.reward(*(torch.tensor(value) for value in (before, action, after)))
            step, terminated = step + 1, bool(after[0] > GOAL)
            truncated = step == HORIZON and not terminated
            rows.append((before[0], action, after[0], float(reward), terminated, truncated))
            if terminated or truncated:
                return rows
        state = path[-1]


@pytest.mark.parametrize("length", [1, 4, 5, 30])
def test_rows_are_those_of_each_episode_made_alone(data, length):
    result = made(Walk(length, fixed=True), data)
    columns = (result.observation[:, 0], result.action, result.next_observation[:, 0])
    found = list(zip(*columns, result.reward, result.terminated, result.truncated, strict=True))
    for rows in episodes(result):
        start, agent = result.observation[rows[0]], result.agent[rows[0]]
        assert [found[row] for row in rows] == one_at_a_time(Walk(length, fixed=True), start, agent)


def test_start_states_are_spread_over_the_initial_ones_whatever_their_units():
    line = np.stack([np.linspace(0, 1, 101), np.zeros(101)], axis=1).astype(np.float32)
    chosen = spread_starts(line, 40, 5, np.random.default_rng(0))
    assert chosen.shape == (40, 5, 2)
    gaps = np.diff(np.sort(chosen[..., 0], axis=1), axis=1)
    assert gaps.max() <= 0.5
    assert gaps.min() >= 0.125 - 0.02
    assert len(np.unique(chosen[:, 0, 0])) > 20  # the first is drawn for each agent
    cloud = np.random.default_rng(1).normal(size=(101, 2)).astype(np.float32)  # without ties
    units = np.float32([1024, 1])
    first, scaled = (spread_starts(rows, 40, 5, np.random.default_rng(0)) for rows in (cloud, cloud * units))
    np.testing.assert_array_equal(scaled, first * units)


def test_starts_are_initial_states_of_the_data(data):
    result = made(Walk(), data, agents=[1], per_agent=100)
    starts = result.observation[result.step == 0, 0]
    known, counts = np.unique(starts, return_counts=True)
    observed, shares = np.unique(data.observation[data.step == 0, 0], return_counts=True)
    assert len(observed) > 1
    np.testing.assert_array_equal(known, observed)
    np.testing.assert_allclose(counts / 100, shares / shares.sum(), atol=0.15)  # uniform once each has been taken


def test_the_result_is_an_ordinary_dataset_marked_synthetic(data, tmp_path):
    result = made(Walk(), data, agents=[1])
    assert result.synthetic
    assert not data.synthetic
    assert (result.n_agents, result.regime, result.env) == (data.n_agents, "random", "line")
    np.testing.assert_array_equal(result.covariates, data.covariates)
    assert result.observation.dtype == result.next_observation.dtype == np.float32
    assert len(episodes(result)) == 5
    result.save(tmp_path / "made.safetensors")
    assert Trajectories.load(tmp_path / "made.safetensors").content_hash == result.content_hash


def test_same_seed_same_rows(data):
    first, again, other = (made(Walk(), data, seed=seed).content_hash for seed in (3, 3, 4))
    assert first == again != other


def spoiled(value, agent, step):
    """Predictions of one agent are ``value`` from this step of a plan on."""

    def spoil(agents, path):
        path[agents == agent, step:] = value
        return path

    return spoil


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_an_episode_is_cut_before_a_state_that_is_not_finite(data, value, caplog):
    result = made(Walk(spoil=spoiled(value, agent=0, step=3)), data, agents=[0, 2], per_agent=2)
    assert np.bincount(result.agent[result.step == 0]).tolist() == [2, 0, 2]
    still = result.agent == 0
    assert result.step[still].tolist() == [0, 1, 0, 1]
    assert result.truncated[still].tolist() == [False, True] * 2
    assert not result.truncated[~still].any()
    assert "2 of 4 episodes of line ran into a state that is not finite" in caplog.text


def test_an_episode_is_cut_before_a_reward_that_is_not_finite(data):
    spec = dataclasses.replace(LINE, reward=lambda s, a, following: torch.log(1 - following[..., 0] / 5))
    result = made(Walk(), data, agents=[2], spec=spec)
    assert (result.next_observation < 5).all()
    assert result.truncated.sum() == 5


def test_an_episode_without_a_finite_step_has_no_row(data):
    result = made(Walk(spoil=spoiled(np.nan, agent=0, step=1)), data, agents=[0, 1])
    assert set(result.agent.tolist()) == {1}
    with pytest.raises(InputError, match="predicts no finite state"):
        made(Walk(spoil=spoiled(np.nan, agent=0, step=1)), data, agents=[0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"per_agent": 0}, "per_agent is 0"),
        ({"agents": [0, 12]}, r"agents \[0, 12\] are not all in 0\.\.11"),
        ({"agents": [-1]}, r"not all in 0\.\.11"),
        ({"agents": []}, r"not all in 0\.\.11"),
    ],
)
def test_bad_input_is_refused_in_one_line(data, change, expected):
    with pytest.raises(InputError, match=expected) as error:
        made(Walk(), data, **change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("env", ["cartpole", "halfcheetah"])
def test_a_trained_simulator_makes_what_it_predicts(env, rng):
    spec = dataclasses.replace(get(env), horizon=12)
    covariates = spec.sample_agents(6, rng)
    data = collect(spec, covariates, UniformPolicy(spec.action_space), rng)
    small = {"plans": 12, "horizon": 5} if spec.discrete else {"plans": 20, "horizon": 5}
    planning = PlanningSettings.of(spec, **small)
    settings = PerSimSettings.of(spec, planning, members=2, spare=0, epochs=2, average_last=1)
    fitted = PerSim(settings).fit(data, spec, seed=1)
    assert isinstance(fitted, Simulator)
    assert not isinstance(TrueEnv(planning).fit(data, spec, seed=1), Simulator)
    result = made(fitted, data, agents=[4, 0], per_agent=2, spec=spec)
    assert result.synthetic
    first = [rows[:5] for rows in episodes(result) if len(rows) >= 5]
    assert len(first) >= 1
    start = np.array([rows[0] for rows in first])
    predicted = fitted.predict(result.agent[start], result.observation[start], result.action[np.array(first)])
    np.testing.assert_allclose(result.next_observation[np.array(first)], predicted[:, 1:], rtol=1e-3, atol=1e-4)


SMALL = ["--env", "cartpole", "--agents", "8", "--epochs", "2", "--members", "2"]
SYNTHESISE = ["synthesise", *SMALL, "--plans", "20", "--horizon", "10", "--out", "made.safetensors"]


def run(arguments, capsys):
    try:
        code = console.run(main, arguments)
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_command_trains_once_saves_and_prints_a_table(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, errors = run([*SYNTHESISE, "--agents-to-test", "2,8", "--per-agent", "3"], capsys)
    assert code == 0
    assert "6 episodes" in errors  # of the progress bar
    result = Trajectories.load(tmp_path / "made.safetensors")
    recorded = collect_regime(get("cartpole"), "random", 8, 0)
    assert result.synthetic
    assert set(result.agent.tolist()) == {1, 7}
    np.testing.assert_array_equal(result.covariates, recorded.covariates)
    second, eighth = (line.split() for line in output.splitlines() if "force=" in line)
    assert (second[0], second[-3], eighth[0], eighth[-3]) == ("2", "3", "8", "3")
    assert float(second[-2]) == pytest.approx((result.agent == 1).sum() / 3, abs=0.06)
    assert float(second[-1]) == pytest.approx(result.returns()[1] / 3, abs=0.06)
    assert f"{len(result)} synthetic transitions saved to made.safetensors" in output
    (model,) = (tmp_path / "runs" / "models").iterdir()

    again = ["synthesise", "--env", "cartpole", "--model", str(model), "--plans", "20", "--horizon", "10"]
    again += ["--agents-to-test", "2,8", "--per-agent", "3", "--out", "again/made.safetensors"]
    code, output, _ = run(again, capsys)
    assert code == 0
    assert "trained" not in output
    assert Trajectories.load(tmp_path / "again" / "made.safetensors").content_hash == result.content_hash


def test_the_command_draws_from_its_own_seed(capsys, tmp_path, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(seeding, "generator", lambda *names: seen.append(names) or np.random.default_rng(0))
    assert run([*SYNTHESISE, "--seed", "3", "--per-agent", "1"], capsys)[0] == 0
    assert (3, "synthetic", "cartpole") in seen


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--per-agent", "0"], "per_agent is 0"),
        (["--agents-to-test", "9"], "agent 9 is not among the 8 agents"),
        (["--agents-to-test", "0"], "agent 0 is not among"),
        (["--agents-to-test", "2,2"], "names one twice"),
        (["--agents", "4", "--agents-to-test", "1"], "5 test agents"),
        (["--planner", "icem"], "ICEM plans continuous actions"),
        (["--planner", "random_shoting"], "did you mean 'random_shooting'"),
        (["--plans", "0"], "plans is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--regime", "prue"], "did you mean 'pure'"),
        (["--model", "absent.safetensors"], "cannot be read"),
        (["--out", "."], "is a folder"),
        (["--out", "/proc/x/y"], "cannot be written"),
        (["--store", "/proc/x", "--out", "new/folder/made.safetensors"], "cannot be written"),
    ],
)
def test_the_command_refuses_bad_input_in_one_line_and_leaves_nothing(
    arguments, expected, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run([*SYNTHESISE, *arguments], capsys)
    assert code == 2
    assert expected in errors
    assert errors.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_help_explains(capsys):
    code, output, _ = run(["synthesise", "--help"], capsys)
    assert code == 0
    assert "Appendix F.4" in output
