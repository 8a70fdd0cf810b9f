"""docs/add-a-method.md, followed to the letter: its file, its line, and a cell that it finishes."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baselines import registry
from baselines.registry import METHODS, make_method
from persim.data import collect_regime
from persim.envs import get
from persim.methods import PRESETS, Options, Part
from persim.storage.cells import CellStore
from sweeps.engine.in_process import InProcess
from sweeps.engine.scheduler import run_jobs
from sweeps.grid.suites import SUITES, Grid

GUIDE = (Path(__file__).parents[1] / "docs" / "add-a-method.md").read_text()
FILE, LINE = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
NAME = "imitation"


class Silent:
    def task(self, task, seconds):
        pass

    def cells(self, done, running, failed):
        pass


def all_ids():
    """Ids of a trial of every suite, under every preset."""
    return {
        job.cell.id
        for suite in SUITES.values()
        for preset in PRESETS
        for job in Grid(suite, suite.data, suite.methods, suite.agents[:1], 1, Options(preset), suite.seed).jobs()
    }


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The registry after the steps of the guide."""
    module = f"baselines.{NAME}"
    assert f"`baselines/{NAME}.py`" in GUIDE
    (tmp_path / f"{NAME}.py").write_text(FILE)
    found = importlib.util.spec_from_file_location(module, tmp_path / f"{NAME}.py")
    monkeypatch.setitem(sys.modules, module, importlib.util.module_from_spec(found))
    found.loader.exec_module(sys.modules[module])
    key, title = re.fullmatch(r'"(.*)": Entry\("(.*)", Imitation\.make\),\n', LINE).groups()
    monkeypatch.setitem(METHODS, key, registry.Entry(title, sys.modules[module].Imitation.make))


@pytest.mark.parametrize("env", ["cartpole", "halfcheetah"])
def test_it_keeps_the_contract(env, added):
    spec = replace(get(env), horizon=30)
    data, method = collect_regime(spec, "random", 6, 0), make_method(NAME, spec, Options("smoke"))

    def weights(order):
        parts = {number: method.fit_part(Part(number, data, spec, 5)) for number in order}
        return method.assemble([parts[number] for number in range(method.parts)])

    apart, together = weights(reversed(range(method.parts))), method.train(data, spec, 5)
    assert apart.arrays.keys() == together.arrays.keys()
    for key, array in together.arrays.items():
        np.testing.assert_array_equal(apart.arrays[key], array)
    json.dumps([method.about(), together.settings])
    policy = method.fit(data, spec, 5).policy(np.array([0, 4, 4]))
    for action in policy.act(data.observation[:3], np.random.default_rng(0)):
        assert spec.action_space.contains(action.astype(spec.action_space.dtype))
    assert method.part_seconds(spec, 6, 30) >= 0
    assert method.episode_seconds(spec) > 0


def test_it_does_what_was_done_in_the_most_similar_states(added):
    neighbours = sys.modules[f"baselines.{NAME}"].Neighbours
    arrays = {"states": np.array([[0.0], [0.1], [0.2], [5.0], [5.1]]), "actions": np.array([1, 1, 0, 2, 2])}
    acted = neighbours(arrays, 3).act(np.array([[0.05], [5.05]]), np.random.default_rng(0))
    np.testing.assert_array_equal(acted, [1, 2])
    arrays["actions"] = np.array([[1.0], [2.0], [3.0], [8.0], [9.0]])
    np.testing.assert_allclose(neighbours(arrays, 2).act(np.array([[5.05]]), np.random.default_rng(0)), [[8.5]])


def test_its_cells_are_finished_in_this_process(added, tmp_path):
    grid = Grid(SUITES["smoke"], (("cartpole", "random"),), (NAME,), (6,), 1, Options("smoke"))
    (job,), cells = grid.jobs(), CellStore(tmp_path)
    assert run_jobs([job], cells, InProcess(tmp_path), Silent()) == {}
    done = cells.finished(job.cell)
    assert done.cell.method == NAME
    assert [row["agent"] for row in done.rows if row["metric"] == "reward"] == [1, 2, 3, 4, 5]
    assert 0 < done.value("reward", 1) <= 200
    assert done.model == job.model_file
    assert (tmp_path / done.model).exists()


def test_no_other_cell_gets_another_id_by_it(request):
    before, methods = all_ids(), set(METHODS)
    request.getfixturevalue("added")
    assert set(METHODS) - methods == {NAME}
    assert all_ids() == before
