"""Keeping the best policy seen during training, judged in the simulator."""

from dataclasses import replace

import numpy as np
import pytest

from baselines.common import chunks
from baselines.model_free.augmented import TRIALS, Augmented, Selection
from persim.data.policies import UniformPolicy
from persim.evaluation.reward import average_rewards
from persim.methods import Part, PerSim, PerSimSettings, simulated
from persim.methods.persim import PlanningSettings
from tests.baselines.test_model_free import DISCRETE
from tests.baselines.toy import WALK, recorded


class Counter:
    """A training whose weights are the number of chunks done."""

    learner = None  # the policy, which these judges do not look at

    def __init__(self, chunks):
        self.chunks, self.done = chunks, 0

    def advance(self, chunk):
        self.done = chunk + 1
        return self.done, {"loss": 0.5}

    def arrays(self):
        return {"done": np.array([self.done])}

    state = arrays

    def load_state(self, arrays):
        self.done = int(arrays["done"][0])


@pytest.mark.parametrize("length", [10, 37, 100, 3])
def test_the_best_is_kept_of_equal_ones_the_later(length):
    counter, seen = Counter(length), []

    def judge(policy):
        seen.append(counter.done)
        return -abs(counter.done - 0.5 * length) // 10

    selection = Selection(counter, judge)
    curves = [selection.advance(chunk)[1] for chunk in range(length)]
    assert len(seen) == min(TRIALS, length)
    assert seen[-1] == length  # the last policy is always among them
    scores = [curve["simulated_return"] for curve in curves if "simulated_return" in curve]
    best = max(step for step, score in zip(seen, scores, strict=True) if score == max(scores))
    assert selection.arrays()["done"] == best


def test_a_resumed_selection_remembers_the_best():
    scores = {10: 1.0, 20: 5.0, 30: 2.0, 40: 5.0, 50: 4.0}
    first = Counter(50)
    selection = Selection(first, lambda policy: scores.get(first.done, 0.0))
    for chunk in range(25):
        selection.advance(chunk)
    second = Counter(50)
    again = Selection(second, lambda policy: scores.get(second.done, 0.0))
    again.load_state(selection.state())
    assert second.done == 25
    for chunk in range(25, 50):
        again.advance(chunk)
    assert again.arrays()["done"] == 40
    untouched = Selection(Counter(50), lambda policy: 0.0)
    untouched.load_state(Selection(Counter(50), lambda policy: 0.0).state())
    assert untouched.arrays() == {}


class TrueLine:
    """Predicts with the toy's true dynamics, given the pushes of its agents."""

    def __init__(self, data):
        self.pushes = data.covariates

    def predict(self, agents, states, actions, history=None):
        after = WALK.step(states, actions[:, 0], self.pushes[agents])
        return np.stack([states, after], axis=1)


def test_a_simulator_in_the_place_of_the_environment_pays_the_same():
    data = recorded(WALK)
    inside = simulated(WALK, TrueLine(data), data)
    policy = UniformPolicy(WALK.action_space)
    numbers = np.arange(data.n_agents, dtype=float)[:, None]
    there = average_rewards(inside, numbers, lambda _: policy, np.random.default_rng(0), agents=[1], episodes=5)
    rng = np.random.default_rng(0)
    starts = inside.reset(rng, np.ones((5, 1)))
    assert np.isin(starts, data.observation[data.step == 0]).all()
    outside = replace(WALK, reset=inside.reset)
    here = average_rewards(outside, data.covariates, lambda _: policy, np.random.default_rng(0), agents=[1], episodes=5)
    assert there.agents[0].mean == pytest.approx(here.agents[0].mean, rel=1e-5)


def test_a_killed_training_with_selection_is_the_same_to_the_last_bit(tmp_path, monkeypatch):
    data = recorded(WALK, agents=8, horizon=40)
    planning = PlanningSettings.of(WALK, plans=20, horizon=5)
    simulator = PerSim(PerSimSettings.of(WALK, planning, rank=3, members=1, spare=0, epochs=3))
    method = Augmented(replace(DISCRETE[1], updates=60), WALK, simulator)
    base = simulator.train(data, WALK, 3)
    expected = method.fit_part(Part(1, data, WALK, 3, base=base))
    monkeypatch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "checkpoint.safetensors"

    def kill(share):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit_part(Part(1, data, WALK, 3, base=base, checkpoint=path, report=kill))
    resumed = method.fit_part(Part(1, data, WALK, 3, base=base, checkpoint=path))
    assert resumed.settings["about"]["curves"] == expected.settings["about"]["curves"]
    assert len(expected.settings["about"]["curves"]["simulated_return"]) == TRIALS
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], array)
