"""What a benchmark is before it runs: its cells, its budget, and how long it takes."""

from pathlib import Path

import numpy as np
import pytest

from persim.evaluation.prediction import true_rollouts
from persim.evaluation.reward import average_rewards
from persim.storage.cells import CellStore, FinishedCell, row
from sweeps import benchmark
from sweeps.engine import work
from sweeps.engine.bench_bar import CellBar
from sweeps.engine.runner import finished_cell
from sweeps.grid import estimate
from sweeps.grid.suites import covariates_of, spec_of, weights_key
from sweeps.grid.tasks import base_cell, missing, plan
from sweeps.reporting import text_tables as bench_tables


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


UNSEEN = ["--suite", "unseen", "--regimes", "random", "--trials", "1"]


def test_unseen_agents_are_part_of_the_cell_and_of_no_other():
    cells = {cell.method: cell for cell in grid_of(*UNSEEN).cells()}
    assert list(cells) == ["persim-p100", "persim-p50", "persim-p25", "persim-p10", "cadm", "cadm-pets", "bcq-p"]
    for name, cell in cells.items():
        assert spec_of(cell).test_agents == ((0.00005,), (0.00008,), (0.002,), (0.0037,), (0.004,))
        np.testing.assert_array_equal(covariates_of(cell), np.array(spec_of(cell).test_agents))
        assert cell.settings["measures"] == (["reward"] if name == "bcq-p" else ["prediction", "reward"])
    [usual] = grid_of("--suite", "reward", "--envs", "mountaincar", "--regimes", "random", "--methods", "cadm",
                      "--trials", "1").cells()  # fmt: skip
    assert "unseen" not in usual.settings
    assert weights_key(usual) == weights_key(cells["cadm"])
    assert covariates_of(usual).shape == (500, 1)


def test_cells_from_before_there_were_unseen_agents_keep_their_ids():
    [cell] = grid_of("--suite", "smoke", "--envs", "cartpole", "--methods", "true-env", "--trials", "1").cells()
    assert cell.id == "7b4a590da8c5"


def test_unseen_agents_start_from_the_weights_that_other_suites_train():
    [cell] = grid_of(*UNSEEN, "--methods", "persim-p25").cells()
    [usual] = grid_of("--suite", "prediction", "--envs", "mountaincar", "--regimes", "random", "--methods", "persim",
                      "--trials", "1").cells()  # fmt: skip
    assert weights_key(base_cell(cell)) == weights_key(usual)


def test_a_cell_of_unseen_agents_measures_those(tmp_path, monkeypatch):
    predicted, played = [], []

    def rollouts(spec, *rest):
        predicted.append(spec.test_agents)
        return true_rollouts(spec, *rest, episodes=2)

    def rewards(spec, covariates, *rest, agents, **more):
        played.append((agents[0], covariates[agents[0]].tolist()))
        return average_rewards(spec, covariates, *rest, agents=agents, **more)

    monkeypatch.setattr(work, "true_rollouts", rollouts)
    monkeypatch.setattr(work, "average_rewards", rewards)
    [cell] = grid_of(*UNSEEN, "--methods", "persim-p25", "--preset", "smoke", "--agents", "20").cells()
    cells = CellStore(tmp_path)
    planned = plan([cell], cells)
    for task in missing(planned.tasks, planned.of_cell[cell.id], tmp_path).values():
        data = work.dataset(task, cells) if task.kind == "part" else None
        work.perform(task, tmp_path, data, "cpu")
    done = finished_cell(cell, len(planned.of_cell[cell.id]), tmp_path)
    for agent in range(1, 6):
        assert done.value("prediction_rmse", agent) > 0
        assert -500 <= done.value("reward", agent) < 0
    whom = ((0.00005,), (0.00008,), (0.002,), (0.0037,), (0.004,))
    assert predicted == [whom]
    assert played == [(agent, list(row)) for agent, row in enumerate(whom)]


def test_the_paper_stands_beside_unseen_agents():
    grid = grid_of(*UNSEEN, "--methods", "persim-p50,cadm,bcq-p")
    rows = [row(metric, -1.0, agent) for metric in ("prediction_rmse", "reward") for agent in range(1, 6)]
    done = [FinishedCell(cell, rows, {}, 0, "", {}, 0, 0) for cell in grid.cells()]
    lines = [line.split() for line in bench_tables.tables(grid, done).splitlines()]
    assert ["gravity", "5e-05", "8e-05", "0.002", "0.0037", "0.004"] in lines
    assert ["the", "paper's", "0.007", "0.006", "0.000", "0.001", "0.001"] in lines
    assert "-54.0 ± 0.9" in bench_tables.tables(grid, done)
    assert ["the", "paper's", "0.378", "0.373", "0.159", "0.329", "0.339"] in lines
    assert "-97.2 ± 20.6" in bench_tables.tables(grid, done)


def test_the_paper_stands_beside_fewer_agents():
    grid = grid_of("--suite", "scarcity", "--envs", "mountaincar", "--methods", "persim", "--agents", "25,30")
    rows = [row("reward", -1.0, agent) for agent in range(1, 6)]
    text = bench_tables.tables(grid, [FinishedCell(cell, rows, {}, 0, "", {}, 0, 0) for cell in grid.cells()])
    assert text.count("the paper's") == 1  # which has no N = 30
    assert "-56.8 ± 1.8" in text


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
