"""MLflow mirrors the store: every finished cell once, nothing lost, never in the way of the sweep."""

import os
import time
import uuid

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from persim.errors import InputError
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.storage.cells import CellStore
from persim.storage.store import store_path
from sweeps.tracking import mirror as mirror_module
from sweeps.tracking import runs as mlflow_runs
from sweeps.tracking.mirror import default_uri
from tests.sweeps.mlflow_helpers import SETTINGS, database, grid, history, mirror, reward, runs, sweep, trial


@pytest.fixture
def uri(tmp_path):
    return database(tmp_path)


def simulator(path, members=1, discrete=True):
    shape = ModelSettings(n_agents=7, state_dim=3, action_dim=2, discrete=discrete, rank=2, members=members)
    model = LowRankDynamics(shape, np.random.SeedSequence(0).spawn(members))
    model.save(path)
    return model


def splits(children):
    return sorted(child.data.params["split"] for child in children)


def test_a_cell_becomes_one_run_with_everything(uri, tmp_path):
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"png")
    first = mirror(uri, tmp_path)
    request = sweep(tmp_path, trial())
    first.end(request, {"by_rank/holdout_error": [(3, 2.0), (5, 1.5)]}, {"persim.chosen_rank": "5"}, [plot])
    assert first.close() == 0
    again = mirror(uri, tmp_path)
    request = sweep(tmp_path, trial(), trial(1))
    again.end(request, {"by_rank/holdout_error": [(3, 2.0), (5, 1.25)]})
    assert again.close() == 0

    client, parents, children = runs(uri)
    assert len(parents) == 1
    assert (parents[0].info.status, parents[0].info.run_name) == ("FINISHED", "cartpole random")
    assert parents[0].data.params == SETTINGS
    assert parents[0].data.tags["persim.chosen_rank"] == "5"
    assert sorted(child.info.run_name for child in children) == ["rank  5, repeat 1", "rank  5, repeat 2"]
    run = next(child for child in children if child.data.params["split"] == "0")
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (1000, 5000)
    assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert run.data.tags["mlflow.source.name"] == "sweeps/rank_cv.py"
    wanted = {"rank": "5", "commit": "abc", "agents": "500", "method": "persim", "method_title": "PerSim", "seed": "0"}
    wanted |= {"learning_rate": "0.001", "state_widths": "[256]", "what": "holdout", "measure.then.what": "prediction"}
    assert wanted.items() <= run.data.params.items()
    assert run.data.metrics["holdout_error"] == 1.5
    assert run.data.metrics["prediction_rmse/agent_2"] == pytest.approx(0.2)
    assert run.data.metrics["prediction_rmse/mean"] == pytest.approx(0.3)
    assert len(history(client, run, "curve/train_mse")) == 1300
    # What has not changed is not said again; what has changed shows its newest value.
    assert history(client, parents[0], "by_rank/holdout_error") == [(3, 2.0), (5, 1.5), (5, 1.25)]
    assert parents[0].data.metrics["by_rank/holdout_error"] == 1.25
    assert [file.path for file in client.list_artifacts(parents[0].info.run_id)] == ["plot.png"]


def test_parents_end_as_their_requests_did_and_the_one_left_open_was_killed(uri, tmp_path):
    first = mirror(uri, tmp_path)
    first.end(sweep(tmp_path, trial(0), settings={"n": 0}))
    first.end(sweep(tmp_path, trial(1), settings={"n": 1}), status="FAILED")
    sweep(tmp_path, trial(2), settings={"n": 2})
    first.end(grid(tmp_path, reward("cadm"), reward("bcq-p")))
    grid(tmp_path, reward("cql-a"), suite="whole")  # of a command that had no MLflow
    grid(tmp_path, reward("bcq-a"), suite="part", more=[reward("cadm-pets")])
    assert first.close() == 0
    _, parents, children = runs(uri)
    status = {run.data.params["n"]: run.info.status for run in parents}
    assert status == {"0": "FINISHED", "1": "FAILED", "2": "KILLED"}
    names = {run.info.run_id: run.data.params["n"] for run in parents}
    for child in children:
        assert child.data.params["split"] == names[child.data.tags["mlflow.parentRunId"]]
    found = {suite: runs(uri, suite)[1] for suite in ("reward", "whole", "part")}
    assert sorted(run.info.run_name for run in found["reward"]) == ["CartPole BCQ-P", "CartPole Vanilla CaDM"]
    assert {run.info.status for run in found["reward"] + found["whole"]} == {"FINISHED"}
    assert [run.info.status for run in found["part"]] == ["KILLED"]


def test_a_failed_cell_says_why_and_its_retry_takes_its_place(uri, tmp_path):
    first, done = mirror(uri, tmp_path), reward(commit="new")
    request = grid(tmp_path, more=[done])
    for _ in range(2):
        first.fail(request, done.cell, "loss is not finite")
    first.end(request, status="FAILED")
    assert first.close() == 0
    (run,) = runs(uri, "reward")[2]
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("FAILED", "loss is not finite")
    assert [parent.info.status for parent in runs(uri, "reward")[1]] == ["FAILED"]
    again = mirror(uri, tmp_path)
    grid(tmp_path, done)
    again.fail(request, done.cell, "too late")
    again.end(request)
    assert again.close() == 0
    (run,) = runs(uri, "reward")[2]
    assert (run.info.status, run.data.params["commit"]) == ("FINISHED", "new")
    assert [parent.info.status for parent in runs(uri, "reward")[1]] == ["FINISHED"]


@pytest.mark.parametrize("discrete", [True, False])
def test_the_simulator_loads_from_mlflow_and_predicts(uri, tmp_path, discrete, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = simulator(tmp_path / "models" / "m.safetensors", 4, discrete)
    grid(tmp_path, reward(model="models/m.safetensors"))
    assert mirror(uri, tmp_path).close() == 0

    rng = np.random.default_rng(0)
    agents, states = rng.integers(7, size=20), rng.normal(size=(20, 3)).astype(np.float32)
    actions = rng.integers(2, size=20) if discrete else rng.uniform(-1, 1, (20, 2)).astype(np.float32)
    rows = pd.DataFrame({"agent": agents, **{f"state_{i}": states[:, i] for i in range(3)}})
    rows = rows.assign(**({"action": actions} if discrete else {f"action_{i}": actions[:, i] for i in range(2)}))
    (run,) = runs(uri, "reward")[2]
    (output,) = run.outputs.model_outputs
    mlflow.set_tracking_uri(uri)
    try:
        for name in (f"models:/{output.model_id}", f"runs:/{run.info.run_id}/simulator"):
            loaded = mlflow.pyfunc.load_model(name)
            predicted = loaded.predict(rows)
            expected = model(*(torch.from_numpy(column) for column in (agents, states, actions))).mean(0)
            assert list(predicted) == ["next_state_0", "next_state_1", "next_state_2"]
            np.testing.assert_allclose(predicted.to_numpy(), expected.detach().numpy(), rtol=1e-6)
            with pytest.raises(InputError, match="agent"):
                loaded.predict(rows.assign(agent=7))
    finally:
        mlflow.set_tracking_uri(None)
    assert not [*tmp_path.rglob("*.pkl")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cells", "mlartifacts", "mlflow.db", "models", "requests",
    ]  # fmt: skip


def test_what_mlflow_refuses_is_reported_once_and_holds_up_nothing_else(uri, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(mirror_module, "SYNC_SECONDS", 0.01)
    simulator(tmp_path / "good.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    request = grid(tmp_path, reward(model="bad.safetensors"), reward("persim", 50, model="good.safetensors"))
    (tmp_path / "requests" / "x.json").write_text("{")
    first = mirror(uri, tmp_path)
    first.end(request, files=[tmp_path / "absent.png"])
    while len(first._lacking) != 1 or not first._synced:
        time.sleep(0.01)
    assert first.close() == 1
    assert caplog.text.count("does not take a result") == 3  # the simulator, the request, the plot
    (run,) = runs(uri, "reward")[2]  # no empty run of the other
    assert run.data.params["agents"] == "50"
    assert [parent.info.status for parent in runs(uri, "reward")[1]] == ["FINISHED"]
    simulator(tmp_path / "bad.safetensors")
    assert mirror(uri, tmp_path).close() == 0
    assert sorted(child.data.params["agents"] for child in runs(uri, "reward")[2]) == ["25", "50"]


def test_a_break_in_the_middle_of_a_run_loses_and_doubles_nothing(uri, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mirror_module, "_LAST_TRIES", (0, 0, 0))
    broken = mirror(uri, tmp_path)
    request = sweep(tmp_path, trial(0), trial(1))
    real = MlflowClient.set_terminated

    def fail(*_, **__):
        raise ConnectionError("server lost")

    monkeypatch.setattr(MlflowClient, "set_terminated", fail)
    broken.end(request)
    assert broken.close() == 2
    assert caplog.text.count("cannot be updated (server lost)") == 1
    monkeypatch.setattr(MlflowClient, "set_terminated", real)

    later = mirror(uri, tmp_path)
    later.end(request)
    assert later.close() == 0
    client, parents, children = runs(uri)
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert splits(children) == ["0", "1"]
    assert {child.info.status for child in children} == {"FINISHED"}
    for child in children:
        assert len(history(client, child, "curve/train_mse")) == 1300


def test_what_mlflow_has_is_learnt_page_by_page(uri, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_runs, "_PAGE", 2)
    request = sweep(tmp_path, *(trial(repeat, points=1) for repeat in range(5)))
    assert mirror(uri, tmp_path).close() == 0
    again = mirror(uri, tmp_path)
    found = again._runs_of(request).finished
    assert set(found) == {(request.id, cell_id) for cell_id in request.cells}
    assert again.close() == 0
    assert len(runs(uri)[2]) == 5


def test_an_answer_that_got_lost_doubles_nothing(uri, tmp_path, monkeypatch, caplog):
    simulator(tmp_path / "model.safetensors")
    lost = set()

    def lose_the_first_answer(name):
        real = getattr(MlflowClient, name)

        def call(*arguments, **named):
            answer = real(*arguments, **named)
            if name not in lost:
                lost.add(name)
                raise ConnectionError("answer lost")
            return answer

        monkeypatch.setattr(MlflowClient, name, call)

    for name in ("create_experiment", "create_run", "log_batch", "log_outputs", "set_terminated"):
        lose_the_first_answer(name)
    monkeypatch.setattr(mirror_module, "_LAST_TRIES", (0,) * 6)
    first = mirror(uri, tmp_path)
    request = grid(tmp_path, *(reward(seed=seed, model="model.safetensors") for seed in range(4)))
    first.end(request)
    assert first.close() == 0
    assert len(lost) == 5
    client, parents, children = runs(uri, "reward")
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert parents[0].data.params == {"suite": "reward", "preset": "paper", "env": "cartpole", "method": "persim"}
    assert sorted(child.data.params["seed"] for child in children) == ["0", "1", "2", "3"]
    assert {child.info.status for child in children} == {"FINISHED"}
    models = client.search_logged_models([children[0].info.experiment_id])
    assert {model.source_run_id for model in models} == {child.info.run_id for child in children}
    assert len(models) == 4


def test_cells_of_all_requests_are_sent_by_whatever_command_comes_next(uri, tmp_path):
    sweep(tmp_path, trial())
    grid(tmp_path, reward(), suite="smoke", preset="smoke")
    grid(tmp_path, reward(), reward("true-env"))
    assert mirror(uri, tmp_path, "sweeps/tune.py").close() == 0
    grid(tmp_path, reward(), reward(agents=50))  # another request for the same cell
    later = mirror(uri, tmp_path)
    assert later.close() == 0
    counts = {suite: [len(found) for found in runs(uri, suite)[1:]] for suite in ("rank_cv", "smoke", "reward")}
    assert counts == {"rank_cv": [1, 1], "smoke": [1, 1], "reward": [2, 3]}


def test_an_object_store_is_mirrored_into_a_folder_here(tmp_path, cartpole_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = store_path(f"memory://{uuid.uuid4().hex}/runs")
    (tmp_path / "runs").mkdir()
    database(tmp_path / "runs")
    simulator(root / "models" / "m.safetensors")
    cartpole_data.save(CellStore(root).dataset_path("cartpole", "random", 12, 0))
    first = mirror(None, root)
    request = grid(root, reward(agents=12, model="models/m.safetensors"), reward("true-env"))
    first.sync()
    request = grid(
        root, reward(agents=12, model="models/m.safetensors"), reward("true-env"), reward("bcq-p", agents=12)
    )
    first.end(request)
    assert first.close() == 0
    assert sorted(os.listdir(tmp_path / "runs")) == ["mlartifacts", "mlflow.db"]
    _, parents, children = runs(default_uri(root), "reward")
    assert {run.info.status for run in parents + children} == {"FINISHED"}
    assert sorted(len(run.inputs.dataset_inputs) for run in children) == [0, 1, 1]
    assert sorted(len(run.outputs.model_outputs) for run in children) == [0, 0, 1]
    assert list((tmp_path / "runs" / "mlartifacts").rglob("*.safetensors"))
    assert list(tmp_path.rglob("*memory*")) == []


def test_a_sync_costs_nothing_when_there_is_nothing_new(uri, tmp_path, monkeypatch):
    sweep(tmp_path, trial())
    first = mirror(uri, tmp_path)
    first.sync()
    asked = []
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *_, **__: asked.append("MLflow"))
    monkeypatch.setattr(mirror_module.store, "read_record", lambda *_: asked.append("record"))
    first.sync()
    assert not asked
    monkeypatch.undo()
    assert first.close() == 0


def test_a_deleted_experiment_is_one_line_and_the_others_go_on(uri, tmp_path, caplog):
    sweep(tmp_path, trial(0), trial(1))
    assert mirror(uri, tmp_path).close() == 0
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.get_experiment_by_name("rank_cv").experiment_id)
    grid(tmp_path, reward())
    assert mirror(uri, tmp_path).close() == 2
    assert caplog.text.count("mlflow experiments restore -x 1)") == 1
    assert len(runs(uri, "reward")[2]) == 1


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:9", "sqlite:////proc/nowhere/mlflow.db", "sqlite://", "nonsense://x",
     "http://me:secret@127.0.0.1:9"],
)  # fmt: skip
def test_an_unreachable_server_is_one_line_within_seconds_and_leaves_nothing(tmp_path, uri):
    started = time.monotonic()
    with pytest.raises(InputError, match=r"does not answer|a database in memory") as error:
        mirror(uri, tmp_path / "store")
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert time.monotonic() - started < 30
    assert not [*tmp_path.iterdir()]
