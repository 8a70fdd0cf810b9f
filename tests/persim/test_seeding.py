"""Streams: a batch of groups draws what each group would draw alone, whichever planner draws."""

from dataclasses import replace

import numpy as np
import pytest

from persim.data.policies import EpsilonPolicy, UniformPolicy
from persim.envs import get
from persim.evaluation.reward import average_rewards
from persim.methods import PlanningSettings, TrueEnv, Weights
from persim.planning.registry import PLANNERS
from persim.seeding import Streams, drawn, generator


def test_a_batch_draws_what_its_groups_draw_alone():
    rng = Streams([generator(0, "a"), generator(0, "b")], [2, 3])
    found = drawn(rng, 5, lambda g, n: g.random((4, n)), axis=1)
    alone = [generator(0, "a").random((4, 2)), generator(0, "b").random((4, 3))]
    np.testing.assert_array_equal(found, np.concatenate(alone, axis=1))
    rng.keep(np.array([False, False, True, False, True]))
    assert rng.counts == [0, 2]
    assert drawn(rng, 2, lambda g, n: g.random(n)).shape == (2,)


def test_streams_are_not_drawn_from_by_mistake():
    with pytest.raises(TypeError, match=r"by persim\.seeding\.drawn"):
        Streams([generator(0)], [1]).random(3)


def rewards(spec, policy, agents, episodes):
    rngs = [generator(0, "episodes", agent) for agent in agents]
    rng = rngs[0] if len(rngs) == 1 else Streams(rngs, [episodes] * len(rngs))
    covariates = np.array(spec.test_agents)
    return list(average_rewards(spec, covariates, policy, rng, agents=agents, episodes=episodes).agents)


@pytest.mark.parametrize("planner", PLANNERS)
def test_agents_earn_together_what_they_earn_alone(planner):
    """CartPole's episodes end at different steps under such short plans, so the groups of the batch shrink."""
    continuous = planner in ("icem", "mppi")
    spec = replace(get("halfcheetah"), horizon=6) if continuous else get("cartpole")
    options = {"plans": 4, "horizon": 2} | ({"elites": 2} if planner in ("cem", "icem") else {})
    method = TrueEnv(PlanningSettings.of(spec, planner, **options))
    fitted = method.restore(Weights({}, {}), spec, np.array(spec.test_agents))
    alone = [one for agent in (0, 2, 4) for one in rewards(spec, fitted.policy, [agent], 2)]
    assert rewards(spec, fitted.policy, [0, 2, 4], 2) == alone


@pytest.mark.parametrize("env", ["mountaincar", "halfcheetah"])
def test_random_policies_draw_together_what_they_draw_alone(env):
    spec = replace(get(env), horizon=50)

    def policy(agents):
        return EpsilonPolicy(UniformPolicy(spec.action_space), 0.5, spec.action_space)

    alone = [one for agent in (0, 3) for one in rewards(spec, policy, [agent], 1)]
    assert rewards(spec, policy, [0, 3], 1) == alone
