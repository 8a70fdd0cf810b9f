"""Tuning: the space file, what is measured, what is suggested and stopped, and the command end to end."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import yaml
from mlflow import MlflowClient

from persim import console
from persim.cells import CellStore
from persim.envs import get
from persim.errors import InputError
from persim.model import LowRankDynamics
from persim.presets import preset
from sweeps import tune
from sweeps.tune_search import Asha, SeededTPE
from sweeps.tune_space import Choice, Fixed, Range, Space, as_yaml, default_space
from sweeps.tune_study import Entry, Journal, read_best, training_of
from sweeps.tune_trial import holdout_shares, run_trial

SCRIPT = Path(tune.__file__)
SMALL = ["--env", "cartpole", "--agents", "20", "--epochs", "27", "--space", "space.yaml", "--cpus", "1"]
SPACE = "learning_rate: {low: 1e-3, high: 1e-1, log: true}\nrank: [3, 5]\nnormalised: [false, true]\n"


def read(text, tmp_path):
    (tmp_path / "space.yaml").write_text(text)
    return Space.read(tmp_path / "space.yaml")


def study(arguments=SMALL, space=SPACE):
    Path("space.yaml").write_text(space)
    return tune.checked_settings(tune.parser().parse_args(arguments))


DOMAINS = [
    ("learning_rate: 0.01", Fixed(0.01)),
    ("learning_rate: 1e-4", Fixed(1e-4)),  # YAML reads this as text
    ("learning_rate: {low: 1e-4, high: 1e-2, log: true}", Range(1e-4, 1e-2, True, None, False)),
    ("batch_size: [32, 64]", Choice((32, 64))),
    ("rank: [5]", Fixed(5)),
    ("rank: {low: 2, high: 30}", Range(2, 30, False, None, True)),
    ("rank: {low: 2, high: 30, int: true, log: true}", Range(2, 30, True, None, True)),
    ("epochs: {low: 100, high: 400, step: 50}", Range(100, 400, False, 50, True)),
    ("state_widths: 64", Fixed([64])),
    ("state_widths: [64, 256]", Choice(([64], [256]))),
    ("state_widths: [[256, 256], [64]]", Choice(([256, 256], [64]))),
    ("action_widths: [[], [64]]", Choice(([], [64]))),
    ("normalised: [true, false]", Choice((True, False))),
    ("planner: [cem, persistent_shooting]", Choice(("cem", "persistent_shooting"))),
]


@pytest.mark.parametrize(("text", "expected"), DOMAINS, ids=[text for text, _ in DOMAINS])
def test_a_space_file_says_what_it_means(text, expected, tmp_path):
    (domain,) = read(text, tmp_path).domains.values()
    assert domain == expected


BAD_SPACES = [
    ("lerning_rate: 0.1", "space key 'lerning_rate' is unknown (did you mean 'learning_rate'?)"),
    ("learning_rate: {lo: 1, high: 2}", "learning_rate: key 'lo' is unknown (did you mean 'low'?)"),
    ("learning_rate: {low: 0.1, high: 0.01}", "low is 0.1 and high 0.01"),
    ("learning_rate: {low: 0.0, high: 0.01, log: true}", "strictly between 0 and 1"),
    ("learning_rate: {low: 0.1}", "needs low and high"),
    ("learning_rate: fast", "'fast', but it has to be a number"),
    ("learning_rate: 2", "strictly between 0 and 1"),
    ("learning_rate: {low: 0.1, high: 0.2, int: true}", "takes fractions"),
    ("learning_rate: {low: .nan, high: 0.2}", "has to be a number"),
    ("rank: {low: 0, high: 3}", "rank: low is 0"),
    ("rank: {low: 1.5, high: 3}", "whole number"),
    ("rank: {low: 1, high: 10, step: 4}", "steps of 4 do not lead from 1 to 10"),
    ("rank: {low: 1, high: 9, step: 4, log: true}", "step and log cannot be had together"),
    ("rank: {low: 1, high: 9, log: 3}", "has to be true or false"),
    ("rank: []", "empty list"),
    ("rank: [3, 3]", "names a value twice"),
    ("rank: true", "has to be a number"),
    ("rank: 3\nrank: [3, 5]", "rank is there twice"),
    ("normalised: [maybe]", "has to be true or false"),
    ("state_widths: [[0]]", "state_widths is 0"),
    ("state_widths: {low: 1, high: 8}", "cannot have a range"),
    ("planner: [cmm]", "planner 'cmm' is unknown (did you mean 'cem'?)"),
    ("rank: 3", "one value of everything"),
    ("epochs: [10, 20]", "--epochs 27 and the epochs of space"),
    ("- rank", "has no settings"),
    ("", "has no settings"),
    ("rank: [3", "is no YAML"),
]


def check_refused(arguments, expected, folder, capsys):
    before = sorted(os.listdir(folder))
    try:
        code = console.run(tune.main, arguments)
    except SystemExit as stop:
        code = stop.code
    errors = capsys.readouterr().err
    assert code == 2
    assert expected in errors
    assert errors.count("\n") == 1
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(("text", "expected"), BAD_SPACES, ids=[text for text, _ in BAD_SPACES])
def test_a_bad_space_is_one_line_status_2_and_nothing_left(text, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(text)
    check_refused(SMALL, expected, tmp_path, capsys)


BAD = [
    (["--env", "cartpol"], "did you mean 'cartpole'"),
    (["--env", "cartpole", "--trials", "0"], "trials is 0"),
    (["--env", "cartpole", "--epochs", "0"], "epochs is 0"),
    (["--env", "cartpole", "--agents", "4"], "agents is 4"),
    (["--env", "cartpole", "--holdout", "1"], "strictly between 0 and 1"),
    (["--env", "cartpole", "--members", "0"], "members is 0"),
    (["--env", "cartpole", "--objective", "rewrad"], "did you mean 'reward'"),
    (["--env", "cartpole", "--episodes", "3"], "--episodes counts with --objective reward"),
    (["--env", "cartpole", "--objective", "reward", "--episodes", "0"], "episodes is 0"),
    (["--env", "cartpole", "--space", "none.yaml"], "space 'none.yaml': cannot be read"),
    (["--env", "cartpole", "--tracking-uri", "http://127.0.0.1:9"], "does not answer"),
    (["--env", "cartpole", "--address", "127.0.0.1:9"], "no Ray cluster answers"),
    (["--env", "cartpole", "--store", "/proc/runs"], "cannot be written"),
    ([], "the following arguments are required: --env"),
]


@pytest.mark.parametrize(("arguments", "expected"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_options_are_one_line_status_2_and_nothing_left(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check_refused(arguments, expected, tmp_path, capsys)


BAD_PLANNING = [
    ("planner: [icem, persistent_shooting]", "plans continuous actions"),
    ("elites: [5, 10]", "persistent_shooting has no elites"),
    ("planner: cem\nplans: {low: 10, high: 100}\nelites: {low: 5, high: 20}", "elites is 20, more than the 10 plans"),
]


@pytest.mark.parametrize(("text", "expected"), BAD_PLANNING, ids=[text for text, _ in BAD_PLANNING])
def test_planners_that_cannot_be_are_refused(text, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE + text)
    check_refused([*SMALL, "--objective", "reward"], expected, tmp_path, capsys)


def test_planner_settings_are_left_out_of_the_holdout_with_a_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "planner" not in study(space=SPACE + "planner: [cem, persistent_shooting]").space.domains
    assert "planner left out" in capsys.readouterr().err


@pytest.mark.parametrize("env", ["cartpole", "mountaincar", "halfcheetah"])
@pytest.mark.parametrize("objective", ["holdout", "reward"])
def test_the_printed_space_is_the_one_that_is_searched(env, objective, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert console.run(tune.main, ["--env", env, "--objective", objective, "--print-space"]) == 0
    printed = capsys.readouterr().out
    assert os.listdir(tmp_path) == []
    space = default_space(get(env), planning=objective == "reward")
    assert yaml.safe_load(printed) == space
    assert printed == as_yaml(space)
    settings = study(["--env", env, "--objective", objective, "--space", "space.yaml"], printed)
    assert settings == study(["--env", env, "--objective", objective])
    assert settings.space.encode(tune.first_values(settings)) is not None


def test_decode_is_the_inverse_of_encode():
    space = Space.of({"rank": {"low": 1, "high": 9, "step": 4}, "state_widths": [[64, 64], [32]], "batch_size": 64})
    values = {"rank": 5, "state_widths": [64, 64], "batch_size": 64}
    assert space.encode(values) == {"rank": 5, "state_widths": "[64,64]"}
    assert space.decode(space.encode(values)) == values
    assert space.encode(values | {"rank": 4}) is None
    assert space.encode(values | {"batch_size": 65}) is None
    assert space.encode({"rank": 5}) is None


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
    reports = []
    values = {"learning_rate": 0.001, "epochs": 3}
    healthy = run_trial(settings, values, cartpole_data, tmp_path, reports.append)
    assert np.isfinite(settings.value(healthy))
    assert [(report.epoch, report.rung_error is not None) for report in reports] == [(1, True), (2, False), (3, False)]

    def explode(*_, **__):
        from persim.training import DivergenceError

        raise DivergenceError("non-finite")

    monkeypatch.setattr("sweeps.tune_trial.train", explode)
    lost = run_trial(settings, values | {"learning_rate": 0.9}, cartpole_data, tmp_path, reports.append)
    assert settings.value(lost) == np.inf
    assert run_trial(settings, values, cartpole_data, tmp_path, reports.append) == healthy


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
    assert journal.finished() == []


def test_best_settings_are_asked_for_with_the_command(tmp_path):
    with pytest.raises(InputError, match=r"python sweeps/tune\.py --env cartpole"):
        read_best(tmp_path, "cartpole", "random", 20, "holdout")


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
    cells = [json.loads(p.read_text())["record"] for p in sorted((folder / "runs" / "cells" / "tune").glob("*.json"))]
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
    best = read_best(whole / "runs", "cartpole", "random", 20, "holdout")
    winner = trials[int(table[0][0]) - 1]["values"]
    nets, training = training_of(best)
    assert (nets.rank, nets.normalised) == (winner["rank"], winner["normalised"])
    assert (training.learning_rate, training.epochs) == (winner["learning_rate"], 27)
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
