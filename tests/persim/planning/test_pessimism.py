"""Rollouts from the mean state, and the penalty on disagreement: both scorers against a slow loop."""

import numpy as np
import pytest
import torch

from persim.envs import get
from persim.errors import InputError
from persim.learning.model import LowRankDynamics
from persim.planning.folded import FoldedEnsemble
from persim.planning.scorers import model_scorer
from persim.planning.scoring import Objective, PlainScorer
from persim.planning.tree import TreeScorer
from tests.persim.planning.test_scoring import problem, random_model


@torch.no_grad()
def cautious_loop(model, spec, state, agent, plan, objective):
    """The return of one plan, one step at a time, with every kind of rollout and penalty."""
    members, unit = range(model.settings.members), model.delta_scale[1]
    each = [model.select([k]) for k in members]
    now = [torch.from_numpy(state).float()[None] for _ in members]
    rolled = [0] if objective.averages else list(members)
    total, best, alive = {}, {}, {}
    for k in rolled:
        total[k], alive[k] = 0.0, True
        best[k] = 0.0 if spec.planning.progress is None else float(spec.planning.progress(now[k])[0])
    for action in plan.tolist():
        act = torch.tensor([action])
        after = [each[k](torch.tensor([agent]), now[k], act)[0] for k in members]
        if not all(bool(one.isfinite().all()) for one in after):
            return -np.inf
        steps = np.stack([((new - old) / unit).numpy()[0] for old, new in zip(now, after, strict=True)])
        doubt = steps.std(axis=0).mean()
        if objective.averages:
            after = [torch.stack(after).mean(0) for _ in members]
        for k in rolled:
            if alive[k]:
                total[k] += float(objective.reward(now[k], act, after[k])[0]) - objective.penalty * doubt
                if spec.planning.progress is not None:
                    best[k] = max(best[k], float(spec.planning.progress(after[k])[0]))
                alive[k] = not bool(spec.terminated(after[k])[0])
        now = after
    return float(np.mean([total[k] + len(plan) * best[k] for k in rolled]))


@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
@pytest.mark.parametrize(("rollout", "penalty"), [("mean", 0.0), ("mean", 0.7), ("members", 0.7)])
def test_both_scorers_agree_with_the_cautious_loop(env, rollout, penalty, rng):
    spec = get(env)
    model = random_model(spec, 5, scale=0.3)
    scale = np.random.default_rng(0).uniform(0.5, 2, (2, spec.state_dim))
    model.delta_scale.copy_(torch.from_numpy(scale))
    states, agents, plans = problem(spec, rng, episodes=2, plans=20, horizon=8)
    goal = Objective(spec, True, rollout, penalty)
    wanted = [
        [cautious_loop(model, spec, state, int(agent), plan, goal) for plan in row]
        for state, agent, row in zip(states, agents, plans, strict=True)
    ]
    for scorer in (PlainScorer(model, goal, unit=model.delta_scale[1]), TreeScorer(FoldedEnsemble(model), goal)):
        np.testing.assert_allclose(scorer(states, agents, plans), wanted, rtol=2e-4, atol=2e-4)


def test_a_penalty_needs_the_unit_of_disagreement():
    spec = get("cartpole")
    arrays = random_model(spec, 1).arrays()
    del arrays["delta_scale"]  # as in files of an earlier version
    old = LowRankDynamics.from_arrays(arrays, random_model(spec, 1).settings)
    model_scorer(old, Objective(spec))
    with pytest.raises(InputError, match="train it again, or plan with penalty 0"):
        model_scorer(old, Objective(spec, penalty=1.0))


def test_one_member_never_disagrees(rng):
    spec = get("cartpole")
    model = random_model(spec, 2, members=1)
    states, agents, plans = problem(spec, rng, episodes=2, plans=20)
    wanted = model_scorer(model, Objective(spec))(states, agents, plans)
    cautious = model_scorer(model, Objective(spec, True, "mean", 10.0))(states, agents, plans)
    np.testing.assert_allclose(cautious, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rollout": "median"}, "members, mean"), ({"penalty": -1.0}, "penalty is -1.0"), ({"penalty": np.nan}, "nan")],
)
def test_an_objective_that_is_none(options, message):
    with pytest.raises(InputError, match=message):
        Objective(get("cartpole"), **options)
