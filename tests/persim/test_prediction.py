"""Prediction error: exact for the truth, and as the slow obvious loop computes it."""

import numpy as np
import pytest
import torch

from persim.data.policies import UniformPolicy, load_test_policy
from persim.data.train_policies import RECIPES
from persim.envs import get
from persim.errors import InputError
from persim.evaluation import paper
from persim.evaluation.prediction import HORIZON, WARM_UP, predicted_states, prediction_errors, true_rollouts


class TrueDynamics:
    """The environment itself as a model of K equal members, each with its own constant error."""

    def __init__(self, spec, errors=(0.0,)):
        self.spec, self.errors = spec, errors

    def __call__(self, agents, states, actions):
        states = states.expand(len(self.errors), -1, -1).double().numpy()
        covariates = np.array(self.spec.test_agents)[agents.numpy()]
        stepped = [
            self.spec.step(member, actions.numpy(), covariates) + error
            for member, error in zip(states, self.errors, strict=True)
        ]
        return torch.from_numpy(np.stack(stepped))


@pytest.fixture(params=["cartpole", "mountaincar"])
def spec(request):
    return get(request.param)


def rollouts_of(spec, rng, episodes=8):
    return true_rollouts(spec, load_test_policy(spec.name, spec.action_space), rng, episodes=episodes)


def test_the_truth_has_no_error(spec, rng):
    # The short pole multiplies the rounding of float32 observations a thousandfold in 50 steps.
    for error in prediction_errors(TrueDynamics(spec), rollouts_of(spec, rng)):
        assert error.rmse < 1e-3
        assert error.r2 > 0.999


def test_scores_are_those_of_the_plain_loop(rng):
    spec = get("cartpole")
    rollouts = true_rollouts(spec, UniformPolicy(spec.action_space), rng, episodes=8)  # whose episodes end early
    model = TrueDynamics(spec, errors=(1e-4, 5e-4))
    results = {error.agent: error for error in prediction_errors(model, rollouts)}
    for agent in range(5):
        rmses, r2s, steps = [], [], []
        for episode in np.flatnonzero(rollouts.agents == agent):
            true = rollouts.states[episode]
            members = [torch.from_numpy(true[WARM_UP][None, None])] * 2
            errors, kept = [], []
            for step in range(HORIZON):
                if np.isnan(true[WARM_UP + step + 1]).any():
                    break
                action = torch.from_numpy(rollouts.actions[episode, WARM_UP + step][None])
                ids = torch.tensor([agent])
                members = [model(ids, m.expand(2, -1, -1), action)[[k]] for k, m in enumerate(members)]
                mean = (members[0] + members[1])[0, 0].numpy() / 2
                errors.append(mean - true[WARM_UP + step + 1])
                kept.append(true[WARM_UP + step + 1])
            if errors:
                steps.append(len(errors))
                square, kept = np.square(errors), np.array(kept, dtype=np.float64)
                rmses.append(np.sqrt(square.mean()))
                r2s.append(1 - square.sum() / np.square(kept - kept.mean(0)).sum())
        assert results[agent].rmse == pytest.approx(np.mean(rmses), rel=1e-6)
        assert results[agent].r2 == pytest.approx(np.median(r2s), rel=1e-6)
        assert results[agent].episodes == len(rmses)
        assert results[agent].steps == pytest.approx(np.mean(steps))


def test_steps_after_the_end_are_left_out(rng):
    spec = get("cartpole")
    rollouts = true_rollouts(spec, UniformPolicy(spec.action_space), rng, episodes=40)
    ended = np.isnan(rollouts.states[:, -1, 0])
    assert 0 < ended.sum() < len(ended)
    predicted = predicted_states(TrueDynamics(spec), rollouts)
    assert predicted.shape == (200, HORIZON, 4)
    assert np.isfinite(predicted).all()


def test_the_test_policy_keeps_every_test_agent_going(rng):
    spec = get("cartpole")
    rollouts = rollouts_of(spec, rng, episodes=200)
    steps = [
        np.mean([np.isfinite(states[1:, 0]).sum() for states in rollouts.states[rollouts.agents == agent]])
        for agent in range(5)
    ]
    np.testing.assert_allclose(rollouts.steps, steps)
    assert min(steps) >= RECIPES["cartpole"].test_steps == 58
    scored = prediction_errors(TrueDynamics(spec), rollouts)
    assert min(error.steps for error in scored) >= 48


def test_same_generator_same_rollouts():
    spec = get("mountaincar")
    first, second = (rollouts_of(spec, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first.states, second.states)
    np.testing.assert_array_equal(first.actions, second.actions)


def test_only_test_agents_can_be_tested(rng):
    with pytest.raises(InputError, match="ids 0 to 4"):
        true_rollouts(get("cartpole"), UniformPolicy(get("cartpole").action_space), rng, agents=[5])


def test_the_papers_numbers_are_at_hand():
    theirs = paper.prediction_error("cartpole", "random")
    assert theirs[4] == paper.PaperError(rmse=0.152, r2=0.883)
    assert len(theirs) == 5
    assert paper.prediction_error("pendulum", "random") == {}
