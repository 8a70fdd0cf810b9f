"""The prepared scorer against the plain one, and what it does when memory runs out."""

import logging

import numpy as np
import pytest
import torch

from persim import seeding
from persim.envs import get
from persim.errors import InputError
from persim.learning.cuda_graph import WARM_UP
from persim.learning.imitation import Imitation
from persim.learning.layers import uniform_layer
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.planning.prepared import PreparedScorer, _rounded
from persim.planning.scoring import Objective, PlainScorer

AGENTS = 6
CHEETAH = get("halfcheetah")


def cheetah_model(members=3, *, residual=True):
    shape = ModelSettings(AGENTS, 18, 6, False, 4, members, (32, 16), (8,), True, residual)
    model = LowRankDynamics(shape, [seeding.sequence(3, k) for k in range(members)])
    rng = np.random.default_rng(1)
    states, deltas = rng.normal(0.3, 2, (99, 18)), rng.normal(0.1, 0.5, (99, 18))
    model.fit_scales(torch.from_numpy(states), torch.from_numpy(deltas))
    return model


def with_imitation(model):
    """The same model with random nets in place of learnt ones; plans deviate by half the range."""
    rng, members = np.random.default_rng(2), model.settings.members
    layers = [uniform_layer((members, out, into + 1), into, rng) for into, out in ((22, 16), (16, 6))]
    model.imitation = Imitation(layers, torch.full((members,), 0.75), torch.tensor([[0.0] * 6, [1.0] * 6]))
    return model


def problem(rng, episodes=3, plans=7, horizon=5):
    states, agents = rng.normal(size=(episodes, 18)), rng.integers(AGENTS, size=episodes)
    return states, agents, rng.uniform(-1, 1, (episodes, plans, horizon, 6)).astype(np.float32)


def plain(model, goal):
    return PlainScorer(model, goal, device=model.device, unit=model.delta_scale[1])


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("rollout", "penalty"), [("members", 0.0), ("mean", 0.0), ("mean", 3.0), ("members", 3.0)])
def test_it_agrees_with_the_plain_scorer(residual, rollout, penalty, rng):
    model, goal = cheetah_model(residual=residual), Objective(CHEETAH, rollout=rollout, penalty=penalty)
    states, agents, plans = problem(rng)
    wanted = plain(model, goal)(states, agents, plans)
    np.testing.assert_allclose(PreparedScorer(model, goal)(states, agents, plans), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
def test_discrete_actions_as_on_a_gpu(env, rng):
    spec = get(env)
    shape = ModelSettings(AGENTS, spec.state_dim, spec.action_dim, True, 3, 2, (16,))
    model, goal = LowRankDynamics(shape, [seeding.sequence(0, k) for k in range(2)]), Objective(spec)
    states, agents = spec.reset(rng, np.array(spec.test_agents[:2])), np.array([0, 5])
    plans = rng.integers(spec.action_dim, size=(2, 9, 6)).astype(np.int8)
    wanted = PlainScorer(model, goal)(states, agents, plans)
    np.testing.assert_allclose(PreparedScorer(model, goal)(states, agents, plans), wanted, rtol=1e-4, atol=1e-4)


def test_the_number_of_plans_at_once_changes_nothing(rng):
    model, goal = cheetah_model(), Objective(CHEETAH, rollout="mean", penalty=1.0)
    states, agents, plans = problem(rng)
    whole, parts = PreparedScorer(model, goal), PreparedScorer(model, goal)
    parts._columns = 4
    np.testing.assert_allclose(parts(states, agents, plans), whole(states, agents, plans), rtol=1e-5)


def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch, rng, caplog):
    model, goal = cheetah_model(), Objective(CHEETAH)
    states, agents, plans = problem(rng)
    scorer = PreparedScorer(model, goal)
    wanted, roll = scorer(states, agents, plans), scorer._roll

    def small(start, ids, flat):
        if len(start) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return roll(start, ids, flat)

    monkeypatch.setattr(scorer, "_roll", small)
    scorer._columns = 16
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(scorer(states, agents, plans), wanted, rtol=1e-5)
    assert [record.getMessage() for record in caplog.records] == [
        f"out of GPU memory: from now on {count} plans are rolled out at once" for count in (8, 4)
    ]

    def nothing(*inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(scorer, "_roll", nothing)
    with pytest.raises(torch.OutOfMemoryError):  # a single plan does not fit
        scorer(states, agents, plans)


def test_a_plan_that_is_not_finite_never_wins(rng):
    model = cheetah_model()
    states, agents, plans = problem(rng)
    plans[1, 2] = np.nan
    scores = PreparedScorer(model, Objective(CHEETAH, rollout="mean", penalty=1.0))(states, agents, plans)
    assert np.isneginf(scores[1, 2])
    assert np.isfinite(np.delete(scores.ravel(), 9)).all()


def test_what_is_refused(rng):
    model, (states, _, plans) = cheetah_model(), problem(rng)
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        PreparedScorer(model, Objective(CHEETAH), "bfloat")
    with pytest.raises(InputError, match="agent 9 is not among the 6 agents"):
        PreparedScorer(model, Objective(CHEETAH))(states, np.array([0, 8, 1]), plans)


def test_filling_up_adds_at_most_an_eighth():
    for count in [*range(1, 300), 1000, 20_000]:
        assert count <= _rounded(count) <= max(count + 1, count * 9 / 8)
    assert len({_rounded(count) for count in range(16_384, 32_768)}) == 9


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("rollout", ["mean", "members"])
@torch.no_grad()
def test_what_a_gpu_replays_gives_the_same_scores(prior, rollout):
    """On the CPU it is called, on the same static buffers."""
    scorer = PreparedScorer(with_imitation(cheetah_model()), Objective(CHEETAH, rollout=rollout), prior=prior)
    for seed, episodes in enumerate((3, 2, 3)):
        states, agents, plans = problem(np.random.default_rng(seed), episodes, plans=11)
        wanted = scorer(states, agents, plans).ravel()
        flat = torch.from_numpy(states).float(), torch.from_numpy(agents), torch.from_numpy(plans).flatten(0, 1)
        start, ids = (part.repeat_interleave(11, 0) for part in flat[:2])
        np.testing.assert_allclose(scorer._replay(start, ids, flat[2]), wanted, rtol=1e-5, atol=1e-5)
    assert len(scorer._graphs) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.3)])
def test_a_gpu_gives_the_scores_of_the_cpu(precision, tolerance, prior, rng):
    model, goal = with_imitation(cheetah_model()), Objective(CHEETAH, rollout="mean", penalty=3.0)
    there = PreparedScorer(with_imitation(cheetah_model()).to("cuda"), goal, precision, prior=prior)
    for episodes in (3, 2) * (WARM_UP + 2):  # their graphs are captured, then played again
        states, agents, plans = problem(rng, episodes, plans=50, horizon=10)
        wanted = PreparedScorer(model, goal, prior=prior)(states, agents, plans)
        np.testing.assert_allclose(there(states, agents, plans), wanted, atol=tolerance)
        stays = there.scores(states, agents, torch.from_numpy(plans).to("cuda"))
        assert stays.device.type == "cuda"
        np.testing.assert_allclose(stays.cpu().numpy(), wanted, atol=tolerance)
    assert len(there._graphs) == 2
    assert all(graph.replayed.captured for graph in there._graphs.values())
