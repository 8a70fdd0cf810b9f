"""``python -m persim``: what it prints, and one line for what a user can mend."""

import os

import pytest

from persim import console
from persim.cli import main
from persim.data.policies import GreedyQPolicy, weights_path
from persim.data.train_policies import mean_reward
from persim.envs import get
from persim.evaluation.paper import prediction_error

SMALL = ["predict", "--env", "cartpole", "--agents", "8", "--epochs", "2", "--members", "2"]


def run(arguments, capsys):
    try:
        code = console.run(main, arguments)
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def table(output):
    return [line for line in output.splitlines() if "force=" in line]


def test_predict_prints_ours_beside_the_papers(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    code, output, _ = run([*SMALL, "--save-model", str(path)], capsys)
    assert code == 0
    assert "trained 4 models of rank 5" in output
    assert "kept the 2 of lowest training loss" in output
    for agent, line in enumerate(table(output)):
        assert f"{prediction_error('cartpole', 'random')[agent].rmse:.4f}" in line
    code, again, _ = run([*SMALL, "--model", str(path)], capsys)
    assert code == 0
    assert "trained" not in again
    assert table(again) == table(output)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predict", "--env", "mountaincr"], "did you mean 'mountaincar'"),
        ([*SMALL, "--members", "0"], "members is 0"),
        ([*SMALL, "--candidates", "1"], "fewer than the 2 members"),
        ([*SMALL, "--rank", "0"], "rank is 0"),
        ([*SMALL, "--agents", "4"], "5 test agents"),
        ([*SMALL, "--regime", "pure"], "behaviour policies"),
        ([*SMALL, "--device", "gpu"], "use one of: cpu, cuda"),
        ([*SMALL, "--average-last", "-1"], "average_last is -1"),
        ([*SMALL, "--model", "absent.safetensors"], "cannot be read"),
        ([*SMALL, "--model", str(weights_path("cartpole"))], "holds 'policy', but 'model' is wanted"),
        ([*SMALL, "--save-model", "/proc/x/model.safetensors"], "cannot be written"),
        (["train-policies", "--env", "halfcheetah"], "use one of: mountaincar, cartpole"),
        ([], "required: COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(arguments, capsys)
    assert code == 2
    assert expected in errors
    assert errors.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_model_of_another_environment_is_refused(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    run([*SMALL, "--save-model", str(path)], capsys)
    code, _, errors = run(["predict", "--env", "mountaincar", "--model", str(path)], capsys)
    assert code == 2
    assert "is for 'cartpole', not 'mountaincar'" in errors


@pytest.mark.parametrize("command", [["--help"], ["predict", "--help"], ["train-policies", "--help"]])
def test_help_explains(command, capsys):
    code, output, _ = run(command, capsys)
    assert code == 0
    assert "usage" in output


@pytest.mark.slow
def test_train_policies_makes_the_shipped_policy_again(capsys, tmp_path):
    path = tmp_path / "policy.safetensors"
    code, output, _ = run(["train-policies", "--env", "cartpole", "--out", str(path)], capsys)
    assert code == 0
    assert "mean reward" in output
    spec = get("cartpole")
    assert mean_reward(spec, GreedyQPolicy.load(path)[0], spec.default_agent, 1) == pytest.approx(150, rel=0.1)
