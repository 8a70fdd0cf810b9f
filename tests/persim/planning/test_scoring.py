"""Scores of plans: known answers, and the fast scorer against the plain loop."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from persim import seeding
from persim.envs import get
from persim.errors import InputError
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.planning.folded import FoldedEnsemble, TrueDynamics
from persim.planning.scorers import model_scorer, true_scorer
from persim.planning.scoring import PRECISIONS, Objective, PlainScorer
from persim.planning.tree import TreeScorer

AGENTS = 6


def random_model(spec, seed, members=3, scale=1.0, widths=(16,)):
    shape = ModelSettings(AGENTS, spec.state_dim, spec.action_dim, True, 3, members, state_widths=widths)
    model = LowRankDynamics(shape, [seeding.sequence(seed, k) for k in range(members)])
    with torch.no_grad():
        model.state_layers[-1].mul_(scale)
    return model


def problem(spec, rng, episodes=4, plans=70, horizon=12):
    agents = rng.integers(AGENTS, size=episodes)
    states = spec.reset(rng, np.array(spec.test_agents)[rng.integers(5, size=episodes)])
    candidates = rng.integers(spec.action_dim, size=(episodes, plans, horizon)).astype(np.int8)
    half = plans // 2
    candidates[:, half : half + 10] = candidates[:, :10]  # the same plan twice: a tie
    candidates[:, -5:] = candidates[:, -5:, :1]  # plans that hold their action
    return states, agents, candidates


@torch.no_grad()
def plain_loop(model, spec, state, agent, plan, safety):
    """The return of one plan in each member, one step at a time, then their mean."""
    returns = []
    for member in range(model.settings.members):
        one, total, best, progress = model.select([member]), 0.0, 0.0, spec.planning.progress
        now = torch.from_numpy(state).float()[None]
        if progress is not None:
            best = float(progress(now)[0])
        for action in plan.tolist():
            after = one(torch.tensor([agent]), now, torch.tensor([action]))[0]
            if not bool(after.isfinite().all()):
                return -np.inf
            total += float(spec.reward(now, torch.tensor([action]), after)[0])
            if safety and spec.planning.safety is not None:
                total += float(spec.planning.safety(after)[0])
            if progress is not None:
                best = max(best, float(progress(after)[0]))
            if bool(spec.terminated(after)[0]):
                break
            now = after
        returns.append(total + len(plan) * best)
    return float(np.mean(returns))


def scored(model, spec, states, agents, plans, safety):
    rows = zip(states, agents, plans, strict=True)
    return np.array([[plain_loop(model, spec, s, int(a), p, safety) for p in row] for s, a, row in rows])


@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
@pytest.mark.parametrize("safety", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_both_scorers_agree_with_the_plain_loop(env, safety, seed, rng):
    spec = get(env)
    model = random_model(spec, seed, widths=(16,) if seed else (12, 9))
    states, agents, plans = problem(spec, rng, episodes=2, plans=40)
    wanted = scored(model, spec, states, agents, plans, safety)
    goal = Objective(spec, safety)
    for scorer in (PlainScorer(model, goal), TreeScorer(FoldedEnsemble(model), goal)):
        scores = scorer(states, agents, plans)
        np.testing.assert_allclose(scores, wanted, atol=1e-5)
        np.testing.assert_array_equal(scores.argmax(1), wanted.argmax(1))


@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
@pytest.mark.parametrize("safety", [False, True])
def test_the_same_plan_wins_on_many_random_models(env, safety):
    """Sharing, folding and pruning change no winner; of equal plans the first wins."""
    spec, goal = get(env), Objective(get(env), safety)
    winners, ties = set(), 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        model = random_model(spec, seed, scale=float(rng.choice([0.02, 0.1, 0.5])))
        states, agents, plans = problem(spec, rng, horizon=int(rng.integers(1, 25)))
        plain, tree = PlainScorer(model, goal), TreeScorer(FoldedEnsemble(model), goal)
        wanted = plain(states, agents, plans)
        for top in (None, 1):
            found = tree(states, agents, plans, top)
            np.testing.assert_array_equal(found.argmax(1), wanted.argmax(1))
            np.testing.assert_allclose(found.max(1), wanted.max(1), atol=1e-5)
        winners |= set(wanted.argmax(1).tolist())
        ties += int(((wanted == wanted.max(1, keepdims=True)).sum(1) > 1).sum())
    assert len(winners) > 20
    assert ties > 20


@pytest.mark.parametrize("residual", [True, False])
def test_a_normalised_model_is_folded_in_its_own_units(residual, rng):
    spec, goal = get("cartpole"), Objective(get("cartpole"))
    shape = ModelSettings(AGENTS, 4, 2, True, 3, 2, state_widths=(16,), normalised=True, residual=residual)
    model = LowRankDynamics(shape, [seeding.sequence(0, k) for k in range(2)])
    model.fit_scales(torch.from_numpy(rng.normal(0.1, 0.5, (99, 4))), torch.from_numpy(rng.normal(0, 0.05, (99, 4))))
    states, agents, plans = problem(spec, rng)
    fast, plain = TreeScorer(FoldedEnsemble(model), goal), PlainScorer(model, goal)
    np.testing.assert_allclose(fast(states, agents, plans), plain(states, agents, plans), atol=1e-4)


@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
@pytest.mark.parametrize("top", [1, 7, 70])
def test_the_best_plans_are_scored_exactly(env, top, rng):
    spec = get(env)
    tree = TreeScorer(FoldedEnsemble(random_model(spec, 5, scale=0.2)), Objective(spec))
    states, agents, plans = problem(spec, rng, horizon=20)
    full, pruned = tree(states, agents, plans), tree(states, agents, plans, top)
    order = np.argsort(-full, axis=1, kind="stable")[:, :top]
    np.testing.assert_array_equal(np.argsort(-pruned, axis=1, kind="stable")[:, :top], order)
    np.testing.assert_array_equal(np.take_along_axis(pruned, order, 1), np.take_along_axis(full, order, 1))
    assert (np.isneginf(pruned) | (pruned == full)).all()


def test_pruning_saves_work(rng):
    """Where the first plan survives, nothing else is rolled out."""
    spec, steps = get("cartpole"), []
    dynamics = TrueDynamics(spec, np.array(spec.test_agents))

    class Counting:
        unit = dynamics.unit

        def steps(self, agents):
            inner = dynamics.steps(agents)

            def step(states, edges):
                steps.append(states.shape[2])
                return inner(states, edges)

            step.agents, step.members, step.dtype = inner.agents, inner.members, inner.dtype
            return step

    plans = rng.integers(2, size=(1, 500, 10))
    plans[0, 0] = np.arange(10) % 2
    scores = TreeScorer(Counting(), Objective(spec, safety=False))(np.zeros((1, 4)), np.array([1]), plans, 1)
    assert scores.argmax() == 0
    assert steps == [1] * 10


@pytest.mark.parametrize("kind", ["plain", "tree"])
@pytest.mark.parametrize("top", [None, 1])
@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
def test_a_plan_that_is_not_finite_never_wins(kind, top, env, rng):
    spec = get(env)
    model = random_model(spec, 0, scale=0.05)
    with torch.no_grad():
        model.agent_layer.mul_(1e3)
        model.state_layers[-1].div_(1e3)
        model.action_layers[-1][1:, :, 0] = 3e38  # action 0 overflows in all members but the first
    states, agents, plans = problem(spec, rng)
    plans[:, 0] = 0
    goal = Objective(spec)
    scorer = PlainScorer(model, goal) if kind == "plain" else TreeScorer(FoldedEnsemble(model), goal)
    plans[:, 1] = 1
    scores = scorer(states, agents, plans, top)
    assert not np.isnan(scores).any()
    first = (plans == 0).argmax(2)
    at_once = (plans == 0).any(2) & (first == 0)
    assert np.isneginf(scores[at_once]).all()
    winner = np.take_along_axis(plans, scores.argmax(1)[:, None, None], 1)[:, 0]
    assert (winner[:, 0] == 1).all() if env == "cartpole" else (winner[:, 0] != 0).all()


@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
def test_an_episode_is_scored_the_same_in_any_batch(env, rng):
    spec = get(env)
    scorer = model_scorer(random_model(spec, 1, scale=0.1), Objective(spec))
    states, agents, plans = problem(spec, rng, episodes=9)
    together = scorer(states, agents, plans)
    singly = [scorer(states[[i]], agents[[i]], plans[[i]])[0] for i in range(9)]
    np.testing.assert_allclose(together, np.stack(singly), rtol=0, atol=1e-6)


@pytest.mark.parametrize("top", [None, 1])
def test_mountaincar_the_goal_is_absorbing(top):
    spec = get("mountaincar")
    scorer = true_scorer(Objective(spec), np.array(spec.test_agents))
    plans = np.array([[[0, 0, 0, 0, 0], [2, 0, 0, 0, 0], [2, 2, 2, 2, 2]]])
    scores = scorer(np.array([[0.4615, 0.039]]), np.array([0]), plans, top)[0]
    # Pushing right reaches 0.5 in one step, pushing left first in two; after that nothing is paid and nothing counts.
    assert scores.argmax() == 1
    assert scores[1] == pytest.approx(0 + 5 * 0.01 * 0.5, abs=2e-3)
    if top is None:
        assert scores[2] == scores[1]
        assert scores[0] == pytest.approx(-1 + 5 * 0.01 * 0.53, abs=3e-3)


def test_cartpole_pays_until_the_pole_falls():
    spec = get("cartpole")
    scorer = true_scorer(Objective(spec, safety=False), np.array(spec.test_agents))
    plans = np.stack([np.ones(30, int), np.arange(30) % 2])[None]
    state = np.zeros((1, 4))
    covariates, steps = np.array(spec.test_agents)[[1]], 0
    while not bool(spec.terminated(torch.from_numpy(state))[0]):
        state, steps = spec.step(state, np.array([1]), covariates), steps + 1
    assert scorer(np.zeros((1, 4)), np.array([1]), plans).tolist() == [[steps, 30]]


def drift(states, actions, covariates):
    return states + covariates * actions


LINE = dataclasses.replace(
    get("cartpole"),
    name="line",
    state_names=(),
    observation_space=gym.spaces.Box(-np.inf, np.inf, (1,)),
    action_space=gym.spaces.Box(-1, 1, (1,)),
    step=drift,
    reward=lambda s, a, n: -n[..., 0].abs(),
    terminated=lambda n: torch.zeros_like(n[..., 0], dtype=torch.bool),
    planning=type(get("cartpole").planning)(),
)


def test_continuous_actions_known_answer():
    covariates = np.array([[1.0, 0.5], [2.0, 0.5]])
    spec = dataclasses.replace(LINE, step=lambda s, a, c: drift(s, a, c[:, :1]))
    scorer = true_scorer(Objective(spec), covariates)
    plans = np.array([[[[-1.0], [0.0]], [[-0.5], [0.25]]]] * 2)
    scores = scorer(np.array([[1.0], [1.0]]), np.array([0, 1]), plans)
    np.testing.assert_allclose(scores, [[0, -0.5 - 0.75], [-1 - 1, 0 - 0.5]], atol=1e-12)


def test_continuous_model_agrees_with_its_own_steps(rng):
    shape = ModelSettings(4, 2, 1, False, 3, 2, state_widths=(8,), action_widths=(5,))
    model = LowRankDynamics(shape, [seeding.sequence(0, k) for k in range(2)])
    spec = dataclasses.replace(LINE, observation_space=gym.spaces.Box(-np.inf, np.inf, (2,)))
    plans = rng.uniform(-1, 1, size=(3, 5, 4, 1)).astype(np.float32)
    states, agents = rng.normal(size=(3, 2)), np.array([0, 3, 2])
    scores = model_scorer(model, Objective(spec))(states, agents, plans)
    wanted = np.zeros((3, 5))
    with torch.no_grad():
        for b in range(3):
            for p in range(5):
                now = torch.from_numpy(states[[b]]).float()
                for action in plans[b, p]:
                    now = model(torch.from_numpy(agents[[b]]), now, torch.from_numpy(action[None]))
                    wanted[b, p] -= float(now[..., 0].abs().mean())
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", ["tree", "plain", "true"])
def test_an_unseen_agent_is_refused(kind, rng):
    spec = get("cartpole")
    model, goal = random_model(spec, 0), Objective(spec)
    scorer = {
        "tree": TreeScorer(FoldedEnsemble(model), goal),
        "plain": PlainScorer(model, goal, known=AGENTS),
        "true": true_scorer(goal, np.array(spec.test_agents)),
    }[kind]
    states, _, plans = problem(spec, rng, episodes=1)
    with pytest.raises(InputError, match=r"agent 9 is not among the [56] agents .* covariates"):
        scorer(states, np.array([8]), plans)


def test_continuous_models_cannot_be_folded():
    shape = ModelSettings(4, 2, 1, False, 3)
    with pytest.raises(InputError, match="continuous"):
        FoldedEnsemble(LowRankDynamics(shape, [seeding.sequence(0)]))


def test_bfloat16_ranks_plans_as_float32_does():
    """HalfCheetah's nets on 30 steps: scores nearly the same, and the best tenth mostly the same plans."""
    spec = get("halfcheetah")
    rng = np.random.default_rng(0)
    shape = ModelSettings(6, spec.state_dim, spec.action_dim, False, 15, 3, (256,) * 4, (256,) * 2, True)
    model = LowRankDynamics(shape, [np.random.SeedSequence(k) for k in range(3)])
    states, agents = rng.normal(scale=0.1, size=(1, spec.state_dim)), np.zeros(1, dtype=np.int64)
    plans = rng.uniform(-1, 1, size=(1, 100, 30, spec.action_dim))
    exact, short = (model_scorer(model, Objective(spec), name)(states, agents, plans)[0] for name in PRECISIONS)
    assert not np.array_equal(exact, short)
    assert np.corrcoef(exact, short)[0, 1] > 0.99
    best = set(np.argsort(-exact)[:10].tolist()) & set(np.argsort(-short)[:10].tolist())
    assert len(best) >= 8


def test_a_precision_that_is_not_there_is_refused():
    spec = get("cartpole")
    model = LowRankDynamics(ModelSettings(6, 4, 2, True, 3), [np.random.SeedSequence(0)])
    with pytest.raises(InputError, match="is for continuous actions or a GPU"):
        model_scorer(model, Objective(spec), "bfloat16")
