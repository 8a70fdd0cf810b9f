"""CaDM as a method: what a context gains, stopping and resuming, divergence, bad input."""

import numpy as np
import pytest
import torch

from baselines.cadm import ActingSettings, CaDM, training
from baselines.cadm.acting import ContextPolicy
from baselines.cadm.settings import CaDMSettings
from baselines.common import chunks
from baselines.registry import make_method
from persim.data.policies import UniformPolicy
from persim.envs import get
from persim.errors import InputError
from persim.evaluation.prediction import errors_of, true_rollouts
from persim.learning.training import DivergenceError
from persim.methods import Options, Part
from persim.methods.persim import PlanningSettings
from tests.baselines.cadm_toys import GLIDE, PUSHED, method, pets, planning, recorded, vanilla


@pytest.fixture(scope="module")
def data():
    return recorded(agents=40)


@pytest.fixture(scope="module")
def rollouts():
    return true_rollouts(PUSHED, UniformPolicy(PUSHED.action_space), np.random.default_rng(3), episodes=20)


def error(fitted, rollouts, history=True):
    past = rollouts.history if history else None
    predicted = fitted.predict(rollouts.agents, rollouts.start, rollouts.played, past)[:, 1:]
    return np.mean([agent.rmse for agent in errors_of(predicted, rollouts)])


@pytest.mark.parametrize("make", [vanilla, pets])
def test_ten_true_steps_reveal_a_hidden_parameter_and_the_same_nets_without_a_context_cannot_know_it(
    make, data, rollouts
):
    with_context = method(make()).fit(data, PUSHED, seed=0)
    without = method(make(context=0)).fit(data, PUSHED, seed=0)
    assert error(with_context, rollouts) < 0.35 * error(without, rollouts)
    assert error(with_context, rollouts) < 0.5 * error(with_context, rollouts, history=False)


def test_a_prediction_is_the_same_when_it_is_asked_for_again(data, rollouts):
    fitted = method(pets(updates=20)).fit(data, PUSHED, seed=0)
    assert error(fitted, rollouts) == error(fitted, rollouts)


@pytest.mark.parametrize("make", [vanilla, pets])
def test_a_training_that_is_killed_and_resumed_is_the_same_to_the_last_bit(make, data, tmp_path, monkeypatch):
    settings = make(updates=None, epochs=2, batch_size=48)
    whole = method(settings).fit_part(Part(0, data, PUSHED, seed=3))
    monkeypatch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)
    path, shares = tmp_path / "checkpoint.safetensors", []

    def kill(share):
        shares.append(share)
        if share > 0.55:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method(settings).fit_part(Part(0, data, PUSHED, seed=3, checkpoint=path, report=kill))
    saved = training._Position(*chunks.store.read_arrays(path, chunks.CHECKPOINT)[0]["position"].tolist())
    assert saved.step > 0  # in the middle of an epoch
    assert saved.iteration == 1
    resumed = method(settings).fit_part(Part(0, data, PUSHED, seed=3, checkpoint=path, report=shares.append))
    for name, values in whole.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], values)
    assert resumed.settings["about"]["curves"] == whole.settings["about"]["curves"]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_a_checkpoint_of_another_training_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "checkpoint.safetensors"
    method(vanilla(updates=60)).fit_part(Part(0, data, PUSHED, seed=3, checkpoint=path))
    with pytest.raises(InputError, match="belongs to another run"):
        method(vanilla(updates=60)).fit_part(Part(0, data, PUSHED, seed=4, checkpoint=path))


@pytest.mark.parametrize("where", ["train", "validation"])
def test_a_loss_that_is_not_finite_stops_with_its_step(where, data, monkeypatch):
    real, calls = training.reconstruction, []

    def broken(nets, batch, weight):
        if torch.is_grad_enabled() == (where == "train"):
            calls.append(None)
            if len(calls) == (3 if where == "train" else 1):
                return real(nets, batch, weight) * float("nan")
        return real(nets, batch, weight)

    monkeypatch.setattr(training, "reconstruction", broken)
    message = "the loss became nan at step 3; lower" if where == "train" else "the validation loss became nan at step"
    with pytest.raises(DivergenceError, match=message):
        method(vanilla(updates=200)).fit_part(Part(0, data, PUSHED, seed=0))


def test_curves_are_points_of_updates_and_losses(data):
    about = method(pets(updates=100)).fit_part(Part(0, data, PUSHED, seed=0)).settings["about"]
    train, validation = about["curves"]["train_loss"], about["curves"]["validation_loss"]
    assert about["updates"] == 100 == validation[-1][0]
    assert train[-1][0] <= 100
    assert train[-1][1] < train[0][1]
    assert about["seconds"] > 0


def test_updates_are_shared_out_in_proportion_to_the_data():
    assert training.shares(15_000, 5) == [1000, 2000, 3000, 4000, 5000]
    assert sum(training.shares(7, 5)) == 7


def test_the_rolling_validation_loss_starts_high_and_stops_when_it_rises():
    def epochs(losses):
        rolling = None
        for epoch, loss in enumerate(losses, 1):
            rolling = training.rolled(rolling, loss)
            if rolling[0] > rolling[1]:
                return epoch
        return None

    assert training.rolled(None, 2.0) == pytest.approx([0.99 * 3 + 0.02, 4.0])
    assert training.rolled(None, -2.0) == pytest.approx([0.99 * -2 / 1.5 - 0.02, -1.0])
    assert epochs(1 / np.arange(1.0, 201)) is None
    curve = 1 + np.abs(np.arange(1, 201) - 20) / 20  # smallest at epoch 20
    weights = [0.01 * 0.99 ** np.arange(t)[::-1] for t in range(1, 201)]
    rolling = [0.99**t * 1.5 * curve[0] + weights[t - 1] @ curve[:t] for t in range(1, 201)]
    assert epochs(curve) == next(t + 1 for t in range(1, 200) if curve[t] > rolling[t - 1])
    assert epochs(curve) > 40
    assert epochs([-1.0, -1.0, 5.0]) == 3


def test_a_single_trajectory_trains_without_validation_and_iterations_without_updates_are_skipped():
    data = recorded(agents=3).of_agents([0])
    about = method(vanilla(updates=1)).fit_part(Part(0, data, PUSHED, seed=0)).settings["about"]
    assert training.shares(1, 2) == [0, 1]
    assert about["updates"] == 1
    assert [step for step, _ in about["curves"].pop("train_loss")] == [1]
    assert not about["curves"]


def test_early_stopping_goes_on_with_the_next_iteration(data, monkeypatch):
    monkeypatch.setattr(training, "rolled", lambda before, loss: [1.0, 0.0])
    about = method(vanilla(updates=None, epochs=7)).fit_part(Part(0, data, PUSHED, seed=0)).settings["about"]
    assert len(about["curves"]["validation_loss"]) == 2  # one epoch in each of two iterations


def test_random_shooting_starts_anew_and_the_cross_entropy_method_goes_on(data):
    for spec, planner, warm in ((PUSHED, "random_shooting", False), (GLIDE, "cem", True)):
        cell = make_method("cadm", spec, Options("smoke"))
        assert (cell.acting.planning.planner, cell.acting.warm_start) == (planner, warm)
        policy = cell.fit(recorded(spec), spec, 0).policy(np.zeros(2, int))
        assert isinstance(policy, ContextPolicy)
        policy.act(np.zeros((2, 2), np.float32), np.random.default_rng(0))
        assert (policy._memory is not None) == warm


def test_the_planners_are_those_of_the_public_code_unless_one_is_asked_for():
    car = make_method("cadm-pets", get("mountaincar")).about()
    assert car["planning"]["settings"] == {"plans": 1000, "horizon": 50}
    assert car["acting"]["particles"] == 20
    cheetah = make_method("cadm", get("halfcheetah")).about()["planning"]
    assert cheetah["planner"] == "cem"
    assert cheetah["settings"] == {
        "plans": 200, "horizon": 30, "elites": 50, "iterations": 4, "smoothing": 0.1, "spread": (0.5, 0.5)
    }  # fmt: skip
    asked = make_method("cadm", get("halfcheetah"), Options(planner="icem")).about()["planning"]
    assert asked["planner"] == "icem"


@pytest.mark.parametrize(("make", "what"), [
    (lambda: vanilla(iterations=0), "iterations is 0"),
    (lambda: vanilla(updates=0), "updates is 0"),
    (lambda: vanilla(context=-1), "context is -1"),
    (lambda: vanilla(learning_rate=0.0), "learning_rate"),
    (lambda: vanilla(validation=1.0), "validation"),
    (lambda: CaDMSettings(widths=(10, 10)), "decays has 5 numbers, but widths make 3 layers"),
    (lambda: method(pets(), particles=12), "particles is 12, but 5 members share them evenly; give a multiple of 5"),
    (lambda: CaDM(vanilla(), ActingSettings(PlanningSettings.of(PUSHED, "icem")), PUSHED), "plans continuous actions"),
    (lambda: ActingSettings(planning(PUSHED), 0), "particles is 0"),
])  # fmt: skip
def test_bad_settings_are_refused(make, what):
    with pytest.raises(InputError, match=what):
        make()
