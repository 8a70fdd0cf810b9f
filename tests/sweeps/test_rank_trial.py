"""Trials on a hold-out, without Ray: a user's own environment, nothing computed twice, and what divergence leaves."""

import dataclasses
import sys
import types

import numpy as np
import pytest

from persim import envs, seeding
from persim.data import collect_regime
from persim.learning.training import DivergenceError
from persim.methods import holdout
from persim.methods.holdout import run_trial, stopped
from persim.storage.cells import CellStore
from sweeps.tuning.ranks import SweepSettings


def settings(env="cartpole", ranks=(2,), repeats=1, epochs=3):
    return SweepSettings(
        env=env, regime="random", agents=8, holdout=0.2, seed=0, ranks=ranks, repeats=repeats, epochs=epochs
    )


@pytest.fixture
def swing(monkeypatch):
    module = types.ModuleType("my_envs")
    module.SWING = dataclasses.replace(envs.get("cartpole"), name="swing", title="Swing")
    monkeypatch.setitem(sys.modules, "my_envs", module)
    return "my_envs:SWING"


def test_an_environment_of_another_package_goes_through(swing, tmp_path):
    job, cells = settings(swing).job(2, 0), CellStore(tmp_path)
    data = collect_regime(envs.get(swing), "random", 8, 0)
    seen = []
    done = run_trial(job, data, cells, lambda report: seen.append(report.epoch))
    assert seen == [1, 2, 3]
    assert [row["metric"] for row in done.rows].count("prediction_rmse") == 5
    assert (tmp_path / done.model).exists()
    again = run_trial(job, data, cells, lambda report: pytest.fail("trained again"))
    assert again == done


@pytest.mark.gpu
def test_a_trial_on_a_gpu_gives_the_same_up_to_rounding(cartpole_data, tmp_path):
    job = settings().job(2, 0)
    here, there = (
        run_trial(job, cartpole_data, CellStore(tmp_path / device), lambda _: None, (), device)
        for device in ("cpu", "cuda")
    )
    assert here.machine["device"] == "cpu" != there.machine["device"]
    for metric in ("train_mse", "holdout_mse", "holdout_error", "holdout_share"):
        assert there.value(metric) == pytest.approx(here.value(metric), rel=1e-3)


def test_hold_outs_differ_between_repeats_and_agree_between_ranks(tmp_path, monkeypatch):
    seen = {}
    real = holdout.split

    def spy(rows, share, rng):
        train, held_out = real(rows, share, rng)
        seen[len(seen)] = held_out
        return train, held_out

    monkeypatch.setattr(holdout, "split", spy)
    data = collect_regime(envs.get("cartpole"), "random", 8, 0)
    jobs = settings(ranks=(2, 3), repeats=2, epochs=1).jobs()
    errors = [run_trial(job, data, CellStore(tmp_path), lambda _: None).value("holdout_mse") for job in jobs]
    assert len(set(errors)) == 4
    np.testing.assert_array_equal(seen[0], seen[1])  # ranks 2 and 3 of repeat 0
    assert set(seen[0].tolist()) != set(seen[2].tolist())


def test_seeds_follow_from_rank_and_repeat(cartpole_data, tmp_path, monkeypatch):
    """Published sweeps have these names; another member or repeat has other seeds."""
    seen = []

    def spy(model, data, train_settings, batch_seeds, **more):
        seen.append(batch_seeds)
        raise DivergenceError("enough was seen")

    monkeypatch.setattr(holdout, "train", spy)
    run_trial(settings().job(2, 1), cartpole_data, CellStore(tmp_path), lambda _: None)
    ((sequence,),) = seen
    assert sequence.spawn_key == seeding.sequence(0, "rank_cv", "batches", 2, 1).spawn_key


def test_a_diverged_trial_is_finished_and_has_no_finite_metric(cartpole_data, tmp_path, monkeypatch):
    def explode(*_, **__):
        raise DivergenceError("non-finite")

    monkeypatch.setattr(holdout, "train", explode)
    done = run_trial(settings().job(2, 0), cartpole_data, CellStore(tmp_path), lambda _: None)
    assert [done.value("prediction_rmse", agent) for agent in range(1, 6)] == [np.inf] * 5
    assert {row["value"] for row in done.rows} == {None}


def test_a_trial_that_was_stopped_is_a_cell_of_its_own():
    job = settings().job(2, 0)
    cells = [job.cell, stopped(job, 1).cell, stopped(job, 3).cell]
    assert len({cell.id for cell in cells}) == 3
    assert [cell.measure.get("stopped_at") for cell in cells] == [None, 1, 3]
    assert "then" not in cells[1].measure  # it neither predicted nor planned
