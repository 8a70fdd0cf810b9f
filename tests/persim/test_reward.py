"""Average reward, the oracle, and the paper's table of rewards."""

import dataclasses

import numpy as np
import pytest

from persim.data.policies import BatchPolicy
from persim.envs import get
from persim.errors import InputError
from persim.evaluation import paper
from persim.evaluation.oracle import OraclePolicy, has_oracle, optimal_values
from persim.evaluation.reward import average_rewards
from persim.planning.planner import MPC, PlannerSettings
from persim.planning.registry import make_planner, planner_settings
from persim.planning.scorers import true_scorer
from persim.planning.scoring import Objective
from persim.planning.shooting import RandomShooting

MOUNTAINCAR, CARTPOLE = get("mountaincar"), get("cartpole")
COARSE = (181, 105)


class Constant(BatchPolicy):
    def __init__(self, action):
        self.action, self.sizes = action, []

    def act(self, states, rng):
        self.sizes.append(len(states))
        return np.full(len(states), self.action)


def rewards(spec, policy, agents=range(5), episodes=4, seed=0):
    covariates = np.array(spec.test_agents)
    return average_rewards(spec, covariates, policy, np.random.default_rng(seed), agents=agents, episodes=episodes)


def test_rewards_and_lengths_of_a_policy_that_pushes_right():
    """In CartPole each step pays 1, so reward and length agree; stronger carts fall sooner."""
    policy = Constant(1)
    result = rewards(CARTPOLE, lambda agents: policy)
    assert [earned.agent for earned in result.agents] == [0, 1, 2, 3, 4]
    assert all(earned.mean == earned.length for earned in result.agents)
    assert result.agents[0].mean > result.agents[1].mean > result.agents[2].mean
    assert policy.sizes[0] == 20
    assert policy.sizes == sorted(policy.sizes, reverse=True)
    assert policy.sizes[-1] < 20  # fewer as they end
    assert result.decision_ms > 0


def test_mountaincar_counts_the_steps_before_the_goal():
    result = rewards(MOUNTAINCAR, lambda agents: Constant(2), agents=[0, 4])
    assert result.agents[0].mean == -(result.agents[0].length - 1)  # the step that arrives costs nothing
    assert (result.agents[1].mean, result.agents[1].length) == (-500, 500)  # too heavy to climb without a swing


def test_initial_states_do_not_depend_on_the_policy():
    seen = []

    class Looking(Constant):
        def act(self, states, rng):
            if not self.sizes:
                seen.append(states.copy())
            rng.random(self.action)  # one policy draws more than the other
            return super().act(states, rng)

    for action in (0, 1):
        rewards(CARTPOLE, lambda agents, action=action: Looking(action))
    np.testing.assert_array_equal(seen[0], seen[1])


def test_no_episode_is_refused():
    with pytest.raises(InputError, match="episodes is 0"):
        rewards(CARTPOLE, lambda agents: Constant(0), episodes=0)


@pytest.fixture(scope="module")
def values():
    return [optimal_values(MOUNTAINCAR, np.array(row), COARSE) for row in MOUNTAINCAR.test_agents]


def oracle(values):
    covariates = np.array(MOUNTAINCAR.test_agents)
    return lambda agents: OraclePolicy(MOUNTAINCAR, covariates[agents], values, agents)


def test_the_oracle_reaches_the_known_optimum(values):
    """Optima of the paper's problem: -44.5, -49.8, -63.9, -95.8, -117.6 on a grid of 721 x 421."""
    result = rewards(MOUNTAINCAR, oracle(values), episodes=100)
    means = [earned.mean for earned in result.agents]
    np.testing.assert_allclose(means, [-44.5, -49.8, -63.9, -95.8, -117.6], rtol=0.04)


def test_the_value_at_rest_is_what_the_policy_earns(values):
    """Bellman: values agree with rollouts of the greedy policy up to the grid's error."""
    bottom = values[0][int((-0.5 + 1.2) / 1.8 * (COARSE[0] - 1)), COARSE[1] // 2]
    earned = rewards(MOUNTAINCAR, oracle(values), agents=[0], episodes=50).agents[0].mean
    assert bottom == pytest.approx(earned, abs=2)


@pytest.mark.timeout(120)
def test_planning_on_the_truth_is_no_better_than_the_oracle_and_close_to_it(values):
    scorer = true_scorer(Objective(MOUNTAINCAR), np.array(MOUNTAINCAR.test_agents))
    settings = planner_settings("persistent_shooting", "mountaincar", plans=300)
    planner = make_planner("persistent_shooting", scorer, MOUNTAINCAR.action_space, settings)
    planned = rewards(MOUNTAINCAR, lambda agents: MPC(planner, agents), agents=[0, 2], episodes=3)
    best = rewards(MOUNTAINCAR, oracle(values), agents=[0, 2], episodes=3)
    for ours, limit in zip(planned.agents, best.agents, strict=True):
        assert 1.1 * limit.mean <= ours.mean <= limit.mean + 1.5


def test_random_shooting_on_the_truth_balances_the_pole():
    scorer = true_scorer(Objective(CARTPOLE, safety=False), np.array(CARTPOLE.test_agents))
    planner = RandomShooting(scorer, CARTPOLE.action_space, PlannerSettings())
    assert rewards(CARTPOLE, lambda agents: MPC(planner, agents), agents=[1], episodes=3).agents[0].mean == 200


def test_where_there_is_no_oracle():
    assert has_oracle(MOUNTAINCAR)
    assert not has_oracle(CARTPOLE)
    with pytest.raises(InputError, match="cartpole has no oracle"):
        optimal_values(CARTPOLE, CARTPOLE.default_agent)


def test_a_goal_out_of_reach_ends_the_sweeps():
    stuck = dataclasses.replace(MOUNTAINCAR, step=lambda s, a, c: s, horizon=20)
    values = optimal_values(stuck, MOUNTAINCAR.default_agent, (19, 15))
    assert values.min() == -20


def test_the_papers_rewards():
    ours = paper.reward("mountaincar", "random")
    assert [ours[agent].mean for agent in range(5)] == [-57.7, -74.3, -120.4, -186.6, -210.1]
    assert paper.reward("cartpole", "", "True env+MPC")[3] == paper.PaperReward(198.4, 7.2)
    assert paper.reward("cartpole", "random", "PerSim-CQL-5")[2] == paper.PaperReward(200.0, 0.0)
    assert paper.reward("halfcheetah", "random")
    assert paper.reward("other", "random") == {}
