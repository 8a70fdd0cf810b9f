"""What the runs in MLflow show: parameters within its limits, names, datasets, and the comparison of methods."""

import math

import pytest

from persim.data import Trajectories
from persim.storage.cells import CellStore, Request, row
from sweeps.tracking import entries, views
from tests.sweeps.mlflow_helpers import database, finished, grid, history, mirror, reward, runs, trial


@pytest.fixture
def uri(tmp_path):
    return database(tmp_path)


def test_settings_are_flat_and_within_the_limits(uri, tmp_path):
    cell = reward().cell
    settings = {"planner": {"horizon": 50, "mppi": {"gamma": 0.5}}, "odd name (%)": 1, "long": "x" * 9000}
    settings |= {"train": {"rate": 1}, "simulator": {"rate": 2}, "seed": 7, "commit": {"agents": 3}}
    settings |= {f"many_{i}": i for i in range(250)}
    rows = [row("reward", 2.0, 1), row("reward", float("inf"), 2), row("r2", 0.5, 1), row("r2", 1.0, 2)]
    cell = type(cell)(**{**vars(cell), "settings": settings})
    grid(tmp_path, finished(cell, rows, 20))
    assert mirror(uri, tmp_path).close() == 0
    (run,) = runs(uri, "reward")[2]
    params, metrics = run.data.params, run.data.metrics
    assert (params["horizon"], params["gamma"], params["episodes"]) == ("50", "0.5", "20")
    assert (params["train.rate"], params["simulator.rate"]) == ("1", "2")
    assert (params["seed"], params["settings.seed"], params["commit.agents"]) == ("0", "7", "3")
    assert (params["agents"], params["preset"], params["what"]) == ("25", "paper", "reward")
    assert params["odd name ___"] == "1"
    assert params["long"] == "x" * 500
    assert params["many_249"] == "249"
    assert metrics["r2/mean"] == 0.75
    assert metrics["reward/agent_1"] == 2.0
    assert not {"reward/agent_2", "reward/mean"} & set(metrics)  # a mean over the others would flatter


def test_a_run_has_the_settings_of_its_own_method_alone():
    done = {name: reward(name) for name in ("persim", "bcq-p", "true-env", "persim-bcq-5")}
    params = {name: entries.cell_params(each, {}) for name, each in done.items()}
    assert {"rank", "members", "epochs", "state_widths", "planner", "horizon"} <= params["persim"].keys()
    assert {"tau", "threshold", "updates"} <= params["bcq-p"].keys()
    assert not {"rank", "planner", "epochs"} & params["bcq-p"].keys()
    assert not {"rank", "batch_size", "learning_rate"} & params["true-env"].keys()
    assert {"settings.learning_rate", "simulator.train.learning_rate"} <= params["persim-bcq-5"].keys()


def test_a_run_says_what_computed_its_cell():
    params = entries.cell_params(reward(machine={"cpu": "A", "numpy": "2"}), {})
    assert (params["machine.cpu"], params["machine.numpy"]) == ("A", "2")
    assert not [name for name in entries.cell_params(reward(), {}) if "machine" in name]


def test_runs_are_named_by_what_tells_them_apart():
    assert views.run_name("reward", reward(agents=25, seed=3).cell) == "random, N=25, seed 3"
    assert views.run_name("reward", reward("true-env", seed=1).cell) == "seed 1"
    cell = trial(rank=5).cell
    assert views.run_name("tune", cell) == "rank 5, rate 1.0e-03"
    cell.measure["stopped_at"] = 9
    assert views.run_name("tune", cell) == "rank 5, rate 1.0e-03, stopped at 9"
    parents = [views.parent_of(Request("reward", preset, ()), reward().cell) for preset in ("paper", "quick", "")]
    assert [parent.title for parent in parents] == ["CartPole PerSim", "CartPole PerSim, quick", "CartPole PerSim"]
    assert len({parent.key for parent in parents}) == 3
    foreign = reward()
    object.__setattr__(foreign.cell, "env", "this:ATTRIBUTE")  # would print a poem if it were imported
    assert views.parent_of(Request("reward", "paper", ()), foreign.cell).title == "this:ATTRIBUTE PerSim"


def test_the_dataset_is_an_input_of_every_run_that_learnt_and_is_read_once(uri, tmp_path, cartpole_data, monkeypatch):
    done = [reward(agents=12), reward("bcq-p", agents=12), reward("true-env")]
    path = CellStore(tmp_path).dataset_path("cartpole", "random", 12, 0)
    cartpole_data.save(path)
    grid(tmp_path, *done)
    read, load = [], Trajectories.load
    monkeypatch.setattr(Trajectories, "load", lambda path: read.append(path) or load(path))
    assert mirror(uri, tmp_path).close() == 0
    assert read == [path]
    for run in runs(uri, "reward")[2]:
        if run.data.params["method"] == "true-env":
            assert not run.inputs.dataset_inputs
            continue
        (entry,) = run.inputs.dataset_inputs
        assert entry.dataset.name == "cartpole random N=12"
        assert cartpole_data.content_hash.startswith(entry.dataset.digest)
        assert str(path) in entry.dataset.source
        assert '"agents": 12' in entry.dataset.profile


def test_the_comparison_shows_each_mean_at_its_number_of_agents(uri, tmp_path, monkeypatch):
    first = mirror(uri, tmp_path)
    early = [reward("persim", 25, 0, 100.0), reward("true-env", seed=0, mean=200.0)]
    late = [reward("persim", 25, 1, 110.0), reward("persim", 50, 0, 150.0), reward("bcq-p", 50, 0, 80.0)]
    request = grid(tmp_path, *early, more=late)
    first.sync()
    grid(tmp_path, *early, *late)
    first.sync()
    first.end(request)
    assert first.close() == 0
    again = mirror(uri, tmp_path)
    grid(tmp_path, *early, *late, finished(reward("bcq-p", 25).cell, [row("reward", float("nan"), 1)], 1))
    assert again.close() == 0
    client, parents, _ = runs(uri, "reward")
    points = {run.info.run_name: history(client, run, "reward/random") for run in parents}
    assert points == {
        "CartPole PerSim": [(25, 100.0), (50, 150.0), (25, 105.0)],  # a mean is corrected when a command ends
        "CartPole True env+MPC": [(25, 200.0), (50, 200.0)],
        "CartPole BCQ-P": [(50, 80.0)],
    }


def test_a_value_that_mlflow_lacks_spoils_the_mean_and_environments_are_kept_apart():
    def run(parent, env, regime, value, what="reward", agents="25"):
        metric = {"reward": "reward/mean", "prediction": "prediction_rmse/mean"}[what]
        about = {"parent": parent, "env": env, "regime": regime, "agents": agents, "what": what}
        return about | ({metric: value} if value is not None else {})

    found = views.comparison([
        run("a", "cartpole", "random", 1.0), run("a", "cartpole", "random", 2.0), run("a", "cartpole", "pure", None),
        run("a", "cartpole", "pure", 3.0), run("a", "cartpole", "random", 0.5, "prediction", "50"),
        run("t", "cartpole", "true-env", 9.0, agents="5"), run("u", "mountaincar", "true-env", 9.0, agents="5"),
        {"parent": "s", "what": "holdout"},
    ])  # fmt: skip
    points = {parent: {name: dict(pairs) for name, pairs in metrics.items()} for parent, metrics in found.items()}
    assert math.isnan(points["a"].pop("reward/pure")[25])  # MLflow is not told
    assert points == {
        "a": {"reward/random": {25: 1.5}, "prediction_rmse/random": {50: 0.5}},
        "t": {"reward/random": {25: 9.0, 50: 9.0}, "reward/pure": {25: 9.0}},
    }


def test_the_page_to_look_at_shows_the_parents_of_the_request(uri, tmp_path):
    first = mirror(uri, tmp_path)
    request = grid(tmp_path, reward())
    assert first.close() == 0
    command, address = first.how_to_look(request).split("\n")
    assert command == f"mlflow ui --backend-store-uri {uri}"
    page = "#/experiments/1/runs?searchFilter=tags.%60persim.group%60%20%3D%20%27reward-paper%27%20and%20"
    assert f"http://127.0.0.1:5000/{page}" in address
    assert address.endswith("&compareRunsMode=CHART")
