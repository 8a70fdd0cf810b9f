"""What may be tuned: the space file, what it refuses, and given values in it."""

import os
from pathlib import Path

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from persim import console
from persim.envs import get
from sweeps import tune
from sweeps.tuning.space import Space, as_yaml, default_space

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
    ("learning_rate: 0.01", [0.01]),
    ("learning_rate: 1e-4", [1e-4]),  # YAML reads this as text
    ("learning_rate: {low: 1e-4, high: 1e-2, log: true}", FloatDistribution(1e-4, 1e-2, log=True)),
    ("learning_rate: {low: 0.1, high: 0.3, step: 0.1}", FloatDistribution(0.1, 0.3, step=0.1)),
    ("batch_size: [32, 64]", [32, 64]),
    ("rank: [5]", [5]),
    ("rank: {low: 2, high: 30}", IntDistribution(2, 30)),
    ("rank: {low: 2, high: 30, int: true, log: true}", IntDistribution(2, 30, log=True)),
    ("epochs: {low: 100, high: 400, step: 50}", IntDistribution(100, 400, step=50)),
    ("state_widths: 64", [[64]]),
    ("state_widths: [64, 256]", [[64], [256]]),
    ("state_widths: [[256, 256], [64]]", [[256, 256], [64]]),
    ("action_widths: [[], [64]]", [[], [64]]),
    ("normalised: [true, false]", [True, False]),
    ("planner: [cem, persistent_shooting]", ["cem", "persistent_shooting"]),
]


@pytest.mark.parametrize(("text", "expected"), DOMAINS, ids=[text for text, _ in DOMAINS])
def test_a_space_file_says_what_it_means(text, expected, tmp_path):
    space = read(text, tmp_path)
    ((name, domain),) = space.domains.items()
    if isinstance(domain, CategoricalDistribution):
        assert [values[name] for values in space.ends(name)] == expected
    else:
        assert domain == expected
    assert name in (space.fixed if isinstance(expected, list) and len(expected) == 1 else space.tuned)


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
    ("rank: {low: 1, high: 9, step: 4, log: true}", "rank has both step and log"),
    ("rank: {low: 1, high: 9, log: 3}", "has to be true or false"),
    ("rank: []", "empty list"),
    ("rank: [3, 3]", "names a value twice"),
    ("rank: true", "has to be a number"),
    ("rank: 3\nrank: [3, 5]", "rank is given twice"),
    ("normalised: [maybe]", "has to be true or false"),
    ("state_widths: [[0]]", "state_widths is 0"),
    ("state_widths: {low: 1, high: 8}", "cannot have a range"),
    ("planner: [cmm]", "planner 'cmm' is unknown (did you mean 'cem'?)"),
    ("rank: 3", "one value of everything"),
    ("epochs: [10, 20]", "--epochs 27 and the epochs of space"),
    ("- rank", "names no settings"),
    ("", "names no settings"),
    ("rank: [3", "is not valid YAML"),
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
    ("elites: [5, 10]", "random_shooting has no elites"),
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


def test_the_example_of_the_guide_can_be_read():
    space = Space.read(SCRIPT.parents[1] / "docs" / "tune-space.yaml")
    assert set(space.tuned) == {"learning_rate", "batch_size", "rank", "epochs", "state_widths"}


def test_decode_is_the_inverse_of_encode():
    space = Space.of({"rank": {"low": 1, "high": 9, "step": 4}, "state_widths": [[64, 64], [32]], "batch_size": 64})
    values = {"rank": 5, "state_widths": [64, 64], "batch_size": 64}
    assert space.encode(values) == {"rank": 5, "state_widths": "[64,64]"}
    assert space.decode(space.encode(values)) == values
    assert space.encode(values | {"rank": 4}) is None
    assert space.encode(values | {"batch_size": 65}) is None
    assert space.encode({"rank": 5}) is None
