"""``python -m persim``: what it prints, and one line for what a user can mend."""

import os

import pytest

from persim import console
from persim.cli import main
from persim.data import Trajectories, collect_regime
from persim.data.collect import population
from persim.data.policies import NetworkPolicy, weights_path
from persim.data.train_policies import mean_reward
from persim.envs import get
from persim.evaluation.paper import prediction_error
from persim.storage import store
from persim.storage.cells import KIND

SMALL = ["predict", "--env", "cartpole", "--agents", "8", "--epochs", "2", "--members", "2"]
EVALUATE = ["evaluate", *SMALL[1:]]
RENDER = ["render", *SMALL[1:]]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory, monkeypatch):
    """The default store is ``runs`` here."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))


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
    assert "ensemble is trained and kept in runs/models/cartpole-persim-" in output
    for agent, line in enumerate(table(output)):
        assert f"{prediction_error('cartpole', 'random')[agent].rmse:.4f}" in line
    code, again, _ = run([*SMALL, "--model", str(path)], capsys)
    assert code == 0
    assert "ensemble" not in again
    assert table(again) == table(output)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predict", "--env", "mountaincr"], "did you mean 'mountaincar'"),
        ([*SMALL, "--members", "0"], "members is 0"),
        ([*SMALL, "--candidates", "1"], "fewer than the 2 members"),
        ([*SMALL, "--rank", "0"], "rank is 0"),
        ([*SMALL, "--rank", "²"], "rank '²' is not a rank"),
        ([*SMALL, "--rank", "auto"], "run: python sweeps/rank_cv.py --env cartpole"),
        ([*SMALL, "--settings", "tuned"], "run: python sweeps/tune.py --env cartpole"),
        ([*SMALL, "--settings", "absent.json"], "cannot be read"),
        ([*SMALL, "--save-model", "/tmp"], "is a folder"),
        ([*SMALL, "--agents", "4"], "5 test agents"),
        ([*SMALL, "--device", "gpu"], "use one of: cpu, cuda"),
        ([*SMALL, "--average-last", "-1"], "average_last is -1"),
        ([*SMALL, "--polish", "-1"], "polish is -1"),
        ([*SMALL, "--ridge", "0"], "ridge is 0.0, but it has to be a finite number above 0"),
        ([*SMALL, "--model", "absent.safetensors"], "cannot be read"),
        ([*SMALL, "--model", str(weights_path("cartpole"))], "holds 'policy', but 'model' is wanted"),
        ([*SMALL, "--save-model", "/proc/x/model.safetensors"], "cannot be written"),
        ([*SMALL, "--covariates", "2"], "covariates '2' are not force, pole_length of cartpole; give such as 10,0.5"),
        ([*SMALL, "--covariates", "2,x"], "covariates '2,x' are not"),
        ([*SMALL, "--covariates", "2,nan"], "hold a non-finite value"),
        ([*SMALL, "--covariates", "2,0.5", "--p", "0.1"], "p is 0.1, which leaves 1 of 8 training agents"),
        ([*SMALL, "--covariates", "2,0.5", "--p", "1.5"], "p is 1.5"),
        ([*SMALL, "--p", "0.5"], "--p is of use with --covariates only"),
        ([*EVALUATE, "--covariates", "2,0.5", "--agents-to-test", "2"], "agent 2 is not among the 1 agents"),
        ([*EVALUATE, "--planner", "random_shoting"], "did you mean 'random_shooting'"),
        ([*EVALUATE, "--prior", "on"], "prior 'on' is for continuous actions"),
        ([*EVALUATE, "--rollout", "median"], "use one of: members, mean"),
        ([*EVALUATE, "--penalty", "-1"], "penalty is -1.0"),
        ([*EVALUATE, "--members", "1", "--rollout", "mean"], "needs at least 2 members, but the ensemble has 1"),
        ([*EVALUATE, "--planner", "icem"], "ICEM plans continuous actions, but these are Discrete(2)"),
        ([*EVALUATE, "--planner", "cem", "--plans", "9", "--elites", "10"], "elites is 10, more than the 9 plans"),
        ([*EVALUATE, "--elites", "5"], "random_shooting has no 'elites'"),
        ([*EVALUATE, "--horizon", "0"], "horizon is 0"),
        ([*EVALUATE, "--plans", "0"], "plans is 0"),
        ([*EVALUATE, "--episodes", "0"], "episodes is 0"),
        ([*EVALUATE, "--scorer", "truth"], "scorer 'truth' is unknown"),
        ([*EVALUATE, "--agents-to-test", "9"], "agent 9 is not among the 8 agents of the model"),
        ([*EVALUATE, "--agents-to-test", "0"], "agent 0 is not among"),
        ([*EVALUATE, "--agents-to-test", "1;2"], "no list of whole numbers"),
        ([*EVALUATE, "--seeds", "-1"], "seed is -1"),
        ([*EVALUATE, "--seeds", "1,1"], "names one twice"),
        ([*EVALUATE, "--agents-to-test", "2,2"], "names one twice"),
        ([*EVALUATE, "--model", "absent.safetensors"], "cannot be read"),
        ([*EVALUATE, "--store", "/proc/x"], "cannot be written"),
        ([*RENDER, "--policy", "tset"], "did you mean 'test'"),
        ([*RENDER, "--policy", "oracle"], "cartpole has no oracle"),
        ([*RENDER, "--agents-to-test", "6"], "agent 6 is not a test agent"),
        ([*RENDER, "--out", "/proc/x"], "cannot be written"),
        (["collect", "--env", "cartpole", "--out", "x", "--regime", "prue"], "did you mean 'pure'"),
        (["collect", "--env", "cartpole", "--out", "x", "--agents", "3"], "5 test agents"),
        (["collect", "--env", "cartpole", "--out", "/proc/x/y"], "cannot be written"),
        (["train-policies", "--env", "cartpole", "--policies", "6"], "policy '6' is unknown"),
        (["train-policies", "--env", "cartpole", "--jobs", "0"], "jobs is 0"),
        ([*SMALL, "--nets", "wide"], "cartpole has no nets 'wide'"),
        (["train-policies", "--env", "halfcheeta"], "did you mean 'halfcheetah'"),
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


def test_agents_that_were_never_observed_are_predicted_and_planned_for(capsys, tmp_path):
    whom = ["--covariates", "4,0.3", "9,0.7", "--p", "0.5"]
    path = tmp_path / "model.safetensors"
    code, output, _ = run([*SMALL, *whom, "--save-model", str(path)], capsys)
    assert code == 0
    assert [line.split()[:3] for line in table(output)] == [["1", "force=4,", "pole_length=0.3"],
                                                            ["2", "force=9,", "pole_length=0.7"]]  # fmt: skip
    _, again, _ = run([*SMALL, *whom, "--model", str(path)], capsys)
    assert table(again) == table(output)
    quick = ["--plans", "8", "--horizon", "3", "--episodes", "1", "--store", str(tmp_path / "runs")]
    code, output, errors = run([*EVALUATE, *whom, *quick, "--model", str(path)], capsys)
    assert code == 0, errors
    assert [line.split()[4] for line in table(output)] == ["-", "-"]  # the paper has other agents
    _, output, _ = run([*EVALUATE, *quick, "--model", str(path)], capsys)
    assert "already measured" not in output
    assert len(table(output)) == 5


def test_a_model_of_another_environment_is_refused(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    run([*SMALL, "--save-model", str(path)], capsys)
    code, _, errors = run(["predict", "--env", "mountaincar", "--model", str(path)], capsys)
    assert code == 2
    assert "is for 'cartpole', not 'mountaincar'" in errors


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    assert console.run(main, [*SMALL, "--store", str(path.parent / "runs"), "--save-model", str(path)]) == 0
    return path


def test_evaluate_prints_ours_beside_the_papers_and_writes_rows(capsys, tmp_path):
    arguments = [*EVALUATE, "--store", str(tmp_path), "--episodes", "2", "--plans", "20", "--seeds", "0,1"]
    code, output, _ = run(arguments, capsys)
    assert code == 0
    lines = table(output)
    assert len(lines) == 5
    assert "197.7 ± 7.8" in lines[0]
    assert "200.0 ± 0.0" in lines[0]
    cells = sorted(tmp_path.glob("cells/*.json"))
    assert len(cells) == 2
    assert len(list(tmp_path.glob("models/*.safetensors"))) == 2
    rows = store.read_record(cells[0], KIND)["rows"]
    assert {(row["metric"], row["agent"]) for row in rows} == {
        (metric, agent) for metric in ("reward", "reward_std", "length") for agent in range(1, 6)
    }
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    code, again, _ = run(arguments, capsys)
    assert (code, table(again)) == (0, lines)
    assert "already measured" in again
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_evaluate_gives_the_same_rows_again(capsys, tmp_path, small_model):
    rows = []
    for name in ("a", "b"):
        arguments = [*EVALUATE, "--model", str(small_model), "--store", str(tmp_path / name), "--episodes", "2"]
        assert run([*arguments, "--plans", "20", "--agents-to-test", "2,5"], capsys)[0] == 0
        (cell,) = (tmp_path / name).glob("cells/*.json")
        rows.append(store.read_record(cell, KIND)["rows"])
    assert rows[0] == rows[1]
    assert not list(tmp_path.glob("*/models/*"))


def test_evaluate_in_mountaincar_prints_the_oracle(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("persim.evaluation.oracle.SHAPE", (91, 53))
    arguments = ["evaluate", "--env", "mountaincar", "--scorer", "true_env", "--store", str(tmp_path)]
    code, output, _ = run([*arguments, "--plans", "40", "--episodes", "2", "--agents-to-test", "1,6"], capsys)
    assert code == 0
    assert "oracle" in output
    first, sixth = (line.split() for line in output.splitlines() if "gravity=" in line)
    assert -60 < float(first[2]) <= float(first[-1]) + 2
    assert sixth[0] == "6"
    assert len(list(tmp_path.glob("oracle/*.safetensors"))) == 2


def test_evaluate_refuses_a_model_of_another_environment_or_a_damaged_one(capsys, tmp_path, small_model):
    arguments = ["evaluate", "--env", "mountaincar", "--store", str(tmp_path / "runs"), "--model"]
    code, _, errors = run([*arguments, str(small_model)], capsys)
    assert (code, errors.count("\n")) == (2, 1)
    assert "is for 'cartpole', not 'mountaincar'" in errors
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(small_model.read_bytes()[:-100])
    code, _, errors = run([*arguments, str(damaged)], capsys)
    assert (code, errors.count("\n")) == (2, 1)
    assert "damaged" in errors
    assert not (tmp_path / "runs").exists()


def test_evaluate_tests_any_agent_of_the_model(capsys, tmp_path, small_model):
    """Agent 8 of the model's 8, whatever --agents says; its covariates are those it was trained with."""
    arguments = ["evaluate", "--env", "cartpole", "--model", str(small_model), "--store", str(tmp_path), "--plans", "9"]
    code, output, _ = run([*arguments, "--episodes", "1", "--agents-to-test", "8"], capsys)
    assert code == 0
    force, length = population(get("cartpole"), 8, 0)[7]
    assert f"force={force:g}, pole_length={length:g}" in output
    code, _, errors = run([*arguments, "--agents-to-test", "9"], capsys)
    assert code == 2
    assert "agent 9 is not among the 8 agents" in errors


@pytest.mark.parametrize("policy", ["persistent_shooting", "test", "random"])
def test_render_writes_pictures(policy, capsys, tmp_path, small_model):
    arguments = [*RENDER, "--model", str(small_model), "--store", str(tmp_path / "runs"), "--out", str(tmp_path / "p")]
    extra = ["--plans", "10"] if policy == "persistent_shooting" else []
    code, output, _ = run([*arguments, "--policy", policy, "--agents-to-test", "2", *extra], capsys)
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "cartpole-agent2.gif",
        "cartpole-prediction.png",
    ]
    assert f"of agent 2 under {policy}" in output


@pytest.mark.parametrize("command", [[], ["evaluate"], ["render"], ["predict"], ["train-policies"]])
def test_help_explains(command, capsys):
    code, output, _ = run([*command, "--help"], capsys)
    assert code == 0
    assert "usage" in output


def test_collect_saves_the_data_and_prints_table_5(capsys, tmp_path):
    path = tmp_path / "data.safetensors"
    arguments = ["collect", "--env", "cartpole", "--regime", "pure-eps-20", "--agents", "30", "--out", str(path)]
    code, output, _ = run(arguments, capsys)
    assert code == 0
    assert "157.9" in output
    data = Trajectories.load(path)
    assert data.content_hash == collect_regime(get("cartpole"), "pure-eps-20", 30, 0).content_hash
    assert f"{data.returns().mean():.1f}" in output


@pytest.mark.slow
def test_train_policies_makes_the_shipped_policy_again(capsys, tmp_path):
    code, output, _ = run(["train-policies", "--env", "cartpole", "--policies", "test", "--out", str(tmp_path)], capsys)
    assert code == 0
    assert "mean reward" in output
    spec = get("cartpole")
    assert mean_reward(
        spec, NetworkPolicy.load(tmp_path / "cartpole_test.safetensors")[0], spec.default_agent, 1
    ) == pytest.approx(150, rel=0.1)
