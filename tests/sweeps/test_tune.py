"""Tuning: what is measured, what is suggested and stopped, and the command end to end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from mlflow import MlflowClient

from persim import console
from persim.envs import get
from persim.learning.model import LowRankDynamics
from persim.learning.presets import preset
from persim.methods import Options, PerSimSettings
from persim.methods.holdout import holdout_shares, run_trial, stopped
from persim.methods.tuned import tuned_settings
from persim.storage.cells import CellStore, FinishedCell, row
from sweeps import tune
from sweeps.tuning.search import Asha, SeededTPE, search
from sweeps.tuning.study import Entry, Journal
from tests.sweeps.test_tune_space import SMALL, SPACE, study

SCRIPT = Path(tune.__file__)


def test_the_holdout_error_has_no_units(cartpole_data):
    """A model that predicts the mean leaves all of the variance, on raw data and on normalised ones."""
    rows = np.arange(len(cartpole_data))
    mean = torch.from_numpy(cartpole_data.delta.mean(0))
    for normalised in (False, True):
        shape = preset("cartpole").shape(cartpole_data, 4, 1)
        model = LowRankDynamics(
            type(shape)(**{**shape.__dict__, "normalised": normalised}), [np.random.SeedSequence(0)]
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            if normalised:
                model.fit_scales(torch.tensor(cartpole_data.observation), torch.tensor(cartpole_data.delta))
            else:  # u = w = 1, v[d, 0] = mean of dimension d
                model.agent_layer[0, :, -1] = 1
                model.action_layers[-1][0, :, -1] = 1
                model.state_layers[-1].view(4, 4, -1)[:, 0, -1] = mean
        np.testing.assert_allclose(holdout_shares(model, cartpole_data, rows), [1], rtol=1e-4)


def test_rungs_are_powers_of_three_of_the_grace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = study()
    assert settings.grace == 1
    assert settings.rungs(27) == [1, 3, 9]
    assert settings.rungs(28) == [1, 3, 9, 27]
    assert settings.rungs(1) == []


def test_a_diverging_trial_is_finished_with_an_infinite_error(cartpole_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = study(["--env", "cartpole", "--agents", "12", "--epochs", "3"], "")
    reports, cells = [], CellStore(tmp_path)
    job = settings.job({"learning_rate": 0.001, "epochs": 3})
    healthy = run_trial(job, cartpole_data, cells, reports.append, settings.rungs(3))
    assert np.isfinite(settings.value(healthy))
    assert [(report.epoch, report.rung_error is not None) for report in reports] == [(1, True), (2, False), (3, False)]

    def explode(*_, **__):
        from persim.learning.training import DivergenceError

        raise DivergenceError("non-finite")

    monkeypatch.setattr("persim.methods.holdout.train", explode)
    other = settings.job({"learning_rate": 0.9, "epochs": 3})
    assert settings.value(run_trial(other, cartpole_data, cells, reports.append)) == np.inf
    assert run_trial(job, cartpole_data, cells, reports.append) == healthy


REWARD = [*SMALL, "--objective", "reward", "--members", "1", "--episodes", "1"]
QUICK = "rank: [3, 5]\nplanner: random_shooting\nplans: 10\nhorizon: 5\n"


def test_a_reward_trial_plans_for_every_test_agent(cartpole_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = study([*REWARD, "--agents", "12"], QUICK)
    values = settings.space.decode({"rank": "5"})
    done = run_trial(settings.job(values), cartpole_data, CellStore(tmp_path), lambda _: None)
    rewards = [done.value("reward", agent) for agent in range(1, 6)]
    assert settings.value(done) == pytest.approx(np.mean(rewards))
    assert all(1 <= reward <= 200 for reward in rewards)
    assert done.cell.settings["planning"]["settings"] == {"plans": 10, "horizon": 5}
    assert done.cell.settings["size"] == {"members": 1, "candidates": 3}


def test_optuna_is_told_what_an_earlier_run_has_found(tmp_path, monkeypatch):
    """A stopped trial has an error, but no reward; an interrupted one is suggested again, first."""
    monkeypatch.chdir(tmp_path)
    for arguments, state in ((SMALL, "COMPLETE"), (REWARD, "PRUNED")):
        settings, cells = study(arguments, QUICK), CellStore(tmp_path)
        journal = Journal(settings, cells)
        values = [settings.space.decode({"rank": label}) for label in ("3", "5")]
        journal.entries = [Entry(values[0], [(1, 0.5)], stopped_at=1), Entry(values[1])]
        cell = stopped(settings.job(values[0]), 1).cell
        cells.finish(FinishedCell(cell, [row("holdout_share", 0.5)], {}, "abc", {}, 0, 0))
        searching = search(settings, journal, values[0])
        assert [trial.state.name for trial in searching._ot_study.trials] == [state, "WAITING"]
        assert searching.suggest("next") == {"rank": "5"}
        searching.on_trial_result("next", {"epoch": 1})  # without a value: nothing happens
        searching.on_trial_complete("next", {"epoch": 27, "value": 7.0})
        assert searching._ot_study.trials[1].value == 7.0


def suggestions(seed, count, known=()):
    """Suggestions for a known objective, after those that an earlier run has had."""
    line = optuna.distributions.FloatDistribution(0, 1)
    done = optuna.create_study(sampler=SeededTPE(seed))
    for x in known:
        done.add_trial(optuna.trial.create_trial(value=(x - 0.3) ** 2, params={"x": x}, distributions={"x": line}))
    for _ in range(count):
        trial = done.ask({"x": line})
        done.tell(trial, (trial.params["x"] - 0.3) ** 2)
    return [trial.params["x"] for trial in done.trials]


def test_suggestions_depend_on_the_seed_and_go_on_after_a_break():
    whole = suggestions(0, 30)
    assert len(set(whole)) == 30
    assert suggestions(0, 30) == whole
    assert suggestions(1, 30) != whole
    assert suggestions(0, 16, known=whole[:14]) == whole
    assert abs(np.median(whole[20:]) - 0.3) < abs(np.median(whole[:10]) - 0.3)  # and TPE learns


class Trial:
    def __init__(self, trial_id):
        self.trial_id = trial_id


def test_asha_stops_what_was_worse_than_a_third_of_the_trials_before():
    asha = Asha(time_attr="epoch", metric="rung_error", mode="min", max_t=100, grace_period=1, reduction_factor=3)
    for name, error in enumerate((1.0, 2.0, 3.0, 4.0)):
        asha.replay(str(name), [(1, error)])
    decisions = {}
    for name, error in (("good", 1.5), ("bad", 3.5)):
        asha.on_trial_add(None, Trial(name))
        decisions[name] = asha.on_trial_result(None, Trial(name), {"epoch": 1, "rung_error": error})
    assert decisions == {"good": "CONTINUE", "bad": "STOP"}
    assert asha.stopped == {"bad"}


def test_the_journal_is_read_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, cells = study(), CellStore(tmp_path / "runs")
    journal = Journal(settings, cells)
    journal.entries = [Entry({"rank": 3, "state_widths": [64]}, [(1, 0.5)], 1), Entry({"rank": 5})]
    journal.write()
    assert Journal(settings, cells).entries == journal.entries
    (request,) = cells.requests()
    assert request.cells == tuple(journal.job(entry).cell.id for entry in journal.entries)
    assert journal.finished() == []


def start(folder, trials):
    folder.mkdir(exist_ok=True)
    (folder / "space.yaml").write_text(SPACE)
    command = [sys.executable, str(SCRIPT), *SMALL, "--trials", str(trials)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return output, errors


def results(folder):
    """What every trial gave, in order, without timings."""
    path = next((folder / "runs" / "studies").glob("*.json"))
    trials = json.loads(path.read_text())["record"]["trials"]
    cells = [json.loads(p.read_text())["record"] for p in sorted((folder / "runs" / "cells").glob("*.json"))]
    return trials, [(cell["cell"], cell["rows"], cell["curves"]) for cell in cells]


@pytest.mark.ray
def test_the_command_tunes_and_the_same_command_does_what_is_missing(tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    both = start(whole, 6), start(parts, 2)
    output, _ = ended(both[0])
    ended(both[1])
    trials, cells = results(whole)
    assert len(trials) == 6
    assert trials[0]["values"]["learning_rate"] == 0.001  # the environment's own settings come first
    assert "6 trials" in output
    table = re.findall(r"^ +(\d) +(\S+) .*$", output, re.MULTILINE)
    assert [float(error) for _, error in table] == sorted(float(error) for _, error in table)
    stopped = sum(trial["stopped_at"] is not None for trial in trials)
    assert len(table) == 6 - stopped
    assert sum("rung_error" in curves for *_, curves in cells) == stopped
    winner = trials[int(table[0][0]) - 1]["values"]
    found = tuned_settings("tuned", whole / "runs", "cartpole", "random", 20)
    best = PerSimSettings.chosen(get("cartpole"), Options(tuned=found))
    assert (best.rank, best.nets.normalised) == (winner["rank"], winner["normalised"])
    assert (best.train.learning_rate, best.train.epochs) == (winner["learning_rate"], 27)
    assert not list((whole / "runs" / "checkpoints").glob("*"))
    client = MlflowClient(tracking_uri=f"sqlite:///{whole}/runs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tune").experiment_id])
    assert len(runs) == 7
    assert {run.info.status for run in runs} == {"FINISHED"}

    before = results(parts)
    again, errors = ended(start(parts, 6))
    assert "2 of 6 trials are finished already" in errors
    assert results(parts)[0][:2] == before[0]
    assert results(parts) == (trials, cells)

    monkeypatch.chdir(parts)
    assert console.run(tune.main, [*SMALL, "--trials", "6"]) == 0
    nothing = capsys.readouterr()
    assert "6 of 6 trials are finished already" in nothing.err
    assert "tuning" not in nothing.err  # no bar: Ray was not even started
    assert results(parts) == (trials, cells)
    rows = [[line for line in text.splitlines() if "e-" in line] for text in (again, nothing.out)]
    assert rows[0] == rows[1]
