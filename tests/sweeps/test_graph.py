"""The task graph: order, retries, what falls with what."""

import pytest

from persim.storage.cells import Cell
from sweeps.engine.graph import ATTEMPTS, TaskGraph
from sweeps.grid.tasks import Task, missing

CELL = Cell("smoke", "cartpole", "random", 6, "persim", 0, {})


def task(key, *needs, heavy=False):
    return Task(key, "part", CELL, f"{key}.out", 0, needs, heavy)


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
    assert (g.ready(False), g.ready(True)) == (1, 1)
    assert g.take(True).key == "b"


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
