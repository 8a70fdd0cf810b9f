import numpy as np
import pandas as pd
import pytest
from gymnasium.utils.env_checker import check_env

import persim
from persim.errors import InputError
from tests.persim.tables.systems import SCHEMA, frame, weights

MEALS = pd.DataFrame({"k": [1.0, -1.0, 0.5, 2.0, 0.0, 0.0]})


def near(goal):
    return lambda row: -np.square(row.x - goal)


def states(size, x, actions, known):
    a, b, c = weights(size)
    found = []
    for u, k in zip(actions, known, strict=True):
        x = a * x + b * u + c * k + 1
        found.append(x)
    return np.array(found)


@pytest.fixture(scope="module")
def last():
    return frame().groupby("house").last()


def test_the_best_actions_are_found_and_known_inputs_are_not_planned(linear, last):
    plan = linear.plan("h1", 4, reward=near(1.5), known=MEALS, bounds={"u": (-6, 6)})
    np.testing.assert_array_equal(plan.k, MEALS.k[:4])
    a, b, c = weights(last["size"].h1)
    x = np.append(last.x.h1, plan.x[:-1])
    np.testing.assert_allclose(plan.x, states(last["size"].h1, last.x.h1, plan.u, MEALS.k[:4]), atol=5e-3)
    np.testing.assert_allclose(plan.u, (1.5 - 1 - a * x - c * plan.k) / b, atol=0.25)
    np.testing.assert_allclose(plan.x, 1.5, atol=0.15)


def test_a_plan_stays_within_its_bounds_and_goes_to_them(linear):
    found = linear.plan("h1", 4, reward=lambda row: row.x, known=MEALS, bounds={"u": (-0.5, 0.25)})
    np.testing.assert_allclose(found.u, 0.25, atol=0.05)
    assert found.u.max() <= 0.25
    own = linear.plan("h1", 4, reward=lambda row: -row.x, known=MEALS)
    low, high = linear.bounds[:, linear.number("h1"), 0]
    assert (own.u < low / 2).all()
    assert ((own.u >= low - 1e-6) & (own.u <= high + 1e-6)).all()


def test_a_plan_is_never_worse_than_what_is_usual_on_the_simulator():
    """One rare dose is a hundred times the others: a search over the whole box would try such doses at every step."""
    given = frame(noise=0.1, steps=60)
    given["u"] = np.where(given.hour % 29 == 7, 50.0, 0.5 + 0.1 * given.u)
    x = np.zeros(len(given))
    for row in range(len(given) - 1):
        if given.hour[row + 1]:
            x[row + 1] = 0.7 * x[row] + 0.5 * given.u[row]
    simulator = persim.fit(persim.read_table(given.assign(x=x), SCHEMA), terms="linear", steps=1, members=1, horizon=5)
    known = pd.DataFrame({"k": np.zeros(30)})
    plan = simulator.plan("h1", 30, reward=near(1.0), known=known)
    usual = simulator.dynamics.units.centre[1, 0]
    held = simulator.rollout("h1", known.assign(u=usual))
    assert near(1.0)(plan).sum() >= near(1.0)(held).sum()
    assert plan.u.mean() < usual  # 1 = 0.7 + 0.5 * 0.6
    assert abs(plan.x[10:].mean() - 1) < abs(held.x[10:].mean() - 1) / 2


def test_the_same_seed_gives_the_same_plan(linear):
    plans = [linear.plan("h1", 3, reward=near(1), known=MEALS, seed=seed) for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(plans[0], plans[1])
    assert not plans[0].equals(plans[2])


@pytest.fixture(scope="module")
def switched():
    """A discrete action: heating that is on adds 1 to the next state; the recorded reward is -(x - 2)**2."""
    given = frame(agents=6, steps=100)
    on = given.u > 0
    x = np.zeros(len(given))
    for row in range(len(given) - 1):
        if given.hour[row + 1]:
            x[row + 1] = 0.5 * x[row] + on[row]
    reward = -np.square(np.append(x[1:], np.nan) - 2)
    given = given.assign(x=x, u=np.where(on, "on", "off"), r=reward).drop(columns="k")
    schema = persim.Schema(agent="house", time="hour", state=["x"], action=["u"], reward="r", discrete=True, every=1)
    return persim.fit(persim.read_table(given, schema), terms="linear", steps=1, members=1, horizon=5)


def test_labels_are_planned_and_a_recorded_reward_is_learnt(switched):
    assert switched.rewards.explained > 0.99
    plan = switched.plan("h0", 5)
    assert plan.u.tolist() == ["on"] * 5
    by_label = switched.plan("h0", 5, reward=lambda row: np.where(row.u == "off", 1.0, 0.0))
    assert by_label.u.tolist() == ["off"] * 5
    with pytest.raises(InputError, match="bounds are for continuous actions"):
        switched.plan("h0", 5, bounds={"u": (0, 1)})
    scores = switched.score_policies({"on": lambda row: "on", "by x": lambda row: np.where(row.x > 1, "off", "on")}, 20)
    assert (scores["on"] > scores["by x"]).all()
    check_env(switched.to_gymnasium("h0", 5), skip_render_check=True)


def test_policies_score_what_a_slow_loop_says(linear, last):
    policies = {"none": lambda row: 0.0, "damped": lambda row: -0.5 * row.x - 0.1 * row.k}
    found = linear.score_policies(policies, 6, reward=near(1), known=MEALS, agents=["h2", "h5"])
    assert found.index.tolist() == ["h2", "h5"]
    for name in ("h2", "h5"):
        x, size, total = last.x[name], last["size"][name], {"none": 0.0, "damped": 0.0}
        for policy in policies:
            now = x
            for k in MEALS.k:
                u = 0.0 if policy == "none" else -0.5 * now - 0.1 * k
                (now,) = states(size, now, [u], [k])
                total[policy] -= (now - 1) ** 2 / 6
            assert found[policy][name] == pytest.approx(total[policy], abs=5e-3)


def test_an_environment_passes_the_check_and_steps_as_the_simulator(linear):
    env = linear.to_gymnasium("h3", 6, reward=near(1), known=MEALS)
    check_env(env, skip_render_check=True)
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(observation, [linear.start("h3")[0], 1.0], rtol=1e-6)
    given, rewards, cut = MEALS.assign(u=[0.1, -0.3, 0.5, 0.2, 0.0, 0.4]), [], False
    for u in given.u:
        assert not cut
        _, reward, ended, cut, _ = env.step(np.array([u], dtype=np.float32))
        assert not ended
        rewards.append(reward)
    assert cut
    np.testing.assert_allclose(rewards, near(1)(linear.rollout("h3", given)), atol=5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"known": None}, "known inputs are needed for the next steps; give a frame with k"),
        ({"steps": 7}, "6 rows of inputs were given for 7 steps"),
        ({"known": MEALS.assign(k=np.nan)}, "inputs: row 1, column 'k' is no finite number"),
        ({"reward": None}, "no reward was recorded"),
        ({"reward": lambda row: row.y}, "no column 'y'; there are: x, u, k"),
        ({"reward": lambda row: [1, 2]}, "the reward function failed"),
        ({"bounds": {"k": (0, 1)}}, "bounds of 'k', which is no action; actions are: u"),
        ({"bounds": {"u": (1, 0)}}, "bounds of 'u' are"),
        ({"agent": "h9"}, "agent 'h9' is unknown; use one of: h0, h1"),
        ({"steps": 0}, "steps is 0"),
        ({"start": frame(1, 5, prefix="z")}, "agent 'h1' is unknown"),
    ],
)
def test_what_no_plan_can_be_made_of_is_refused(linear, options, message):
    given = {"agent": "h1", "steps": 3, "reward": near(1), "known": MEALS} | options
    with pytest.raises(InputError, match=message):
        linear.plan(given.pop("agent"), given.pop("steps"), **given)


@pytest.mark.parametrize("policy", [lambda row: "a", lambda row: row.y, lambda row: np.nan, lambda row: {"w": 1}])
def test_what_is_no_action_is_refused(linear, policy):
    with pytest.raises(InputError, match="policy 'mine' gives no action"):
        linear.score_policies({"mine": policy}, 3, reward=near(1), known=MEALS)
