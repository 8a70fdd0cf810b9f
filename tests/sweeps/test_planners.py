"""Choosing how to plan: on which agents and seeds, by which rule, and that the defaults are what the rows choose."""

from dataclasses import replace
from pathlib import Path

import pytest

from persim.envs import get
from persim.errors import InputError
from persim.methods import PlanningSettings
from persim.storage.cells import CellStore, FinishedCell, plain, row
from sweeps import benchmark, report
from sweeps.grid import command
from sweeps.grid.suites import SUITES
from sweeps.reporting import planners, rows, tables
from sweeps.reporting.goal import coverage
from sweeps.reporting.results import Results
from sweeps.reporting.sections import sections
from tests.sweeps.report_helpers import cells, fill

ROOT = Path(__file__).parents[2]


def grid_of(*words):
    return command.grid_of(command.parser("").parse_args(words), Path("runs"))


def tried(env, earned, decision=0.002):
    """Cells of the suite: ``earned(planning, seed, agent, regime)`` on the model, 7 more in the true environment."""
    found = []
    for job in grid_of("--suite", "planners", "--envs", env).jobs():
        cell = job.cell
        more = 7 if cell.method == "true-env" else 0
        values = [
            row("reward", earned(cell.settings["planning"], cell.seed, agent, cell.regime) + more, agent)
            for agent in range(6, 16)
        ]
        seconds = {"train": 1.0, "measure": 2.0, "decision": decision}
        found.append(FinishedCell(cell, values, {}, "abc", seconds, 1, 1, labels={"planners": "paper"}))
    return found


def by_horizon(values, noise=0.0):
    """Rewards by planner and horizon, and of agents an offset that all ways share and noise that they do not."""

    def earned(planning, seed, agent, regime):
        horizon, safety = planning["settings"]["horizon"], planning.get("safety")
        value = values.get((planning["planner"], horizon, safety), values.get((planning["planner"], horizon), -400))
        return value + 10 * agent + (noise if (agent + seed + horizon) % 2 else -noise)

    return earned


def chosen(env, earned):
    way = planners.choices(tried(env, earned))[env]
    return way.planning["planner"], way.planning["settings"]["horizon"], way.planning.get("safety")


def test_the_suite_keeps_off_test_agents_and_published_seeds():
    jobs = grid_of("--suite", "planners").jobs()
    assert {job.cell.seed for job in jobs} == {101, 102}
    assert {tuple(job.pieces) for job in jobs} == {tuple(range(5, 15))}
    assert {job.cell.measure["episodes"] for job in jobs} == {5}
    tests = get("mountaincar").test_agents
    assert not {tuple(each) for each in jobs[0].covariates[5:15]} & set(tests)
    assert [tuple(each) for each in jobs[0].covariates[:5]] == list(tests)
    for env, count in (("mountaincar", 2 * 4), ("cartpole", 2 * 5 * 2)):
        assert len({str(job.cell.settings["planning"]) for job in jobs if job.cell.env == env}) == count
    assert len(jobs) == (8 + 20) * 2 * 3  # seeds, and model under two regimes or the true environment
    assert len({job.weights_name for job in jobs if job.method.parts}) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "4"], "seed is 4; give a whole number of at least 101"),
        (["--seed", "0"], "seed is 0; give a whole number of at least 101"),
        (["--agents", "14"], "agents is 14; give a whole number of at least 15"),
        (["--planner", "cem"], "has planners of its own, not 'cem'; leave --planner out"),
    ],
)
def test_what_the_suite_does_not_take_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        grid_of("--suite", "planners", *words)
    assert grid_of("--suite", "reward", "--seed", "4").seed == 4


def test_the_best_is_chosen_unless_a_cheaper_one_is_within_a_standard_error():
    best = {("persistent_shooting", 150): -100.0}
    assert chosen("mountaincar", by_horizon(best)) == ("persistent_shooting", 150, None)
    # 20 shortfalls of 0.5 + 1 and 0.5 - 1 by turns: their mean is 0.5, its standard error 1.026 / sqrt(20) = 0.23
    near = {**best, ("persistent_shooting", 100): -100.5}

    def turns(planning, seed, agent, regime):
        spread = ((agent + seed) % 2 - 0.5) * 2 if planning["settings"]["horizon"] == 100 else 0
        return by_horizon(near)(planning, seed, agent, regime) + spread

    assert chosen("mountaincar", turns) == ("persistent_shooting", 150, None)
    near["persistent_shooting", 100] = -100.2  # below 0.23
    assert chosen("mountaincar", turns) == ("persistent_shooting", 100, None)
    near["persistent_shooting", 200] = -100.0  # as good as the best, but dearer
    assert chosen("mountaincar", turns) == ("persistent_shooting", 100, None)


def test_regimes_count_alike_and_the_true_environment_does_not():
    def earned(planning, seed, agent, regime):
        horizon, name = planning["settings"]["horizon"], planning["planner"]
        if name == "random_shooting":
            return -300.0
        if regime == "true-env":
            return 0.0 if horizon == 50 else -200.0
        return {("random", 100): -90.0, ("pure", 100): -130.0}.get((regime, horizon), -100.0 - (horizon != 150))

    assert chosen("mountaincar", earned) == ("persistent_shooting", 150, None)  # -100 against -110


def test_of_equals_the_cheapest_and_then_the_one_with_least_of_ours_is_chosen():
    every = {(name, horizon): 200.0 for name in ("random_shooting", "persistent_shooting") for horizon in (10, 15, 30)}
    assert chosen("cartpole", by_horizon(every)) == ("random_shooting", 10, False)
    shaped = {("random_shooting", 10, True): 200.0, ("persistent_shooting", 10, False): 200.0}
    assert chosen("cartpole", by_horizon(shaped)) == ("persistent_shooting", 10, False)


def test_ways_that_lack_rows_or_diverged_cannot_be_chosen():
    best = by_horizon({("persistent_shooting", 150): -100.0, ("persistent_shooting", 200): -50.0})
    found = tried("mountaincar", best)
    words = "persistent_shooting, 1000 plans, horizon 200, shaping: progress"
    lost = next(d for d in found if d.cell.method == "persim" and words in benchmark.title(d.cell))
    for left in ([d for d in found if d is not lost],
                 [replace(d, rows=[row("reward", float("nan"), a) for a in range(6, 16)]) if d is lost else d
                  for d in found]):  # fmt: skip
        assert planners.choices(left)["mountaincar"].planning["settings"]["horizon"] == 150
    assert planners.choices([d for d in found if d.cell.method == "true-env"]) == {}
    assert planners.choices([]) == {}


def default_of(env):
    """Rewards of which the default is the best by far."""
    wanted = plain(PlanningSettings.of(get(env)).about())
    return lambda planning, seed, agent, regime: 0.0 if planning == wanted else -100.0


def test_the_defaults_are_what_published_rows_choose():
    found = planners.choices(list(rows.read_all(ROOT / "results").values()))
    assert {env: way.name for env, way in found.items() if not way.is_default} == {}


@pytest.mark.parametrize("env", ["mountaincar", "cartpole"])
def test_rows_tell_a_default_from_what_is_none(env):
    """The same check on rows of which it is known what they choose, whether or not some are published."""
    assert planners.choices(tried(env, default_of(env)))[env].is_default
    other = by_horizon({("random_shooting", 50): 1000.0})
    assert not planners.choices(tried(env, other))[env].is_default


def test_the_report_shows_the_table_the_choice_and_the_default(tmp_path, capsys):
    values = {("persistent_shooting", 100): -100.0, ("random_shooting", 50): -150.0}
    found = tried("mountaincar", by_horizon(values))
    [section] = [s for s in sections(Results(tuple(found), tmp_path), "planners") if s.title == "Planners"]
    [table] = section.tables
    shown = {entries[0].lines[0]: [entry.lines[0] for entry in entries[1:]] for entries in table.rows}
    assert len(shown) == 8
    own = shown["persistent_shooting, 1000 plans, horizon 100, shaping: progress"]
    # by_horizon adds 105 on average over agents 6 to 15
    assert own == ["5.0", "5.0", "5.0", "12.0", "2 ms", "chosen"]
    assert shown["persistent_shooting, 1000 plans, horizon 150, shaping: progress"][-1] == "default"
    assert section.text[-1].startswith("MountainCar: chosen is persistent_shooting, 1000 plans, horizon 100")
    assert "The default is another one" in section.text[-1]
    assert (
        report.main(["--suite", "planners", "--store", str(fill(tmp_path / "s", found)), "--out", str(tmp_path)]) == 0
    )
    assert "a rule that was fixed before" in (tmp_path / "report.md").read_text()
    assert "horizon 100, shaping: progress" in planners.summary(found)
    assert "chosen" in planners.summary(found)


def test_what_was_tried_stands_behind_no_published_number():
    found = tried("cartpole", by_horizon({}))
    usual = Results(tuple(found), Path())
    assert not any(line.ours for block in usual.blocks for line in block.lines)


def test_titles_tell_the_cells_of_the_suite_apart():
    jobs = grid_of("--suite", "planners").jobs()
    assert len({benchmark.title(job.cell) for job in jobs}) == len(jobs)


def test_cadm_and_persim_stand_beside_each_other_with_what_differs(tmp_path):
    group = [
        *cells("reward", "cartpole", "random", "cadm", [150.0], preset="laptop", episodes=4),
        *cells("reward", "cartpole", "random", "cadm-pets", [90.0], preset="laptop", episodes=1),
        *cells("same-planner", "cartpole", "random", "persim-cadm", [177.0], preset="laptop", episodes=4),
    ]
    [section] = planners.same_planner(Results(tuple(group), tmp_path))
    [table] = section.tables
    ours, cadm, pets = ([entry.lines[0] for entry in entries] for entries in table.rows)
    how = "random_shooting, 200 plans, horizon 50, shaping: none"
    assert ours == ["PerSim, CaDM's planner", *["177.0"] * 5, "1", "4", "the paper's", how]
    assert (cadm[0], cadm[1], cadm[6:8], cadm[9]) == ("Vanilla CaDM", "150.0", ["1", "4"], how)
    assert "iterations 5 (20)" in cadm[8]
    assert (pets[7], pets[9]) == ("1", how)
    assert table.notes == ("The lines differ in the number of episodes; see the last columns.",)
    [alone] = planners.same_planner(Results(tuple(group[:1]), tmp_path))[0].tables
    assert [entry.lines[0] for entry in alone.rows[0]][1:] == ["–"] * 9
    assert alone.notes == ()
    assert planners.same_planner(Results((), tmp_path)) == []


def shown(found, table):
    [block] = [block for block in found.blocks if (block.table, block.regime) == (table, "random")]
    made = tables.table(block)
    return {entries[0].lines[0]: [entry.lines for entry in entries[1:]] for entries in made.rows}, made.notes


def test_the_papers_numbers_stand_beside_both_planners(tmp_path):
    group = [
        *cells("reward", "cartpole", "random", "persim", [200.0]),
        *cells("reward", "cartpole", "random", "persim-paper", [190.0]),
        *cells("reward", "cartpole", "random", "true-env-paper", [199.0]),
    ]
    lines, notes = shown(Results(tuple(group), tmp_path), "10")
    ours, papers = lines["PerSim, our planner"], lines["PerSim, the paper's planner"]
    assert (ours[0][0], papers[0][0]) == ("200.0", "190.0")
    assert ours[0][1] == papers[0][1] == "paper 197.7 ± 7.82"
    assert lines["True env+MPC, our planner"][0][0] == "–"
    assert lines["True env+MPC, our planner"][0][1] == lines["True env+MPC, the paper's planner"][0][1]
    assert (
        "How each acts (what is added to the reward is its shaping). "
        "PerSim, our planner: random_shooting, 1000 plans, horizon 8, shaping: safety, episodes of an agent: 20; "
        "PerSim, the paper's planner, True env+MPC, the paper's planner: random_shooting, 1000 plans, horizon 50, "
        "shaping: none, episodes of an agent: 20."
    ) in notes


def test_a_cell_of_the_paper_counts_once_under_whichever_planner_it_is_measured(tmp_path):
    for method in ("persim", "persim-paper"):
        found = Results(tuple(cells("reward", "cartpole", "random", method, [190.0])), tmp_path)
        [row] = [row for row in coverage(found).rows if row[0].lines == ("Table 10",)]
        assert [entry.lines[0] for entry in row[2:]] == ["185", "5", "0", "180"]


def test_one_model_is_trained_for_all_planners():
    jobs = grid_of("--suite", "reward", "--envs", "cartpole", "--regimes", "pure", "--trials", "1",
                   "--methods", "persim,persim-paper,true-env,true-env-paper").jobs()  # fmt: skip
    assert [job.cell.method for job in jobs] == ["persim", "persim-paper", "true-env", "true-env-paper"]
    kinds = [task.kind for task in benchmark._tasks(jobs, CellStore(Path("none")), "cpu").values()]
    assert (kinds.count("data"), kinds.count("part"), kinds.count("model"), kinds.count("measure")) == (1, 1, 1, 20)
    assert {"persim-paper", "true-env-paper"} <= set(SUITES["reward"].methods)
