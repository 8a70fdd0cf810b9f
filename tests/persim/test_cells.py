"""Cells: their ids are made of what their numbers depend on, and of nothing else; requests label them."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from baselines.cadm import CaDM, PerSimUnderCaDM
from baselines.model_free.augmented import Augmented
from baselines.model_free.method import ModelFree
from baselines.morel.method import Morel
from baselines.registry import METHODS, make_method
from persim.envs import get
from persim.errors import InputError
from persim.methods import Options, PerSim, TrueEnv, UnseenAgents
from persim.methods.holdout import holdouts
from persim.methods.job import HOLDOUT, Job, predictions, rewards
from persim.storage import store
from persim.storage.cells import Cell, CellStore, FinishedCell, Request, row

ENVS = ("mountaincar", "halfcheetah")


def cells(methods, env, agents=500):
    """Cells of all that is measured of these methods."""
    spec, found = get(env), {}
    for name, method in methods.items():
        for measure in (rewards(20), predictions(spec)):
            if measure["what"] == "reward" or method.predicts:
                found[name, measure["what"]] = Job.of(method, env, "random", agents, 3, measure).cell.id
    return found


def variants(value):
    """Other values of a setting that its class takes, at least one of which has to do."""
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return [3]
    if isinstance(value, int | float):
        return [value * 2, value + 1, value / 2, max(1, value - 1) if isinstance(value, int) else value / 3]
    if isinstance(value, tuple):
        return [(*value[:-1], 2 * value[-1]), (*value[:-1], value[-1] / 2), (*value, 8)] if value else [(8,)]
    return ["random_shooting", "cem", "mppi", "icem", "0.80", "percentile", "bfloat16"]


def changed(settings, path=()):
    """The settings with each field changed in turn, also the fields of settings within them, by dotted name."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            for name, other in changed(value, (*path, field.name)):
                try:
                    yield name, replace(settings, **{field.name: other})
                except InputError:
                    continue
            continue
        for other in variants(value):
            try:
                made = replace(settings, **{field.name: other})
            except (InputError, TypeError):
                continue
            if other != value:
                yield ".".join((*path, field.name)), made
                break


# What builds a method from its settings, for every kind of method.
REBUILD = {
    PerSim: lambda method, settings, spec: PerSim(settings),
    PerSimUnderCaDM: lambda method, settings, spec: PerSimUnderCaDM(settings, method.acting),
    TrueEnv: lambda method, settings, spec: TrueEnv(settings),
    UnseenAgents: lambda method, settings, spec: UnseenAgents(method.base, method.p, settings),
    ModelFree: lambda method, settings, spec: ModelFree(settings, spec, pooled=method.pooled),
    Augmented: lambda method, settings, spec: Augmented(settings, spec, method.base),
    Morel: lambda method, settings, spec: Morel(settings, spec, pooled=method.pooled),
    CaDM: lambda method, settings, spec: CaDM(settings, method.acting, spec),
}
# What no number depends on: the environment's own choices, which rank and batch_size of the settings replace.
IDLE = {"nets.rank", "nets.batch_size"}
# What is of no use to a planner on the true environment.
OF_MEMBERS = {"precision", "rollout", "penalty", "prior"}
# What CaDM's predictions do not depend on.
OF_PLANS = ("planning.", "warm_start", "progress", "mixed_episodes")


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_method_changes_its_own_ids_and_no_others(name, env):
    spec = get(env)
    methods = {other: make_method(other, spec) for other in METHODS}
    before, method, seen = cells(methods, env), methods[name], set()
    settings = [(method.settings, REBUILD[type(method)])]
    if isinstance(method, CaDM):
        settings.append((method.acting, lambda old, acting, spec: CaDM(old.settings, acting, spec)))
    for own, build in settings:
        for field, other in changed(own):
            try:
                made = build(method, other, spec)
            except InputError:  # a planner that does not fit the actions, say
                continue
            made.name = name
            after = cells({**methods, name: made}, env)
            differ = {key for key in before if before[key] != after[key]}
            assert {key[0] for key in differ} <= {name}, field
            if field in IDLE or (field in OF_MEMBERS and isinstance(method, TrueEnv)):
                assert not differ
            else:
                assert (name, "reward") in differ, field
                predicts = method.predicts and not field.startswith(OF_PLANS)
                assert ((name, "prediction") in differ) == predicts, field
            seen.add(field)
    assert seen


def test_adding_a_method_or_changing_its_budget_changes_no_id(monkeypatch):
    methods = {name: make_method(name, get("cartpole")) for name in METHODS}
    before = cells(methods, "cartpole")
    monkeypatch.setitem(METHODS, "ours", METHODS["cql-a"])
    from baselines.morel import settings

    monkeypatch.setitem(settings.BUDGETS, "paper", {**settings.PAPER_MOREL, "ppo_steps": 1_000_001})
    after = cells({name: make_method(name, get("cartpole")) for name in METHODS}, "cartpole")
    differ = {key[0] for key in before if before[key] != after[key]}
    assert differ == {"morel-p", "morel-a"}


def test_presets_that_mean_the_same_give_the_same_cell():
    spec = get("cartpole")
    paper, laptop = (make_method("persim", spec, Options(preset)) for preset in ("paper", "laptop"))
    assert cells({"persim": paper}, "cartpole") == cells({"persim": laptop}, "cartpole")
    assert cells({"persim": paper}, "cartpole") != cells(
        {"persim": make_method("persim", spec, Options("quick"))}, "cartpole"
    )


def test_what_is_measured_and_how_is_part_of_the_id():
    spec, method = get("mountaincar"), make_method("persim", get("mountaincar"))
    measures = [
        rewards(20), rewards(5), rewards(20, agents=[0, 2]), rewards(20, unseen=[[0.002]]), predictions(spec),
        predictions(spec, [[0.002]]), holdouts(0.2, 0), holdouts(0.2, 1), holdouts(0.1, 0),
        holdouts(0.2, 0, predictions(spec)),
    ]  # fmt: skip
    ids = {Job.of(method, "mountaincar", "random", 500, 0, measure).cell.id for measure in measures}
    assert len(ids) == len(measures)
    jobs = [
        Job.of(method, "mountaincar", *key, rewards(20))
        for key in (("pure", 500, 0), ("random", 25, 0), ("random", 500, 1))
    ]
    assert len({job.cell.id for job in jobs} | ids) == len(measures) + 3
    assert all("planning" not in Job.of(method, "mountaincar", "random", 500, 0, m).cell.settings
               for m in measures if m["what"] in ("prediction", HOLDOUT))  # fmt: skip


def test_weights_are_named_by_data_and_learning_alone():
    spec, method = get("cartpole"), make_method("persim", get("cartpole"))
    other = make_method("persim", spec, Options(planner="persistent_shooting"))
    jobs = [
        Job.of(m, "cartpole", "random", 50, 0, how) for m in (method, other) for how in (rewards(5), predictions(spec))
    ]
    assert len({job.weights_name for job in jobs}) == 1
    assert len({job.cell.id for job in jobs}) == 3  # the planner does not enter a prediction
    ranked = Job.of(make_method("persim", spec, Options(rank=4)), "cartpole", "random", 50, 0, rewards(5))
    assert ranked.weights_name != jobs[0].weights_name
    for name in ("persim-paper", "persim-cadm"):  # methods of one model under several planners
        made = make_method(name, spec)
        found = [Job.of(made, "cartpole", "random", 50, 0, how) for how in (rewards(5), predictions(spec))]
        assert {job.weights_name for job in found} == {jobs[0].weights_name}
        assert not {job.cell.id for job in found} & {job.cell.id for job in jobs}
    for name in ("persim-bcq-5", "persim-p50"):
        assert (
            Job.of(make_method(name, spec), "cartpole", "random", 50, 0, rewards(5)).base.weights_name
            == jobs[0].weights_name
        )


def done_of(cell):
    return FinishedCell(cell, [row("reward", np.inf, 1)], {"loss": [[1, 2.0]]}, "c", {"train": 1.0}, 1, 2, "models/x")


CELL = Cell("cartpole", "random", 6, "persim", 0, {"rank": 5}, {"what": "reward", "episodes": 1})


def test_a_finished_cell_is_read_back(tmp_path):
    cells = CellStore(tmp_path)
    assert cells.finished(CELL) is None
    cells.finish(done_of(CELL))
    assert cells.finished(CELL) == done_of(CELL)
    assert cells.finished_ids() == {CELL.id}
    assert cells.finished(CELL).value("reward", 1) == np.inf


def test_a_record_under_a_wrong_name_or_of_another_form_is_refused(tmp_path):
    cells = CellStore(tmp_path)
    cells.finish(done_of(CELL))
    path = cells.record_path(CELL.id)
    other = replace(CELL, seed=1)
    path.rename(cells.record_path(other.id))
    with pytest.raises(InputError, match="not the one of its name"):
        cells.finished(other)
    store.write_record(path, "cell", {"cell": {"suite": "reward"}})
    with pytest.raises(InputError, match="of another version"):
        cells.finished(CELL)


def test_requests_label_cells_and_a_sweep_keeps_its_name(tmp_path):
    cells = CellStore(tmp_path)
    cells.ask(Request("reward", "paper", ("a", "b")))
    cells.ask(Request("scarcity", "laptop", ("b",)))
    cells.ask(Request("reward", "paper", ("a", "b")))
    assert cells.labels() == {"a": {"reward": "paper"}, "b": {"reward": "paper", "scarcity": "laptop"}}
    sweep = Request("tune", "", ("a",), "a study", {"seed": 1})
    cells.ask(sweep)
    cells.ask(replace(sweep, cells=("a", "c")))
    assert [request.cells for request in cells.requests() if request.suite == "tune"] == [("a", "c")]


def test_a_store_of_version_0_1_is_named_and_left_alone(tmp_path, caplog):
    cells = CellStore(tmp_path)
    cells.ask(Request("reward", "paper", ("a",)))
    assert caplog.messages == []
    (tmp_path / "cells" / "reward").mkdir(parents=True)
    (tmp_path / "cells" / "reward" / "0123456789ab.json").write_text("{}")
    cells.ask(Request("reward", "paper", ("a",)))
    assert len(caplog.messages) == 1
    assert "has cells of version 0.1 (1): its datasets are used" in caplog.messages[0]
    assert cells.finished_ids() == set()
