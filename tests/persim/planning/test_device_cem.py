"""The cross-entropy method in torch, on a CPU, against the one in NumPy; on a GPU against the CPU."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from persim.envs import get
from persim.planning import device_cem
from persim.planning.cem import CEM, truncated_normal
from persim.planning.device_cem import DeviceCEM, device_truncated_normal, device_uniform
from persim.planning.prepared import PreparedScorer
from persim.planning.registry import make_planner, planner_settings
from persim.planning.scoring import Objective
from persim.seeding import Streams, drawn, generator
from tests.persim.planning.test_prepared import AGENTS, CHEETAH, cheetah_model, with_imitation

BOX = gym.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))
CPU = torch.device("cpu")
SMALL = {"plans": 60, "horizon": 5, "elites": 10}


class Near:
    """Best where the first action is 0.3 and the second 7 at all steps."""

    device = CPU

    def scores(self, states, agents, plans):
        assert plans.dtype == torch.float32
        return -((plans[..., 0] - 0.3).square() + ((plans[..., 1] - 7) / 5).square()).sum(2)


def cheetah_scorer(device="cpu", precision="float32", *, prior=False):
    goal = Objective(CHEETAH, rollout="mean", penalty=1.0)
    return PreparedScorer(with_imitation(cheetah_model()).to(device), goal, precision, prior=prior)


def two_searches(planner, rng, episodes=3):
    """The plans of two decisions in a row."""
    agents, memory, found = np.arange(episodes) % AGENTS, None, []
    for step in range(2):
        states = np.random.default_rng(step).normal(size=(episodes, 18))
        plans, memory = planner.search(states, agents, memory, rng)
        found.append(plans)
    return np.stack(found)


@pytest.mark.parametrize(("elites", "prior"), [(1, False), (10, False), (10, True)])
def test_with_the_same_numbers_it_finds_the_same_plans(monkeypatch, elites, prior):
    def from_numpy(rng, episodes, device):
        return lambda shape: torch.from_numpy(drawn(rng, episodes, lambda g, n: g.uniform(size=(n, *shape))))

    monkeypatch.setattr(device_cem, "device_uniform", from_numpy)
    settings = planner_settings("cem", **{**SMALL, "elites": elites})
    wanted, found = (
        two_searches(
            kind(cheetah_scorer(prior=prior), CHEETAH.action_space, settings, deviates=prior), np.random.default_rng(4)
        )
        for kind in (CEM, DeviceCEM)
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_it_finds_the_best_plan():
    settings = planner_settings("cem", plans=200, horizon=8, elites=20)
    planner = DeviceCEM(Near(), BOX, settings)
    plans, memory = planner.search(np.zeros((4, 2)), np.arange(4), None, np.random.default_rng(0))
    assert plans.shape == (4, 8, 2)
    np.testing.assert_allclose(plans[..., 0], 0.3, atol=0.15)
    np.testing.assert_allclose(plans[..., 1], 7, atol=0.75)
    assert memory[0].shape == plans.shape
    assert not memory[0][:, -1].any()


def test_imitation_itself_is_a_candidate_of_every_round(monkeypatch):
    seen, scorer = [], cheetah_scorer(prior=True)
    score = scorer.scores
    monkeypatch.setattr(
        scorer, "scores", lambda states, agents, plans: (seen.append(plans), score(states, agents, plans))[1]
    )
    settings = planner_settings("cem", **SMALL)
    two_searches(DeviceCEM(scorer, CHEETAH.action_space, settings, deviates=True), np.random.default_rng(0))
    assert len(seen) == 2 * (1 + settings.iterations)
    assert all((plans == 0).all((2, 3)).any(1).all() for plans in seen)


def test_samples_have_the_distribution_of_numpys():
    mean, spread = np.array([[0.0, 0.8, -1.0, 1.0]]), np.array([[0.3, 0.5, 1e-6, 2.0]])
    wanted = truncated_normal(mean, spread, 40_000, np.random.default_rng(0))[0]
    uniform = device_uniform(np.random.default_rng(1), 1, CPU)
    found = device_truncated_normal(torch.from_numpy(mean), torch.from_numpy(spread), 40_000, uniform)[0].numpy()
    assert np.abs(found).max() <= 1
    width = wanted.std(0)
    np.testing.assert_allclose(found.mean(0) - wanted.mean(0), 0, atol=0.04 * width.max())
    np.testing.assert_allclose(found.std(0), width, rtol=0.03)
    assert (np.abs((found.mean(0) - wanted.mean(0)) / width) < 0.04).all()


def test_groups_draw_together_what_they_draw_alone_and_seeds_differ():
    def rngs():
        return generator(0, "a"), generator(0, "b")

    both = device_uniform(Streams(rngs(), [2, 3]), 5, CPU)
    found = [both((4,)), both((2, 3))]
    for place, rng in zip((slice(0, 2), slice(2, 5)), rngs(), strict=True):
        alone = device_uniform(rng, place.stop - place.start, CPU)
        assert torch.equal(found[0][place], alone((4,)))
        assert torch.equal(found[1][place], alone((2, 3)))
    rng = generator(0, "a")  # later decisions draw others
    assert not torch.equal(device_uniform(rng, 2, CPU)((4,)), device_uniform(rng, 2, CPU)((4,)))
    shrunk = Streams(rngs(), [2, 3])
    shrunk.keep(np.array([False, False, True, True, False]))
    assert device_uniform(shrunk, 2, CPU)((4,)).shape == (2, 4)


def test_cem_is_on_the_device_only_on_a_gpu(monkeypatch):
    settings, scorer = planner_settings("cem", **SMALL), cheetah_scorer()
    assert type(make_planner("cem", scorer, CHEETAH.action_space, settings)) is CEM
    monkeypatch.setattr(scorer, "device", torch.device("cuda"))
    found = make_planner("cem", scorer, CHEETAH.action_space, settings, deviates=True)
    assert type(found) is DeviceCEM
    assert found._deviates
    discrete = make_planner("cem", scorer, get("cartpole").action_space, settings)
    assert discrete.search.__func__ is CEM.search


@pytest.mark.gpu
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_it_finds_plans_as_good_as_on_a_cpu(precision, prior):
    settings = planner_settings("cem", plans=200, horizon=5, elites=20)
    space, judge = CHEETAH.action_space, cheetah_scorer(prior=prior)
    states, agents = np.random.default_rng(0).normal(size=(4, 18)), np.arange(4)
    there = make_planner("cem", cheetah_scorer("cuda", precision, prior=prior), space, settings, deviates=prior)
    assert isinstance(there, DeviceCEM)

    def score(planner, seed):
        plans, _ = planner.search(states, agents, None, np.random.default_rng(seed))
        assert np.abs(plans).max() <= 1
        return judge(states, agents, plans[:, None])[:, 0]

    here = np.stack([score(CEM(judge, space, settings, deviates=prior), seed) for seed in range(3)])
    first, *others = [score(there, seed) for seed in (0, 0, 1, 2)]  # the later ones are replayed
    np.testing.assert_allclose(others[0], first, rtol=1e-3)
    found = np.stack([first, *others[1:]])
    chance = judge(states, agents, np.zeros((4, 1, 5, 6), np.float32))[:, 0]
    assert ((found.mean(0) - chance) > 0.8 * (here.mean(0) - chance)).all()


def test_without_a_gpu_the_benchmark_says_so(monkeypatch, capsys):
    from benchmarks import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--quick"]) == 2
    assert capsys.readouterr().out == "no GPU\n"
