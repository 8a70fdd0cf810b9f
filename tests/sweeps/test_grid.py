"""What a benchmark is before it runs: its cells, its budget, and how long it takes."""

from pathlib import Path

import pytest

from persim.cells import CellStore, FinishedCell, row
from sweeps import bench_tables, benchmark, estimate
from sweeps.bench_bar import CellBar


def grid_of(*arguments):
    return benchmark.grid_of(benchmark.parser().parse_args(arguments))


def test_true_environment_is_one_cell_whatever_the_regime():
    grid = grid_of("--suite", "reward", "--envs", "cartpole", "--methods", "true-env", "--trials", "2")
    assert len(grid.cells()) == 2


def test_episodes_are_part_of_the_cell_and_of_the_title():
    cartpole = ["--suite", "reward", "--envs", "cartpole", "--regimes", "random", "--methods", "cadm", "--trials", "1"]
    grid = grid_of(*cartpole, "--episodes", "3")
    [cell] = grid.cells()
    assert cell.settings["budget"]["episodes"] == 3
    done = FinishedCell(cell, [row("reward", 9.0, agent) for agent in range(1, 6)], {}, 0, "", {}, 0, 0)
    assert "(paper budget, 3 episodes of methods that plan)" in bench_tables.tables(grid, [done])
    usual = grid_of(*cartpole)
    [cell] = usual.cells()
    assert "(paper budget)" in bench_tables.tables(usual, [FinishedCell(cell, done.rows, {}, 0, "", {}, 0, 0)])


def test_seconds_are_estimated_from_the_size_of_the_work():
    def cost(*more):
        grid = grid_of("--suite", "reward", "--envs", "cartpole", *more)
        return sum(map(estimate.seconds, benchmark._tasks(grid.cells(), CellStore(Path("none"))).values()))

    once = cost("--methods", "persim", "--trials", "1")
    assert cost("--methods", "persim", "--trials", "3") == pytest.approx(3 * once)
    assert cost("--methods", "persim", "--trials", "1", "--preset", "quick") < once / 5
    for method in ("cadm", "cadm-pets"):
        assert cost("--methods", method, "--preset", "quick") < cost("--methods", method) / 5
        assert cost("--methods", method, "--episodes", "2") < cost("--methods", method)


def test_time_left_goes_from_the_estimate_to_what_was_measured():
    grid = grid_of("--suite", "prediction", "--envs", "cartpole", "--trials", "1")
    tasks = benchmark._tasks(grid.cells(), CellStore(Path("none")))
    bar = CellBar("test", tasks, 4, workers=2)
    total = sum(map(estimate.seconds, tasks.values()))
    assert bar.seconds_left(0.0) == pytest.approx(total / 2)
    for task in list(tasks.values())[:-1]:
        bar.task(task, 0.0)
    last = estimate.seconds(list(tasks.values())[-1])
    slow = bar.seconds_left(10 * total)  # ten times slower than estimated
    bar.close()
    assert 8 * last < slow < 10 * last
