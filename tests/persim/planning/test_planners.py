"""Planners: what they find on problems with a known best plan, and what they remember."""

import gymnasium as gym
import numpy as np
import pytest

from persim.errors import InputError
from persim.planning.cem import CEMSettings, categorical, truncated_normal
from persim.planning.icem import ICEMSettings, coloured_noise
from persim.planning.mppi import MPPISettings, softmax
from persim.planning.planner import MPC, EliteSettings, PlannerSettings
from persim.planning.registry import PLANNERS, default_planner, make_planner, planner_settings
from persim.planning.shooting import PersistentSettings, RandomShooting

DISCRETE = gym.spaces.Discrete(3)
BOX = gym.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))
STATES, AGENTS = np.zeros((4, 2)), np.array([0, 1, 2, 2])
TARGET = np.array([0, 2, 1, 1, 2, 0, 0, 2])
SMALL = {
    "random_shooting": {"plans": 400, "horizon": 8},
    "persistent_shooting": {"plans": 400, "horizon": 8},
    "cem": {"plans": 200, "horizon": 8, "elites": 20},
    "icem": {"plans": 200, "horizon": 8, "elites": 20, "iterations": 8},
    "mppi": {"plans": 400, "horizon": 8, "temperature": 0.1, "spread": 0.2},
}


def matches(states, agents, plans, top=None):
    """Counts the steps that agree with TARGET."""
    return (plans == TARGET).sum(2).astype(float)


def near(states, agents, plans, top=None):
    """Best where the first action is 0.3 and the second 7 at all steps."""
    return -(np.square(plans[..., 0] - 0.3) + np.square((plans[..., 1] - 7) / 5)).sum(2)


def build(name, scorer, space, **options):
    return make_planner(name, scorer, space, planner_settings(name, **{**SMALL[name], **options}))


def play(planner, steps, seed=0):
    memory, rng = None, np.random.default_rng(seed)
    for _ in range(steps):
        plans, memory = planner.search(STATES, AGENTS, memory, rng)
    return plans


@pytest.mark.parametrize("name", ["random_shooting", "persistent_shooting", "cem"])
def test_discrete_planners_find_good_plans(name):
    plans = play(build(name, matches, DISCRETE), 1)
    assert plans.shape == (4, 8)
    chance = 8 / 3
    assert (matches(None, None, plans[:, None])[:, 0] > 2 * chance - 1).all()
    if name == "cem":
        np.testing.assert_array_equal(plans, np.tile(TARGET, (4, 1)))


@pytest.mark.parametrize("name", ["cem", "icem", "mppi"])
def test_continuous_planners_find_the_best_plan(name):
    plans = play(build(name, near, BOX), 20 if name == "mppi" else 1)
    assert plans.shape == (4, 8, 2)
    assert plans.dtype == np.float32
    first = plans[:, 0]
    np.testing.assert_allclose(first[:, 0], 0.3, atol=0.15)
    np.testing.assert_allclose(first[:, 1], 7, atol=0.75)


@pytest.mark.parametrize("name", PLANNERS)
def test_actions_lie_in_the_space_and_follow_the_seed(name):
    space = BOX
    planner = build(name, lambda s, a, plans, top=None: plans[..., 0].sum(2) * 100, space)
    plans = play(planner, 2)
    assert (plans >= space.low).all()
    assert (plans <= space.high).all()
    np.testing.assert_array_equal(plans, play(planner, 2))
    assert not np.array_equal(plans, play(planner, 2, seed=1))


@pytest.mark.parametrize("name", ["random_shooting", "persistent_shooting", "cem"])
def test_candidate_0_is_the_plan_before_shifted(name):
    seen = []

    def scorer(states, agents, plans, top=None):
        seen.append(plans.copy())
        return np.tile(np.arange(plans.shape[1], dtype=float), (len(plans), 1))  # the last plan is best

    planner = build(name, scorer, DISCRETE)
    best, memory = planner.search(STATES, AGENTS, None, np.random.default_rng(0))
    seen.clear()
    planner.search(STATES, AGENTS, memory, np.random.default_rng(1))
    np.testing.assert_array_equal(seen[0][:, 0, :-1], best[:, 1:])


def test_of_equal_plans_the_first_wins():
    planner = build("random_shooting", lambda s, a, plans, top=None: np.zeros(plans.shape[:2]), DISCRETE)
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    best, _ = planner.search(STATES, AGENTS, None, rng)
    np.testing.assert_array_equal(best, planner._candidates(4, again)[:, 0])


@pytest.mark.parametrize(("name", "space"), [(name, BOX) for name in PLANNERS] + [("cem", DISCRETE)])
def test_a_plan_of_minus_infinity_is_never_played(name, space):
    """Half of the first actions are forbidden; and where all are, something in the space is still played."""

    def forbidding(states, agents, plans, top=None):
        wrong = plans[:, :, 0] == 2 if plans.ndim == 3 else plans[:, :, 0, 0] > 0
        return np.where(wrong, -np.inf, 0.0)

    plans = play(build(name, forbidding, space), 1)
    first = plans[:, 0] if plans.ndim == 2 else plans[:, 0, 0]
    assert (first != 2).all() if plans.ndim == 2 else (first <= 0).all()
    hopeless = build(name, lambda s, a, plans, top=None: np.full(plans.shape[:2], -np.inf), space)
    assert np.isfinite(play(hopeless, 2)).all()


def test_persistent_plans_hold_their_action():
    planner = make_planner("persistent_shooting", matches, DISCRETE, PersistentSettings(3000, 40, hold=(0.0, 0.9)))
    plans = planner._candidates(1, np.random.default_rng(0))[0]
    repeats = (plans[:, 1:] == plans[:, :-1]).mean(1)
    assert repeats[0::2].mean() == pytest.approx(1 / 3, abs=0.01)
    assert repeats[1::2].mean() == pytest.approx(0.9 + 0.1 / 3, abs=0.01)


def test_mpc_forgets_the_episodes_that_end():
    seen = []

    class Recording(RandomShooting):
        def search(self, states, agents, memory, rng):
            seen.append((agents.tolist(), None if memory is None else memory[0].copy()))
            return super().search(states, agents, memory, rng)

    policy = MPC(Recording(matches, DISCRETE, PlannerSettings(20, 8)), AGENTS)
    rng = np.random.default_rng(0)
    actions = policy.act(STATES, rng)
    assert actions.dtype == np.int64
    policy.keep(np.array([True, False, False, True]))
    policy.act(STATES[[0, 3]], rng)
    assert seen[1][0] == [0, 2]
    np.testing.assert_array_equal(seen[1][1][:, 0], actions[[0, 3]])


def test_truncated_normal_is_that_of_rejection(rng):
    mean, spread = np.array([[0.8]]), np.array([[0.5]])
    samples = truncated_normal(mean, spread, 40000, rng).ravel()
    drawn = rng.normal(0.8, 0.5, size=200000)
    drawn = drawn[np.abs(drawn) <= 1]
    assert np.abs(samples).max() <= 1
    assert samples.mean() == pytest.approx(drawn.mean(), abs=0.01)
    assert samples.std() == pytest.approx(drawn.std(), abs=0.01)


def test_categorical_follows_its_probabilities(rng):
    chances = np.array([[[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]]])
    plans = categorical(chances, 40000, rng)[0]
    np.testing.assert_allclose(np.bincount(plans[:, 0]) / 40000, [0.2, 0.5, 0.3], atol=0.01)
    assert (plans[:, 1] == 2).all()


@pytest.mark.parametrize("steps", [30, 31])
def test_coloured_noise(steps, rng):
    memory = []
    for beta in (0.0, 1.0, 3.0):
        noise = coloured_noise(beta, (20000, steps), rng)
        assert noise.std() == pytest.approx(1, abs=0.02)
        memory.append((noise[:, 1:] * noise[:, :-1]).mean())
    assert memory[0] == pytest.approx(0, abs=0.02)
    assert 0.3 < memory[1] < memory[2]
    assert memory[2] > 0.85


def test_softmax_weighs_by_return():
    weights = softmax(np.array([[0.0, np.log(3.0)], [-np.inf, 5.0], [-np.inf, -np.inf]]))
    np.testing.assert_allclose(weights, [[0.25, 0.75], [0, 1], [1, 0]])


def test_defaults():
    assert default_planner(DISCRETE) == "persistent_shooting"
    assert default_planner(BOX) == "cem"
    paper = planner_settings("random_shooting", "mountaincar")
    assert (paper.plans, paper.horizon) == (1000, 50)
    cem = planner_settings("cem")
    assert (cem.plans, cem.horizon, cem.elites, cem.iterations) == (200, 30, 50, 5)


def test_plans_that_are_played_to_their_end_are_sought_among_more():
    each_step, whole = (planner_settings("persistent_shooting", "mountaincar", whole=whole) for whole in (False, True))
    assert (each_step.plans, whole.plans) == (1000, 10_000)
    assert planner_settings("persistent_shooting", "mountaincar", whole=True, plans=7).plans == 7
    assert planner_settings("random_shooting", "mountaincar", whole=True).plans == 1000  # the paper's stays the paper's


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlannerSettings(plans=0), "plans is 0"),
        (lambda: PlannerSettings(horizon=0), "horizon is 0"),
        (lambda: EliteSettings(plans=10, elites=11), "elites is 11, more than the 10 plans"),
        (lambda: EliteSettings(iterations=0), "iterations is 0"),
        (lambda: PersistentSettings(hold=(1.0,)), "hold is"),
        (lambda: CEMSettings(smoothing=1.0), "smoothing is 1.0"),
        (lambda: CEMSettings(spread=(0.0, 1.0)), "spread is"),
        (lambda: ICEMSettings(keep=1.0), "keep is 1.0"),
        (lambda: ICEMSettings(decay=0.5), "decay is 0.5"),
        (lambda: ICEMSettings(beta=-1.0), "beta is -1.0"),
        (lambda: MPPISettings(temperature=0.0), "temperature is 0.0"),
        (lambda: planner_settings("random_shooting", elites=5), "random_shooting has no 'elites'"),
        (lambda: planner_settings("icme"), "did you mean 'icem'"),
        (lambda: build("icem", near, DISCRETE), "ICEM plans continuous actions"),
        (lambda: build("mppi", near, DISCRETE), "MPPI plans continuous actions"),
        (lambda: build("cem", near, gym.spaces.Box(-np.inf, np.inf, (1,))), "bounded Box"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")) as error:
        make()
    assert "\n" not in str(error.value)
