"""One trial, without Ray: a user's own environment, and nothing computed twice."""

import dataclasses
import sys
import types

import numpy as np
import pytest

from persim import envs
from persim.data import collect_regime
from sweeps.tuning.rank_trial import SweepSettings, run_trial


@pytest.fixture
def swing(monkeypatch):
    module = types.ModuleType("my_envs")
    module.SWING = dataclasses.replace(envs.get("cartpole"), name="swing", title="Swing")
    monkeypatch.setitem(sys.modules, "my_envs", module)
    return "my_envs:SWING"


def test_an_environment_of_another_package_goes_through(swing, tmp_path):
    settings = SweepSettings(swing, "random", 8, (2,), 1, 3, 0.2, 0)
    data = collect_regime(envs.get(swing), "random", 8, 0)
    seen = []
    done = run_trial(settings.cell(2, 0), data, tmp_path, lambda report: seen.append(report.epoch))
    assert seen == [1, 2, 3]
    assert [row["metric"] for row in done.rows].count("prediction_rmse") == 5
    again = run_trial(settings.cell(2, 0), data, tmp_path, lambda report: pytest.fail("trained again"))
    assert again == done


def test_hold_outs_differ_between_repeats_and_agree_between_ranks(tmp_path, monkeypatch):
    from sweeps.tuning import rank_trial

    seen = {}
    real = rank_trial.split

    def spy(rows, share, rng):
        train, holdout = real(rows, share, rng)
        seen[len(seen)] = holdout
        return train, holdout

    monkeypatch.setattr(rank_trial, "split", spy)
    settings = SweepSettings("cartpole", "random", 8, (2, 3), 2, 1, 0.2, 0)
    data = collect_regime(envs.get("cartpole"), "random", 8, 0)
    errors = [run_trial(cell, data, tmp_path).value("holdout_mse") for cell in settings.cells()]
    assert len(set(errors)) == 4
    np.testing.assert_array_equal(seen[0], seen[1])  # ranks 2 and 3 of repeat 0
    assert set(seen[0].tolist()) != set(seen[2].tolist())
