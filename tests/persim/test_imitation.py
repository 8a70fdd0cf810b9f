"""Imitating the recorded actions: what is learnt, what is not, and plans as deviations from it."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from persim import seeding
from persim.data import Trajectories
from persim.envs import get
from persim.errors import InputError
from persim.learning import imitation
from persim.learning.ensemble import finish_members
from persim.learning.imitation import imitate
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.polish import PolishSettings
from persim.methods import PlanningSettings
from persim.methods.persim import ModelSimulator
from persim.planning.prepared import PreparedScorer
from persim.planning.scoring import Objective

AGENTS, STEPS = 8, 150
GAINS = np.linspace(-0.9, 0.9, AGENTS)  # agent n acts by GAINS[n] * state
LINE = dataclasses.replace(
    get("halfcheetah"),
    name="line",
    observation_space=gym.spaces.Box(-np.inf, np.inf, (1,)),
    action_space=gym.spaces.Box(-2.0, 4.0, (1,), np.float32),
    reward=lambda s, a, n: -(n[..., 0] - 0.5).square(),
    terminated=lambda n: torch.zeros_like(n[..., 0], dtype=torch.bool),
)


def recorded(share_random, seed=0):
    """Agents of a policy that depends on who they are, with some actions at random."""
    rng = np.random.default_rng(seed)
    agent = np.repeat(np.arange(AGENTS), STEPS)
    state = rng.uniform(-1, 1, (AGENTS * STEPS, 1)).astype(np.float32)
    unit = GAINS[agent, None] * state
    unit = np.where(rng.random(unit.shape) < share_random, rng.uniform(-1, 1, unit.shape), unit)
    action = (1 + 3 * unit).astype(np.float32)
    ends = np.arange(len(agent)) % STEPS == STEPS - 1
    return Trajectories(
        env="line", regime="pure", n_agents=AGENTS, agent=agent, step=np.arange(len(agent)) % STEPS, observation=state,
        action=action, next_observation=state, reward=np.zeros(len(agent), np.float32),
        terminated=np.zeros(len(agent), bool), truncated=ends, action_space=LINE.action_space,
    )  # fmt: skip


def model_of(data, members=2):
    """A model whose factors tell the agents apart, and that predicts no change."""
    shape = ModelSettings(AGENTS, 1, 1, False, 2, members, (8,), (8,), True)
    model = LowRankDynamics(shape, [seeding.sequence(0, k) for k in range(members)])
    with torch.no_grad():
        model.agent_layer[:, 0, :-1] = torch.from_numpy(GAINS).float()
        model.agent_layer[:, 1, :-1] = 1.0
        model.agent_layer[..., -1] = 0
        model.state_layers[-1].zero_()
    model.fit_scales(torch.from_numpy(data.observation), torch.from_numpy(data.delta) + 0.0)
    return model


def imitated(data, model):
    ids = torch.arange(AGENTS).expand(model.settings.members, -1)
    states = model.scaled(torch.from_numpy(data.observation).mT)
    return imitate(data, states, model.agent_factors(ids).detach(), (32,), np.random.default_rng(1))


@pytest.fixture(scope="module")
def long_training():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imitation, "EPOCHS", 40)
        patch.setattr(imitation, "BATCH", 64)
        patch.setattr(imitation, "LEARNING_RATE", 1e-2)
        yield


@pytest.fixture(scope="module")
def imitator(long_training):
    data = recorded(0.0)
    model = model_of(data)
    model.imitation = imitated(data, model)
    return model


def test_a_policy_is_imitated_by_its_agents_factors(imitator):
    assert imitator.imitation.useful
    assert imitator.imitation.width < 0.2
    scorer = PreparedScorer(imitator, Objective(LINE), prior=True)
    agents = np.arange(AGENTS)
    rest = np.full((AGENTS, 1, 1), 1.0, np.float32)  # the middle of the actions: no deviation
    found = scorer.actions(np.full((AGENTS, 1), 0.8), agents, rest)[:, 0, 0]
    np.testing.assert_allclose(found, 1 + 3 * GAINS * 0.8, atol=0.3)


def test_explained_shares_follow_the_data(long_training, imitator):
    shares = [float(imitator.imitation.explained.mean())]
    for share_random in (0.2, 1.0):
        data = recorded(share_random)
        shares.append(float(imitated(data, model_of(data)).explained.mean()))
    assert shares[0] > 0.95
    assert 0.3 < shares[1] < 0.8
    assert shares[2] == 0  # random data: there is nothing to imitate


def test_a_robust_loss_imitates_the_policy_between_random_actions(long_training):
    data = recorded(0.4)
    model = model_of(data)
    model.imitation = imitated(data, model)
    scorer = PreparedScorer(model, Objective(LINE), prior=True)
    rest = np.full((1, 1, 1), 1.0, np.float32)
    found = scorer.actions(np.array([[0.8]]), np.array([AGENTS - 1]), rest).item()
    assert found > 1 + 3 * 0.9 * 0.8 * 0.8  # a mean would be 40 % too small


def test_plans_deviate_by_what_no_state_explains(imitator):
    scorer = PreparedScorer(imitator, Objective(LINE), prior=True)
    low, rest, high = (np.full((1, 1, 1), x, np.float32) for x in (-2.0, 1.0, 4.0))
    found = [scorer.actions(np.array([[0.0]]), np.array([3]), plan).item() for plan in (low, rest, high)]
    np.testing.assert_allclose(np.diff(found), 3 * imitator.imitation.width, rtol=1e-4)


@pytest.mark.parametrize("rollout", ["mean", "members"])
def test_the_imitation_acts_inside_the_rollout(imitator, rollout):
    """The score of no deviation is that of playing the imitation step by step."""
    paid = dataclasses.replace(LINE, reward=lambda s, a, n: a[..., 0])
    scorer = PreparedScorer(imitator, Objective(paid, rollout=rollout), prior=True)
    states, agents = np.array([[0.4], [-0.7]]), np.array([1, 6])
    rest = np.full((2, 1, 5, 1), 1.0, np.float32)
    acted = scorer.actions(states, agents, rest[:, 0])  # the model predicts no change, so every step acts alike
    np.testing.assert_allclose(scorer(states, agents, rest)[:, 0], acted[:, :, 0].sum(1), rtol=1e-5)
    np.testing.assert_allclose(acted[:, 4], acted[:, 0], rtol=1e-5)


@pytest.mark.parametrize("planner", ["cem", "icem", "mppi"])
def test_imitation_itself_is_always_a_candidate(imitator, planner, monkeypatch):
    options = {"plans": 6, "horizon": 3} | ({"elites": 2, "iterations": 2} if planner != "mppi" else {})
    simulator = ModelSimulator(imitator, LINE, PlanningSettings.of(LINE, planner, **options))
    seen, score = [], simulator._planner._scorer

    def watch(states, agents, plans, top=None):
        seen.append(plans)
        return score(states, agents, plans, top)

    monkeypatch.setattr(simulator._planner, "_scorer", watch)
    actions = simulator.policy(np.array([0, 5])).act(np.array([[0.2], [0.3]]), np.random.default_rng(0))
    assert all((plans == 1.0).all(axis=(2, 3)).any(axis=1).all() for plans in seen)
    assert actions.shape == (2, 1)
    expected = 1 + 3 * GAINS[[0, 5]] * [0.2, 0.3]
    assert (np.abs(actions[:, 0] - expected) < 3 * imitator.imitation.width + 0.3).all()


def test_whole_plans_are_actions_too(imitator):
    planning = PlanningSettings.of(LINE, "cem", plans=6, horizon=3, elites=2, iterations=1)
    plan = ModelSimulator(imitator, LINE, planning).plan(np.array([7]), np.array([[0.9]]), np.random.default_rng(0))
    assert plan.shape == (1, 3, 1)
    assert (plan > 1).all()  # this agent acts upwards in such a state


def test_a_prior_is_refused_where_there_is_nothing_to_imitate(imitator):
    asked = PlanningSettings.of(LINE, prior="on")
    ModelSimulator(imitator, LINE, asked)
    bare = model_of(recorded(0.0))
    with pytest.raises(InputError, match="has learnt no imitation"):
        ModelSimulator(bare, LINE, asked)
    data = recorded(1.0)
    bare.imitation = imitated(data, bare)
    with pytest.raises(InputError, match="explain 0% of the recorded actions"):
        ModelSimulator(bare, LINE, asked)
    ModelSimulator(bare, LINE, PlanningSettings.of(LINE))  # auto: plans without
    with pytest.raises(InputError, match="off, auto, on"):
        PlanningSettings.of(LINE, prior="yes")


def test_it_is_saved_selected_and_serves_new_agents(imitator, tmp_path):
    imitator.save(tmp_path / "model.safetensors")
    read, _ = LowRankDynamics.load(tmp_path / "model.safetensors")
    for name, values in imitator.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], values)
    assert imitator.select([1]).imitation.explained.shape == (1,)
    factors = imitator.agent_factors(torch.tensor([[2], [2]])).detach()
    other = PreparedScorer(imitator.with_agents(factors), Objective(LINE), prior=True)
    own = PreparedScorer(imitator, Objective(LINE), prior=True)
    rest, state = np.full((1, 1, 1), 1.0, np.float32), np.array([[0.5]])
    np.testing.assert_allclose(
        other.actions(state, np.array([0]), rest), own.actions(state, np.array([2]), rest), rtol=1e-5
    )


def test_discrete_actions_and_too_few_rows_are_refused(imitator):
    data = recorded(0.0)
    rows = ("agent", "step", "observation", "action", "next_observation", "reward", "terminated", "truncated")
    few = dataclasses.replace(data, n_agents=1, **{name: getattr(data, name)[:10] for name in rows})
    with pytest.raises(InputError, match=r"10 transitions with actions .* cannot be imitated; give at least 20"):
        imitate(few, torch.zeros(1, 10), torch.zeros(1, 2, 1), (4,), np.random.default_rng(0))
    pole = dataclasses.replace(few, action_space=gym.spaces.Discrete(2), action=np.zeros(10, np.int64))
    with pytest.raises(InputError, match="actions Discrete"):
        imitate(pole, torch.zeros(1, 10), torch.zeros(1, 2, 1), (4,), np.random.default_rng(0))


def test_training_goes_on_where_there_is_nothing_to_imitate():
    data = recorded(0.0)
    unbounded = dataclasses.replace(data, action_space=gym.spaces.Box(-np.inf, np.inf, (1,), np.float32))
    assert imitation.imitable(data)
    assert not imitation.imitable(unbounded)
    model = model_of(unbounded)
    finish_members(model, unbounded, PolishSettings(0), 0, (8,))
    assert model.imitation is None
