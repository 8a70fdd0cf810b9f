"""PerSim under CaDM's planner: the same plans are worth the same to both, and nothing is remembered."""

import numpy as np
import pytest
import torch

from baselines.cadm.acting import plan_reward
from baselines.cadm.persim import _Forgetful, planned_spec
from baselines.registry import make_method
from persim.data import collect_regime
from persim.envs import get
from persim.methods import Options
from persim.planning.planner import MPC
from persim.planning.scorers import true_scorer
from persim.planning.scoring import Objective

PLANS, HORIZON = 40, 60


@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
@pytest.mark.parametrize("progress", [True, False])
def test_a_plan_is_worth_what_cadm_says(env, progress):
    spec, rng = get(env), np.random.default_rng(3)
    covariates = np.array(spec.test_agents)
    plans = rng.integers(spec.action_dim, size=(1, PLANS, HORIZON))
    plans[0, 0] = 1  # in CartPole the cart leaves the track, and the pole falls
    start = np.array(
        [[0.4, 0.06]] if env == "mountaincar" else [[0.0, 0.0, 0.05, 0.0]]
    )  # some cars arrive, some do not
    if env == "mountaincar":
        plans[0, 0] = 2
    states = np.repeat(start, PLANS, axis=0)
    steps = []
    for step in range(HORIZON):
        following = spec.step(states, plans[0, :, step], np.repeat(covariates[:1], PLANS, axis=0))
        steps.append(tuple(map(torch.tensor, (states, plans[0, :, step], following))))
        states = following
    wanted = plan_reward(spec, progress=progress).returns(torch.tensor(np.repeat(start, PLANS, axis=0)), steps)
    seen = planned_spec(spec, progress=progress)
    found = true_scorer(Objective(seen, safety=False), covariates)(start, np.array([0]), plans)
    np.testing.assert_allclose(found[0], wanted.numpy(), rtol=1e-6, atol=1e-6)
    ours = true_scorer(Objective(spec), covariates)(start, np.array([0]), plans)
    assert not np.allclose(ours, found)  # CaDM's returns go on where the episode ends


@pytest.mark.parametrize("preset", ["paper", "laptop"])
@pytest.mark.parametrize("env", ["mountaincar", "cartpole", "halfcheetah"])
def test_planner_budget_and_shaping_are_those_of_cadm(env, preset):
    spec = get(env)
    ours, theirs = (make_method(name, spec, Options(preset)) for name in ("persim-cadm", "cadm"))
    assert ours.settings.planning == theirs.acting.planning
    assert (ours.acting.progress, ours.acting.warm_start) == (theirs.acting.progress, theirs.acting.warm_start)
    assert ours.learns_with() == make_method("persim", spec, Options(preset)).learns_with()
    assert ours.predicts_with() == make_method("persim", spec, Options(preset)).predicts_with()


def test_a_search_of_random_shooting_never_starts_from_the_last_plan():
    class Recording:
        def __init__(self):
            self.memories = []

        def search(self, states, agents, memory, rng):
            self.memories.append(memory)
            return np.zeros((len(states), 3), dtype=np.int64), (np.ones((len(states), 1)),)

    for kind, remembers in ((_Forgetful, False), (MPC, True)):
        planner = Recording()
        policy = kind(planner, np.array([0, 1]))
        for _ in range(2):
            policy.act(np.zeros((2, 2)), np.random.default_rng(0))
        assert [memory is not None for memory in planner.memories] == [False, remembers]


def test_the_policy_of_the_method_is_the_forgetful_one():
    spec = get("cartpole")
    method = make_method("persim-cadm", spec, Options("smoke"))
    data = collect_regime(spec, "random", 6, seed=1)
    fitted = method.fit(data, spec, seed=0)
    assert isinstance(fitted.policy(np.array([0])), _Forgetful)
    assert type(make_method("persim", spec, Options("smoke")).fit(data, spec, seed=0).policy(np.array([0]))) is MPC
