"""The scheduler: order, retries, what falls with what; and cells that are computed in this process."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from persim.errors import InputError
from persim.methods import Options
from persim.storage.cells import CellStore
from sweeps.engine.in_process import InProcess
from sweeps.engine.scheduler import ATTEMPTS, TaskGraph, run_jobs
from sweeps.grid.devices import settled
from sweeps.grid.suites import SUITES, Grid
from sweeps.grid.tasks import Task, missing, perform


def task(key, *needs, heavy=False):
    return Task(key, "part", None, (f"{key}.out",), (0,), needs, heavy)


def graph(*tasks):
    return TaskGraph({one.key: one for one in tasks})


def test_a_task_waits_for_all_that_it_needs():
    g = graph(task("a"), task("b"), task("c", "a", "b"))
    assert [g.take(False).key, g.take(False).key, g.take(False)] == ["a", "b", None]
    g.succeed("a")
    assert g.take(False) is None
    g.succeed("b")
    assert g.take(False).key == "c"
    g.succeed("c")
    assert g.unfinished == 0


def test_needs_that_are_met_already_are_not_waited_for():
    assert graph(task("c", "done before")).take(False).key == "c"


def test_kinds_have_queues_of_their_own():
    g = graph(task("a"), task("b", heavy=True))
    assert g.take(True).key == "b"
    assert g.take(True) is None
    assert g.take(False).key == "a"


def test_a_task_is_tried_three_times_then_takes_down_what_needs_it():
    g = graph(task("a"), task("b", "a"), task("c", "b"), task("other"))
    for _ in range(ATTEMPTS - 1):
        assert g.take(False).key == "a"
        assert g.fail("a", "no luck") == []
    assert g.take(False).key == "a"
    assert sorted(g.fail("a", "no luck")) == ["a", "b", "c"]
    assert g.failed == dict.fromkeys("abc", "no luck")
    assert g.take(False).key == "other"
    g.succeed("other")
    assert g.unfinished == 0


def test_what_would_fail_again_is_not_tried_again():
    g = graph(task("a"), task("b", "a"))
    assert sorted(g.fail("a", "td_loss became nan at step 7", final=True)) == ["a", "b"]
    assert g.unfinished == 0


def test_what_failed_is_not_offered_when_another_need_is_met():
    g = graph(task("a"), task("b"), task("c", "a", "b"))
    for _ in range(ATTEMPTS):
        g.fail("a", "no luck")
    g.succeed("b")
    assert g.failed.keys() == {"a", "c"}
    assert g.unfinished == 0


def test_missing_walks_back_only_as_far_as_files_are_missing(tmp_path):
    tasks = {one.key: one for one in (task("data"), task("part", "data"), task("model", "part"), task("m", "model"))}
    assert list(missing(tasks, ["m"], tmp_path)) == ["data", "part", "model", "m"]
    (tmp_path / "model.out").touch()  # then nobody asks for data or parts any more
    assert list(missing(tasks, ["m"], tmp_path)) == ["m"]
    (tmp_path / "m.out").touch()
    assert missing(tasks, ["m"], tmp_path) == {}


@pytest.mark.parametrize("heavy", [False, True])
def test_a_failed_attempt_is_next_again(heavy):
    g = graph(task("a", heavy=heavy), task("b", heavy=heavy))
    g.take(heavy)
    g.fail("a", "no luck")
    assert g.take(heavy).key == "a"


def test_the_first_cell_is_finished_before_the_second_is_begun():
    g = graph(task("a1"), task("a2", "a1"), task("b1"), task("b2", "b1"))
    order = []
    while (one := g.take(False)) is not None:
        order.append(one.key)
        g.succeed(one.key)
    assert order == ["a1", "a2", "b1", "b2"]


class Silent:
    def task(self, task, seconds): ...

    def cells(self, done, running, failed): ...


def jobs(*methods):
    return Grid(SUITES["smoke"], (("cartpole", "random"),), methods, (6,), 1, Options("smoke")).jobs()


def test_cells_are_computed_in_this_process_and_leave_nothing_else(tmp_path):
    todo, cells = jobs("persim", "true-env"), CellStore(tmp_path)
    assert run_jobs(todo, cells, InProcess(tmp_path), Silent()) == {}
    done = [cells.finished(job.cell) for job in todo]
    assert [(found.cell.method, found.cell.what) for found in done] == [
        ("persim", "prediction"), ("persim", "reward"), ("true-env", "reward"),
    ]  # fmt: skip
    assert done[1].value("reward", 5) > 0
    assert sorted(path.name for path in tmp_path.iterdir() if any(path.iterdir())) == ["cells", "datasets", "models"]


def test_on_a_gpu_all_members_are_one_task_with_the_same_weights(tmp_path, monkeypatch):
    """The pool says cuda, but a CPU does the work, one by one as it does with large batches."""
    monkeypatch.setattr("persim.methods.persim._SMALL_BATCH", 0)
    numbers = []

    def work(task, root, device):
        from sweeps.grid.tasks import perform

        numbers.append((task.kind, task.numbers))
        if task.kind == "part" and device == "cuda":
            for number, output in zip(task.numbers, task.outputs, strict=True):
                perform(replace(task, numbers=(number,), outputs=(output,)), root, "cpu")
        else:
            perform(task, root, "cpu")

    todo = jobs("persim")
    for name, device in (("one", "cpu"), ("other", "cuda")):
        assert run_jobs(todo, CellStore(tmp_path / name), InProcess(tmp_path / name, device, work), Silent()) == {}
    parts = [numbers for kind, numbers in numbers if kind == "part"]
    pieces = [numbers for kind, numbers in numbers if kind == "measure" and len(numbers) > 1]
    assert parts == [(0,), (1,), (0, 1)]
    assert pieces == [(0, 1, 2, 3, 4)]  # the episodes of all agents at once, with the same rows
    first, second = ([CellStore(tmp_path / name).finished(job.cell).rows for job in todo] for name in ("one", "other"))
    assert first == second


def test_where_gpu_memory_runs_out_half_is_done_at_a_time(tmp_path, monkeypatch, caplog):
    done, room = [], 2

    def do(some, root, device):
        if len(some.numbers) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(some.numbers)

    monkeypatch.setattr("sweeps.grid.tasks._do", do)
    five = replace(task("m"), kind="measure", numbers=tuple(range(5)), outputs=tuple("abcde"))
    perform(five, tmp_path, "cuda")
    assert done == [(0, 1), (2,), (3, 4)]
    assert [record.getMessage() for record in caplog.records] == [
        "m: too little GPU memory for 5 at once; half of them at a time",
        "m: too little GPU memory for 3 at once; half of them at a time",
    ]
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        perform(five, tmp_path, "cuda")


@pytest.mark.parametrize(
    ("found", "asked", "chosen"),
    [
        (True, "cpu", "cpu"),
        (True, "auto", "cuda"),
        (True, "cuda", "cuda"),
        (False, "auto", "cpu"),
        (False, "cpu", "cpu"),
    ],
)
def test_the_device_once_it_is_known_whether_there_is_a_gpu(found, asked, chosen):
    assert settled(asked, found) == chosen


def test_a_gpu_that_no_cluster_has_is_refused_with_what_to_do():
    with pytest.raises(InputError, match=r"no GPU in the cluster, and none comes; give --device cpu or auto, or add a"):
        settled("cuda", False, cluster=True)


def test_a_task_that_fails_takes_its_own_cells_down_only(tmp_path):
    def work(task, root, device):
        from sweeps.grid.tasks import perform

        if task.kind == "part":
            raise OSError("no space left")
        perform(task, root, device)

    todo = jobs("persim", "true-env")
    failed = run_jobs(todo, CellStore(tmp_path), InProcess(tmp_path, work=work), Silent())
    assert failed == {job.cell.id: "OSError: no space left" for job in todo if job.cell.method == "persim"}
    assert CellStore(tmp_path).finished_ids() == {job.cell.id for job in todo} - set(failed)


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "mlflow", "d3rlpy", "optuna"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
from persim import console
from sweeps import benchmark
sys.exit(console.run(benchmark.main, sys.argv[1:]))
"""


def test_in_process_needs_neither_ray_nor_mlflow_nor_d3rlpy(tmp_path):
    words = ["--suite", "smoke", "--envs", "cartpole", "--methods", "persim,true-env", "--trials", "1", "--in-process"]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "True env+MPC, our planner (1)" in done.stdout
    assert len(CellStore(tmp_path / "runs").finished_ids()) == 3
    assert not (tmp_path / "runs" / "mlflow.db").exists()
