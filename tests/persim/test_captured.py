"""Training in captured steps: on a CPU, where they are only called, against usual steps; on a GPU against the CPU."""

import dataclasses

import numpy as np
import pytest
import torch

from persim import seeding
from persim.data import collect_regime
from persim.envs import get
from persim.learning import training
from persim.learning.cuda_graph import WARM_UP, Branch, Replayed
from persim.learning.gradients import TrainingRows
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.training import DivergenceError, TrainSettings, _Run, split, train

SETTINGS = TrainSettings(epochs=6, batch_size=32, halve_every=4, average_last=3)
SEEDS = [seeding.sequence(0, "batches", k) for k in range(3)]


def build(data, device="cpu", **changed):
    shape = ModelSettings(data.n_agents, data.state_dim, data.action_dim, data.discrete, 2, 3, (16, 16), (8,))
    model = LowRankDynamics(dataclasses.replace(shape, **changed), [seeding.sequence(0, k) for k in range(3)])
    return model.to(device)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).cpu()


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(training, "CAPTURED", ("cpu", "cuda"))


@pytest.mark.parametrize(("average_last", "precision"), [(0, "float32"), (3, "float32"), (3, "bfloat16")])
def test_captured_training_is_training(cartpole_data, monkeypatch, average_last, precision):
    """The last minibatch is smaller, the rate is halved, and the mean begins halfway."""
    settings = dataclasses.replace(SETTINGS, average_last=average_last, precision=precision)
    assert len(cartpole_data) % settings.batch_size
    usual, captured = build(cartpole_data), build(cartpole_data)
    wanted = train(usual, cartpole_data, settings, SEEDS)
    monkeypatch.setattr(training, "CAPTURED", ("cpu", "cuda"))
    found = train(captured, cartpole_data, settings, SEEDS)
    torch.testing.assert_close(weights(captured), weights(usual), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-5)
    assert found.steps == wanted.steps


def test_every_step_sees_the_rows_of_its_minibatch(cartpole_data, as_on_a_gpu, monkeypatch):
    model, rng = build(cartpole_data), np.random.default_rng(0)
    rows, run = TrainingRows(model, cartpole_data, np.arange(len(cartpole_data))), _Run(model, SETTINGS)
    seen = []
    monkeypatch.setattr(run, "step", lambda batch, rate: (seen.append(batch), batch.targets.sum((1, 2))[:, None])[1])
    for _ in range(2):
        orders = [rng.permutation(len(rows)) for _ in range(3)]
        squared = run.start_epoch(rows, orders)
        wanted = list(rows.batches(SETTINGS.batch_size, orders))
        assert len(wanted) == len(seen) == len(squared)
        for found, batch, sums in zip(seen, wanted, squared, strict=True):
            assert all(torch.equal(*pair) for pair in zip(found, batch, strict=True))
            assert torch.equal(sums, batch.targets.sum((1, 2)))
        seen.clear()


@pytest.mark.parametrize("stop_after", [2, 4, 5])
def test_stopped_and_resumed_is_uninterrupted(cartpole_data, as_on_a_gpu, tmp_path, stop_after):
    rows, holdout = split(len(cartpole_data), 0.2, np.random.default_rng(0))
    every = {"rows": rows, "holdout": holdout, "checkpoint_every": 1}
    whole, resumed, path = build(cartpole_data), build(cartpole_data), tmp_path / "checkpoint.safetensors"
    expected = train(whole, cartpole_data, SETTINGS, SEEDS, **every)

    def stop(report):
        if report.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build(cartpole_data), cartpole_data, SETTINGS, SEEDS, checkpoint=path, progress=stop, **every)
    result = train(resumed, cartpole_data, SETTINGS, SEEDS, checkpoint=path, **every)
    assert torch.equal(weights(resumed), weights(whole))
    assert (result.losses, result.steps) == (expected.losses, expected.steps)


def test_a_loss_that_is_not_finite_stops_with_its_step(cartpole_data, as_on_a_gpu, monkeypatch):
    model = build(cartpole_data)
    usual, steps = _Run.step, -(-len(cartpole_data) // SETTINGS.batch_size)
    taken = []

    def lost(run, batch, rate):
        taken.append(rate)
        return usual(run, batch, rate) * (torch.nan if len(taken) == steps + 4 else 1)

    monkeypatch.setattr(_Run, "step", lost)
    with pytest.raises(DivergenceError, match=rf"non-finite at step {steps + 4} \(epoch 2\)"):
        train(model, cartpole_data, SETTINGS, SEEDS)


def test_on_a_cpu_a_function_is_called_and_a_branch_is_nothing():
    calls = []
    replayed = Replayed(lambda: torch.tensor(calls.append(0) or len(calls)), torch.device("cpu"))
    assert [int(replayed()) for _ in range(4)] == [1, 2, 3, 4]
    assert not replayed.captured
    branch = Branch(torch.device("cpu"))
    with branch, branch:
        branch.join()


@pytest.mark.gpu
def test_a_replayed_function_counts_on():
    counter, doubled = torch.zeros(3, device="cuda"), torch.zeros(3, device="cuda")
    branch = Branch(counter.device)

    def work():
        counter.add_(1)
        with branch:
            torch.mul(counter, 2, out=doubled)
        branch.join()
        return doubled + counter

    replayed = Replayed(work, counter.device)
    for number in range(1, WARM_UP + 5):
        assert replayed().tolist() == [3 * number] * 3
        assert replayed.captured == (number > WARM_UP)


@pytest.mark.gpu
@pytest.mark.parametrize("env", ["cartpole", "halfcheetah"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.01), ("bfloat16", 0.1)])
def test_a_gpu_trains_as_the_cpu_does(env, precision, tolerance):
    """Rounding differs, and Adam enlarges it where gradients are near 0: losses and predictions agree, not all bits."""
    data = collect_regime(get(env), "random", 6, seed=0)
    settings = dataclasses.replace(SETTINGS, precision=precision)
    shape = {"normalised": env == "halfcheetah"}
    here, there = build(data, **shape), build(data, "cuda", **shape)
    wanted, found = (train(model, data, settings, SEEDS) for model in (here, there))
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=tolerance)
    scale = (weights(here) - weights(build(data, **shape))).square().mean().sqrt()
    assert (weights(there) - weights(here)).square().mean().sqrt() < 2 * tolerance * scale


@pytest.mark.gpu
def test_on_a_gpu_stopped_and_resumed_is_uninterrupted(cartpole_data, tmp_path):
    """But for the order of atomic sums."""
    path, whole, resumed = tmp_path / "checkpoint.safetensors", *(build(cartpole_data, "cuda") for _ in range(2))

    def stop(report):
        if report.epoch == 4:
            raise KeyboardInterrupt

    train(whole, cartpole_data, SETTINGS, SEEDS)
    with pytest.raises(KeyboardInterrupt):
        train(build(cartpole_data, "cuda"), cartpole_data, SETTINGS, SEEDS, checkpoint=path, checkpoint_every=1,
              progress=stop)  # fmt: skip
    train(resumed, cartpole_data, SETTINGS, SEEDS, checkpoint=path)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
def test_what_cannot_be_captured_is_called(caplog):
    replayed = Replayed(lambda: torch.ones(2, device="cuda") * float(torch.ones(2, device="cuda").sum()),
                        torch.device("cuda"))  # fmt: skip
    assert [replayed().tolist() for _ in range(WARM_UP + 2)] == [[2.0, 2.0]] * (WARM_UP + 2)
    assert not replayed.captured
    assert len(caplog.records) == 1
