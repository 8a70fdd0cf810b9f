"""MLflow: every cell once, nothing lost when the server is, never in the way of the sweep."""

import shutil
import time
from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from persim.errors import InputError
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.storage.cells import row
from sweeps.tracking import runs as mlflow_runs
from sweeps.tracking.runs import Runs
from sweeps.tracking.tracker import DatasetNote, Extras, Group, default_uri
from tests.sweeps.mlflow_helpers import GROUP, finished_trial, runs, send, tracker


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """Making one takes MLflow seconds, copying it none."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty_database, tmp_path):
    """A database of the test's own."""
    shutil.copy(empty_database, tmp_path)
    return default_uri(tmp_path)


def test_a_cell_becomes_one_run_with_everything(uri, tmp_path):
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"png")
    first = tracker(uri, tmp_path)
    send(first, finished_trial())
    send(first, finished_trial())
    first.close_group(GROUP, {"by_rank/holdout_error": [(3, 2.0), (5, 1.5)]}, {"persim.chosen_rank": "5"}, [plot])
    assert first.close()
    again = tracker(uri, tmp_path)
    send(again, finished_trial())
    send(again, finished_trial(repeat=1))
    again.close_group(GROUP, {"by_rank/holdout_error": [(3, 2.0), (5, 1.25)]}, {}, [])
    assert again.close()

    client, parents, children = runs(uri)
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert parents[0].data.params == {"env": "cartpole", "ranks": "3,5"}
    assert parents[0].data.tags["persim.chosen_rank"] == "5"
    assert len(children) == 2
    run = next(child for child in children if child.data.params["trial"] == "0")
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (1000, 5000)
    assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert run.data.tags["mlflow.source.name"] == "sweeps/rank_cv.py"
    assert {"rank": "5", "commit": "abc", "agents": "500", "method": "PerSim"}.items() <= run.data.params.items()
    assert run.data.metrics["holdout_error"] == 1.5
    assert run.data.metrics["prediction_rmse/agent_2"] == pytest.approx(0.2)
    assert run.data.metrics["prediction_rmse/mean"] == pytest.approx(0.3)
    assert len(client.get_metric_history(run.info.run_id, "curve/train_mse")) == 1300
    history = client.get_metric_history(parents[0].info.run_id, "by_rank/holdout_error")
    # What has not changed is not said again; what has changed shows its newest value.
    assert [(point.step, point.value) for point in history] == [(3, 2.0), (5, 1.5), (5, 1.25)]
    assert parents[0].data.metrics["by_rank/holdout_error"] == 1.25
    assert [file.path for file in client.list_artifacts(parents[0].info.run_id)] == ["plot.png"]


def test_settings_are_flat_and_within_the_limits(uri, tmp_path):
    done = finished_trial()
    settings = {"planner": {"horizon": 50, "mppi": {"gamma": 0.5}}, "odd name (%)": 1, "long": "x" * 9000}
    settings |= {f"many_{i}": i for i in range(250)}
    rows = [row("reward", 2.0, 1), row("reward", float("inf"), 2), row("r2", 0.5, 1), row("r2", 1.0, 2)]
    cell = replace(done.cell, settings=settings)
    first = tracker(uri, tmp_path)
    send(first, replace(done, cell=cell, rows=rows))
    assert first.close()
    (run,) = runs(uri)[2]
    params, metrics = run.data.params, run.data.metrics
    assert (params["planner.horizon"], params["planner.mppi.gamma"]) == ("50", "0.5")
    assert params["odd name ___"] == "1"
    assert params["long"] == "x" * 500
    assert params["many_249"] == "249"
    assert metrics["r2/mean"] == 0.75
    assert metrics["reward/agent_1"] == 2.0
    assert not {"reward/agent_2", "reward/mean"} & set(metrics)  # a mean over the others would flatter


def test_groups_are_parents_and_the_one_left_open_was_killed(uri, tmp_path):
    first = tracker(uri, tmp_path)
    groups = [Group(f"group-{i}", f"title {i}", {"regime": i}) for i in range(3)]
    for index, group in enumerate(groups):
        send(first, finished_trial(repeat=index), group=group)
    first.close_group(groups[0], {}, {}, [])
    first.close_group(groups[1], {}, {}, [], status="FAILED")
    assert first.close()
    _, parents, children = runs(uri)
    by_title = {run.info.run_name: run for run in parents}
    assert {name: run.info.status for name, run in by_title.items()} == {
        "title 0": "FINISHED", "title 1": "FAILED", "title 2": "KILLED",
    }  # fmt: skip
    for index, child in enumerate(sorted(children, key=lambda run: run.data.params["trial"])):
        assert child.data.tags["mlflow.parentRunId"] == by_title[f"title {index}"].info.run_id


def test_a_failed_cell_says_why_and_its_retry_takes_its_place(uri, tmp_path):
    first = tracker(uri, tmp_path)
    for _ in range(2):
        send(first, finished_trial(rows=[], commit="old"), Extras(note="loss is not finite"), "FAILED")
    assert first.close()
    (run,) = runs(uri)[2]
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.note.content"] == "loss is not finite"
    again = tracker(uri, tmp_path)
    send(again, finished_trial(commit="new"))
    send(again, finished_trial(rows=[], commit="newer"), status="FAILED")
    assert again.close()
    (run,) = runs(uri)[2]
    assert (run.info.status, run.data.params["commit"]) == ("FINISHED", "new")


def test_the_dataset_is_an_input_of_the_run(uri, tmp_path):
    note = DatasetNote("cartpole-random-500", "0123456789abcdef" * 4, "/data/x.safetensors", {"agents": 500})
    first = tracker(uri, tmp_path)
    for repeat in range(2):
        send(first, finished_trial(repeat=repeat), Extras(dataset=note))
    assert first.close()
    for run in runs(uri)[2]:
        (entry,) = run.inputs.dataset_inputs
        assert entry.dataset.name == note.name
        assert note.digest.startswith(entry.dataset.digest)
        assert "/data/x.safetensors" in entry.dataset.source
        assert '"agents": 500' in entry.dataset.profile


@pytest.mark.parametrize("discrete", [True, False])
def test_the_simulator_loads_from_mlflow_and_predicts(uri, tmp_path, discrete, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape = ModelSettings(n_agents=7, state_dim=3, action_dim=2, discrete=discrete, rank=2, members=4)
    model = LowRankDynamics(shape, np.random.SeedSequence(0).spawn(4))
    model.save(tmp_path / "model.safetensors")
    first = tracker(uri, tmp_path)
    send(first, finished_trial(), Extras(model=tmp_path / "model.safetensors"))
    assert first.close()

    rng = np.random.default_rng(0)
    agents, states = rng.integers(7, size=20), rng.normal(size=(20, 3)).astype(np.float32)
    actions = rng.integers(2, size=20) if discrete else rng.uniform(-1, 1, (20, 2)).astype(np.float32)
    rows = pd.DataFrame({"agent": agents, **{f"state_{i}": states[:, i] for i in range(3)}})
    rows = rows.assign(**({"action": actions} if discrete else {f"action_{i}": actions[:, i] for i in range(2)}))
    (run,) = runs(uri)[2]
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
        "mlartifacts", "mlflow.db", "mlflow.db.lock", "model.safetensors",
    ]  # fmt: skip


def test_what_mlflow_refuses_holds_up_nothing_else(uri, tmp_path, caplog):
    first = tracker(uri, tmp_path)
    send(first, finished_trial(), Extras(files=(tmp_path / "absent.png",)))
    send(first, finished_trial(repeat=1))
    assert not first.close()
    assert caplog.text.count("does not take a result") == 1
    assert [run.data.params["trial"] for run in runs(uri)[2]] == ["1"]  # no empty run of the other
    later = tracker(uri, tmp_path)
    for repeat in range(2):
        send(later, finished_trial(repeat=repeat))
    assert later.close()
    children = runs(uri)[2]
    assert sorted(child.data.params["trial"] for child in children) == ["0", "1"]
    assert {child.info.status for child in children} == {"FINISHED"}


def test_a_break_in_the_middle_of_a_run_loses_and_doubles_nothing(uri, tmp_path, monkeypatch):
    broken = tracker(uri, tmp_path)
    real = broken._runs.client.set_terminated

    def fail(*_, **__):
        raise ConnectionError("server lost")

    monkeypatch.setattr(broken._runs.client, "set_terminated", fail)
    send(broken, finished_trial())
    send(broken, finished_trial(repeat=1))
    assert not broken.close()
    assert len(broken._unsent) == 3  # two cells, and the end of their parent
    monkeypatch.setattr(broken._runs.client, "set_terminated", real)

    later = tracker(uri, tmp_path)
    for repeat in range(2):
        send(later, finished_trial(repeat=repeat))
    later.close_group(GROUP, {}, {}, [])
    assert later.close()
    client, parents, children = runs(uri)
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert sorted(child.data.params["trial"] for child in children) == ["0", "1"]
    assert {child.info.status for child in children} == {"FINISHED"}
    for child in children:
        assert len(client.get_metric_history(child.info.run_id, "curve/train_mse")) == 1300


def test_what_mlflow_has_is_learnt_page_by_page(uri, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_runs, "_PAGE", 2)
    first = tracker(uri, tmp_path)
    for repeat in range(5):
        send(first, finished_trial(repeat=repeat, points=1))
    assert first.close()
    again = Runs(uri, "rank_cv", tmp_path, "here")
    assert again.finished() == {finished_trial(repeat=repeat).cell.id for repeat in range(5)}


def test_an_answer_that_got_lost_doubles_nothing(uri, tmp_path, monkeypatch):
    shape = ModelSettings(n_agents=7, state_dim=3, action_dim=2, discrete=True, rank=2)
    LowRankDynamics(shape, [np.random.SeedSequence(0)]).save(tmp_path / "model.safetensors")
    first = tracker(uri, tmp_path)
    client, lost = first._runs.client, set()

    def lose_the_first_answer(name):
        real = getattr(client, name)

        def call(*arguments, **named):
            answer = real(*arguments, **named)
            if name not in lost:
                lost.add(name)
                raise ConnectionError("answer lost")
            return answer

        monkeypatch.setattr(client, name, call)

    for name in ("create_run", "log_batch", "log_outputs", "set_terminated"):
        lose_the_first_answer(name)
    for repeat in range(4):
        send(first, finished_trial(repeat=repeat), Extras(model=tmp_path / "model.safetensors"))
    first.close_group(GROUP, {}, {}, [])
    assert first.close()
    assert len(lost) == 4
    _, parents, children = runs(uri)
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert parents[0].data.params == {"env": "cartpole", "ranks": "3,5"}
    assert sorted(child.data.params["trial"] for child in children) == ["0", "1", "2", "3"]
    assert {child.info.status for child in children} == {"FINISHED"}
    models = client.search_logged_models([children[0].info.experiment_id])
    assert {model.source_run_id for model in models} == {child.info.run_id for child in children}
    assert len(models) == 4


def test_a_deleted_experiment_is_one_line(uri, tmp_path):
    assert tracker(uri, tmp_path).close()
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.get_experiment_by_name("rank_cv").experiment_id)
    with pytest.raises(InputError, match="mlflow experiments restore -x 1"):
        tracker(uri, tmp_path)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/nowhere/mlflow.db", "nonsense://x"])
def test_an_unreachable_server_is_one_line_within_seconds(tmp_path, uri):
    started = time.monotonic()
    with pytest.raises(InputError, match="does not answer") as error:
        tracker(uri, tmp_path)
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 30
