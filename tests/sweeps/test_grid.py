"""What a benchmark is before it runs: its cells, its budget, and how long it takes."""

from pathlib import Path

import numpy as np
import pytest

from baselines.registry import METHODS
from persim.evaluation.prediction import true_rollouts
from persim.evaluation.reward import average_rewards
from persim.methods import PRESETS, measure
from persim.storage.cells import CellStore, FinishedCell, row
from sweeps import benchmark
from sweeps.engine.bars import CellBar
from sweeps.grid import command, estimate
from sweeps.grid.suites import SUITES
from sweeps.grid.tasks import plan
from sweeps.reporting import text_tables


def grid_of(*arguments):
    return command.grid_of(command.parser("").parse_args(arguments), Path("runs"))


def jobs_of(*arguments):
    return grid_of(*arguments).jobs()


def done_of(job, rows):
    return FinishedCell(job.cell, rows, {}, "", {}, 0, 0)


def test_true_environment_is_one_cell_whatever_the_regime():
    assert len(jobs_of("--suite", "reward", "--envs", "cartpole", "--methods", "true-env", "--trials", "2")) == 2


def test_suites_that_ask_for_the_same_share_the_cell():
    """N = 500 of the scarcity suite is the cell of the reward suite, at any preset that means the same for PerSim."""
    both = ["--envs", "cartpole", "--regimes", "pure", "--methods", "persim", "--trials", "1"]
    [reward] = jobs_of("--suite", "reward", *both)
    [scarcity] = jobs_of("--suite", "scarcity", "--agents", "500", "--preset", "laptop", *both)
    assert reward.cell == scarcity.cell
    [few] = jobs_of("--suite", "scarcity", "--agents", "25", *both)
    assert few.cell.id != reward.cell.id


def test_tasks_ask_for_a_gpu_where_it_shortens_them(tmp_path):
    def heavy(env, what):
        words = ["--suite", what, "--envs", env, "--regimes", "random", "--trials", "1", "--preset", "paper"]
        jobs = jobs_of(*words, "--methods", "persim,cadm,bcq-p,true-env" if what == "reward" else "persim,cadm")
        tasks = plan(jobs, CellStore(tmp_path), "cuda").tasks.values()
        return {(task.job.method.name, task.kind) for task in tasks if task.heavy}

    assert heavy("halfcheetah", "reward") == {
        ("persim", "part"), ("persim", "measure"), ("cadm", "part"), ("cadm", "measure"), ("bcq-p", "part"),
    }  # fmt: skip
    assert heavy("mountaincar", "reward") == {("persim", "part"), ("persim", "measure")}
    assert heavy("mountaincar", "prediction") == {("persim", "part")}  # predictions take seconds


def test_episodes_are_part_of_the_cell_and_of_the_title():
    cartpole = ["--suite", "reward", "--envs", "cartpole", "--regimes", "random", "--methods", "cadm", "--trials", "1"]
    grid = grid_of(*cartpole, "--episodes", "3")
    [job] = grid.jobs()
    assert job.cell.measure["episodes"] == 3
    rows = [row("reward", 9.0, agent) for agent in range(1, 6)]
    assert "(paper budget, 3 episodes of methods that plan)" in text_tables.tables(grid, [done_of(job, rows)])
    usual = grid_of(*cartpole)
    [job] = usual.jobs()
    assert job.cell.measure["episodes"] == 20
    assert "(paper budget)" in text_tables.tables(usual, [done_of(job, rows)])
    [policy] = jobs_of(*cartpole[:-3], "bcq-p", "--trials", "1", "--episodes", "3")
    assert policy.cell.measure["episodes"] == 100  # a policy acts at once


UNSEEN = ["--suite", "unseen", "--regimes", "random", "--trials", "1"]
WHOM = ((0.00005,), (0.00008,), (0.002,), (0.0037,), (0.004,))


def test_unseen_agents_are_part_of_the_cell_and_of_no_other():
    found = {(job.cell.method, job.cell.what): job for job in jobs_of(*UNSEEN)}
    methods = list(dict.fromkeys(name for name, _ in found))
    assert methods == ["persim-p100", "persim-p50", "persim-p25", "persim-p10", "cadm", "cadm-pets", "bcq-p"]
    assert ("bcq-p", "prediction") not in found
    assert len(found) == 13
    for job in found.values():
        assert job.spec.test_agents == WHOM
        np.testing.assert_array_equal(job.covariates, np.array(WHOM))
    [usual] = jobs_of("--suite", "reward", "--envs", "mountaincar", "--regimes", "random", "--methods", "cadm",
                      "--trials", "1")  # fmt: skip
    assert "unseen" not in usual.cell.measure
    assert usual.weights_name == found["cadm", "reward"].weights_name == found["cadm", "prediction"].weights_name
    assert usual.covariates.shape == (500, 1)


def test_unseen_agents_start_from_the_weights_that_other_suites_train():
    job = jobs_of(*UNSEEN, "--methods", "persim-p25")[0]
    [usual] = jobs_of("--suite", "prediction", "--envs", "mountaincar", "--regimes", "random", "--methods", "persim",
                      "--trials", "1")  # fmt: skip
    assert job.base.weights_name == usual.weights_name


def test_a_cell_of_unseen_agents_measures_those(tmp_path, monkeypatch):
    predicted, played = [], []

    def rollouts(spec, *rest):
        predicted.append(spec.test_agents)
        return true_rollouts(spec, *rest, episodes=2)

    def earned(spec, covariates, *rest, agents, **more):
        played.append((agents[0], covariates[agents[0]].tolist()))
        return average_rewards(spec, covariates, *rest, agents=agents, **more)

    monkeypatch.setattr(measure, "true_rollouts", rollouts)
    monkeypatch.setattr(measure, "average_rewards", earned)
    done = {}
    for job in jobs_of(*UNSEEN, "--methods", "persim-p25", "--preset", "smoke", "--agents", "20"):
        done[job.cell.what] = measure.compute(job, CellStore(tmp_path))
    for agent in range(1, 6):
        assert done["prediction"].value("prediction_rmse", agent) > 0
        assert -500 <= done["reward"].value("reward", agent) < 0
    assert predicted == [WHOM]
    assert played == [(agent, list(row)) for agent, row in enumerate(WHOM)]
    assert len(list(tmp_path.glob("models/*"))) == 2  # PerSim's, and the one with the maps


def test_the_paper_stands_beside_unseen_agents():
    grid = grid_of(*UNSEEN, "--methods", "persim-p50,cadm,bcq-p")
    rows = [row(metric, -1.0, agent) for metric in ("prediction_rmse", "reward") for agent in range(1, 6)]
    done = [done_of(job, [r for r in rows if r["metric"].startswith(job.cell.what)]) for job in grid.jobs()]
    lines = [line.split() for line in text_tables.tables(grid, done).splitlines()]
    assert ["gravity", "5e-05", "8e-05", "0.002", "0.0037", "0.004"] in lines
    assert ["the", "paper's", "0.007", "0.006", "0.000", "0.001", "0.001"] in lines
    assert "-54.0 ± 0.9" in text_tables.tables(grid, done)
    assert ["the", "paper's", "0.378", "0.373", "0.159", "0.329", "0.339"] in lines
    assert "-97.2 ± 20.6" in text_tables.tables(grid, done)


def test_the_paper_stands_beside_fewer_agents():
    grid = grid_of("--suite", "scarcity", "--envs", "mountaincar", "--methods", "persim", "--agents", "25,30")
    rows = [row("reward", -1.0, agent) for agent in range(1, 6)]
    text = text_tables.tables(grid, [done_of(job, rows) for job in grid.jobs()])
    assert text.count("the paper's") == 1  # which has no N = 30
    assert "-56.8 ± 1.8" in text


def test_seconds_are_estimated_from_the_size_of_the_work():
    def cost(*more):
        grid = grid_of("--suite", "reward", "--envs", "cartpole", *more)
        return sum(map(estimate.seconds, benchmark._tasks(grid.jobs(), CellStore(Path("none")), "cpu").values()))

    once = cost("--methods", "persim", "--trials", "1")
    assert cost("--methods", "persim", "--trials", "3") == pytest.approx(3 * once)
    assert cost("--methods", "persim", "--trials", "1", "--preset", "quick") < once / 5
    for method in ("cadm", "cadm-pets"):
        assert cost("--methods", method, "--preset", "quick") < cost("--methods", method) / 5
        assert cost("--methods", method, "--episodes", "2") < cost("--methods", method)


def test_time_left_goes_from_the_estimate_to_what_was_measured():
    grid = grid_of("--suite", "prediction", "--envs", "cartpole", "--trials", "1")
    tasks = benchmark._tasks(grid.jobs(), CellStore(Path("none")), "cpu")
    bar = CellBar("test", tasks, 4, workers=2)
    total = sum(map(estimate.seconds, tasks.values()))
    assert bar.seconds_left(0.0) == pytest.approx(total / 2)
    for task in list(tasks.values())[:-1]:
        bar.task(task, 0.0)
    last = estimate.seconds(list(tasks.values())[-1])
    slow = bar.seconds_left(10 * total)  # ten times slower than estimated
    bar.close()
    assert 8 * last < slow < 10 * last


def test_suites_name_methods_that_are_known():
    for suite in SUITES.values():
        assert set(suite.methods) <= set(METHODS)
        assert suite.preset in PRESETS
