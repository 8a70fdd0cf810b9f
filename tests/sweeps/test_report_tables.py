"""What stands in the tables: known means, differences, marks and budgets."""

import math

import numpy as np
import pytest

from persim.evaluation.paper import PaperError, PaperReward
from sweeps.reporting import goal as report_goal
from sweeps.reporting import tables as report_tables
from sweeps.reporting.aggregate import aggregates, scaled, scores
from sweeps.reporting.compare import compare, number, size_of
from sweeps.reporting.cost import core_hours, cost
from sweeps.reporting.ranks import ranks
from sweeps.reporting.select import budget_of, changes
from tests.sweeps.report_helpers import block, cells, changed, done, rank_trials, results
from tests.sweeps.report_helpers import shown_row as row


@pytest.mark.parametrize(
    ("values", "mark", "difference", "size"),
    [
        ([-57.0, -57.2], "better", 0.6, "+0.1 s.d."),
        ([-57.7], "better", 0.0, "+0.0 s.d."),
        ([-57.704], "better", -0.004, "0.0 s.d."),  # equal as printed
        ([-57.72], "within", -0.02, "0.0 s.d."),
        ([-63.3], "within", -5.6, "−1.0 s.d."),
        ([-63.4], "worse", -5.7, "−1.0 s.d."),
        ([-86.0], "worse", -28.3, "−5.0 s.d."),
        ([-math.inf], "worse", -math.inf, ""),
    ],
)
def test_rewards_are_marked_by_the_papers_deviation(values, mark, difference, size):
    known = PaperReward(-57.7, 5.63, 2)
    found = compare(np.array(values), known)
    assert found.mark == mark
    assert found.difference == pytest.approx(difference)
    assert size_of(found, known).lstrip("+−") == size.lstrip("+−")


def test_a_deviation_of_0_excuses_nothing_and_has_no_multiples():
    known = PaperReward(200.0, 0.0, 1)
    found = compare(np.array([199.9]), known)
    assert (found.mark, size_of(found, known)) == ("worse", "")


@pytest.mark.parametrize(
    ("values", "mark", "size"),
    [
        ([0.0014], "better", "×1.40"),  # 0.001 as printed
        ([0.0016], "worse", "×1.60"),
        ([0.001, 0.003], "worse", "×2.00"),  # our own deviation, 0.0014, excuses nothing
        ([0.0005], "better", "×0.50"),
        ([math.inf], "worse", ""),
        ([math.inf, 0.001], "worse", ""),
    ],
)
def test_errors_are_marked_by_their_mean_alone(values, mark, size):
    known = PaperError(0.001, 1.0, 3)
    found = compare(np.array(values), known)
    assert (found.mark, size_of(found, known)) == (mark, size)


def test_a_printed_error_of_0_counts_as_half_of_its_last_digit():
    known = PaperError(0.0, 1.0, 3)
    assert compare(np.array([0.0004]), known).mark == "better"
    assert compare(np.array([0.0004]), known).size == pytest.approx(0.8)
    assert compare(np.array([0.002]), known).mark == "worse"
    assert compare(np.array([0.002]), known).size == pytest.approx(4.0)


def test_numbers_as_shown():
    assert [number(-0.001, 2), number(-1.25, 1), number(1e6, 1), number(math.inf, 1)] == [
        "0.00", "−1.2", "1.0e+06", "diverged",
    ]  # fmt: skip
    assert [number(0.5, 1, "+"), number(-0.5, 1, "+")] == ["+0.5", "−0.5"]


def test_a_cell_has_ours_the_papers_and_the_difference():
    found = results(cells("reward", "mountaincar", "random", "persim", [-50.0, -60.0]))
    name, first, *_ = row(found, "9", "PerSim, our planner")
    assert name.lines == ("PerSim, our planner", "2 trials, paper")
    assert first.lines == ("−55.00 ± 7.07", "paper −57.70 ± 5.63", "+2.70, +0.5 s.d. ▲")
    assert first.style == "better"


def test_a_prediction_cell_has_the_median_r2():
    found = results(cells("prediction", "mountaincar", "random", "persim", [0.005, 0.007, 0.009]))
    _, first, *_ = row(found, "6", "PerSim")
    assert first.lines == ("0.0070 ± 0.0020 (0.900)", "paper 0.004 (0.999)", "+0.0030, ×1.75 ▼")


def test_a_missing_cell_is_shown_as_missing():
    name, first, *_ = row(results(), "11", "MOReL-P", env="halfcheetah")
    assert name.lines == ("MOReL-P", "not measured")
    assert (first.lines[0], first.style) == ("–", "missing")
    assert first.lines[1].startswith("paper ")


def test_every_number_of_the_paper_has_a_cell():
    rows = {entries[0].lines[0]: [e.lines[0] for e in entries[1:]] for entries in report_goal.coverage(results()).rows}
    counts = {"3": 90, "6": 60, "7": 60, "8": 60, "9": 185, "10": 185, "11": 185, "12": 60, "13": 70, "14": 80,
              "15": 80, "16": 80}  # fmt: skip
    assert {name: int(row[1]) for name, row in rows.items()} == {f"Table {table}": n for table, n in counts.items()}
    assert all(row[2:] == ["0", "0", row[1]] for row in rows.values())


def test_a_reduced_budget_is_marked():
    found = results(cells("reward", "mountaincar", "random", "bcq-p", [-400.0], preset="laptop"))
    name, first, *_ = row(found, "9", "BCQ-P")
    assert name.lines[1] == "1 trial, laptop †"
    assert first.lines[0] == "−400.0 †"
    note, _ = report_tables.table(block(found, "9")).notes
    assert note.endswith("BCQ-P: laptop, updates 55000 (550000).")
    covered = {entries[0].lines[0]: entries[4].lines[0] for entries in report_goal.coverage(found).rows}
    assert (covered["Table 9"], covered["Table 6"]) == ("5", "0")


@pytest.mark.parametrize(
    ("method", "more", "expected"),
    [
        ("persim", {}, ()),
        ("persim", {"preset": "laptop"}, ()),
        ("persim", {"episodes": 5}, ("episodes 5 (20)",)),
        ("persim", {"rank": 7}, ("rank 7 (3)",)),
        ("bcq-p", {"episodes": 5}, ()),  # acts by a policy
        ("bcq-p", {"preset": "laptop"}, ("updates 55000 (550000)",)),
    ],
)
def test_changes_are_those_that_the_method_depends_on(method, more, expected):
    (finished,) = cells("reward", "mountaincar", "random", method, [-50.0], **more)
    assert changes(finished) == expected


def test_episodes_of_a_policy_and_options_of_a_planner_are_compared():
    (finished,) = cells("reward", "mountaincar", "random", "bcq-p", [-50.0])
    assert changes(changed(finished, measure={"episodes": 5})) == ("episodes 5 (100)",)
    (finished,) = cells("reward", "mountaincar", "random", "persim", [-50.0])
    planning = finished.cell.settings["planning"]
    planning = {**planning, "settings": {**planning["settings"], "plans": 50}}
    assert changes(changed(finished, {"planning": planning})) == ("plans 50 (1000)",)


def test_another_planner_is_marked_and_does_not_change_a_prediction():
    (finished,) = cells("reward", "mountaincar", "random", "persim", [-50.0], planner="random_shooting")
    assert "planner random_shooting (persistent_shooting)" in changes(finished)
    (finished,) = cells("prediction", "mountaincar", "random", "persim", [0.1], planner="random_shooting")
    assert changes(finished) == ()


def test_rows_of_before_an_option_existed_stay_valid():
    (finished,) = cells("reward", "mountaincar", "random", "cadm", [-50.0])
    acting = {name: value for name, value in finished.cell.settings["acting"].items() if name != "progress"}
    old = changed(finished, {"acting": acting})
    assert changes(old) == ()
    assert budget_of(old) == "paper"


def test_the_budget_has_the_name_of_what_was_done_and_not_of_what_was_asked_for():
    laptop = cells("reward", "mountaincar", "random", "persim", [-50.0, -60.0], preset="laptop")
    paper = cells("reward", "mountaincar", "random", "persim", [-70.0], seed=2)
    assert row(results(laptop, paper), "9", "PerSim, our planner")[0].lines[1] == "3 trials, paper"
    assert row(results(laptop), "9", "PerSim, our planner")[1].lines[0] == "−55.00 ± 7.07"
    fewer = cells("reward", "mountaincar", "random", "persim", [-50.0], preset="laptop", episodes=5)
    assert row(results(fewer), "9", "PerSim, our planner")[0].lines[1] == "1 trial, laptop †"


def test_of_two_presets_that_asked_for_the_same_the_fullest_names_it():
    both = [cells("reward", "mountaincar", "random", "bcq-p", [-9.0], preset=preset) for preset in ("quick", "laptop")]
    assert both[0][0].cell == both[1][0].cell
    assert row(results(*both), "9", "BCQ-P")[0].lines[1] == "1 trial, laptop †"
    assert row(results(*both[::-1]), "9", "BCQ-P")[0].lines[1] == "1 trial, laptop †"


def test_only_the_measurement_of_a_table_stands_in_it():
    (whole,) = cells("reward", "mountaincar", "random", "bcq-p", [-9.0])
    found = results(
        [changed(whole, measure={"agents": [0, 1]})],
        cells("unseen", "mountaincar", "random", "bcq-p", [-8.0]),
        rank_trials({3: [0.5]}, env="mountaincar"),
    )
    assert row(found, "9", "BCQ-P")[1].style == "missing"
    assert row(found, "6", "PerSim")[1].style == "missing"
    assert row(found, "13", "BCQ-P")[1].lines[0] == "−8.00"


def test_the_best_budget_is_shown_and_smoke_never():
    paper = cells("reward", "mountaincar", "random", "cadm", [-100.0])
    others = [
        cells("reward", "mountaincar", "random", "cadm", [v, v], preset=b)
        for v, b in ((-200.0, "laptop"), (-300.0, "quick"))
    ]
    assert row(results(paper, *others), "9", "Vanilla CaDM")[1].lines[0] == "−100.0"
    shown = results(*others)
    assert row(shown, "9", "Vanilla CaDM")[0].lines[1] == "2 trials, laptop †"
    assert "Also measured, not shown. Vanilla CaDM: 2 trials, quick" in report_tables.table(block(shown, "9")).notes[1]
    smoke = cells("reward", "mountaincar", "random", "cadm", [-9.0], preset="smoke")
    assert row(results(smoke), "9", "Vanilla CaDM")[1].style == "missing"


def test_unchanged_options_come_before_more_trials():
    changed = cells("reward", "mountaincar", "random", "persim", [-1.0] * 3, episodes=5)
    plain = cells("reward", "mountaincar", "random", "persim", [-2.0])
    assert row(results(changed, plain), "9", "PerSim, our planner")[1].lines[0] == "−2.00"


def test_the_true_environment_stands_under_every_regime():
    found = results(cells("reward", "mountaincar", "random", "true-env", [-53.95]))
    for regime in ("random", "pure", "pure-eps-20", "pure-eps-40"):
        assert row(found, "9", "True env+MPC, our planner", regime)[1].lines == (
            "−53.95",
            "paper −53.95 ± 4.1",
            "+0.00, +0.0 s.d. ▲",
        )


def test_a_trial_that_two_suites_asked_for_counts_once():
    both = [cells(suite, "mountaincar", "random", "bcq-p", [-100.0]) for suite in ("reward", "augmentation")]
    found = results(*both)
    assert row(found, "3", "BCQ-P")[0].lines[1] == "1 trial, paper"
    assert row(found, "9", "BCQ-P")[0].lines[1] == "1 trial, paper"
    assert row(results(both[0]), "3", "BCQ-P")[1].lines[0] == "−100.0"


def test_scarcity_is_compared_at_its_n():
    found = results(cells("scarcity", "mountaincar", "random", "persim", [-53.0, -54.0], agents=250))
    assert row(found, "14", "PerSim, our planner, N = 250")[1].lines == (
        "−53.50 ± 0.71",
        "paper −53.70 ± 0.41",
        "+0.20, +0.5 s.d. ▲",
    )
    assert row(found, "14", "PerSim, our planner, N = 25")[1].style == "missing"
    assert row(found, "9", "PerSim, our planner")[1].style == "missing"
    lines = {line.label: line for line in report_tables.points(block(found, "14"), 0)}
    assert [values[:2] for values in lines["PerSim, our planner"].values] == [(250, -53.5)]
    assert [values[0] for values in lines["PerSim, paper"].values] == [25, 50, 100, 250, 500]
    assert [section.title for section in report_tables.of_suite("scarcity", found) if section.figures] == [
        "MountainCar"
    ]


def test_unseen_agents_are_told_apart_by_p():
    all_of_them, a_quarter = (
        cells("unseen", "mountaincar", "random", method, [value])
        for method, value in (("persim-p100", -50.0), ("persim-p25", -90.0))
    )
    found = results([*all_of_them, *a_quarter])
    assert row(found, "13", "PerSim(p=1.0), our planner")[1].lines[0] == "−50.00"
    assert row(found, "13", "PerSim(p=0.25), our planner")[1].lines[0] == "−90.00"
    assert row(found, "13", "PerSim(p=0.5), our planner")[1].style == "missing"


def test_scores_are_0_for_random_actions_and_1_for_the_papers_best():
    assert scaled(np.array([22.39, 199.9]), "cartpole", 0) == pytest.approx([0.0, 1.0])
    assert scaled(np.array([-math.inf]), "cartpole", 0) == [-1.0]


def test_aggregates_compare_on_common_tasks():
    ours = [cells("reward", "cartpole", regime, "persim", [199.9] * 2) for regime in ("random", "pure")]
    theirs = cells("reward", "cartpole", "random", "cql-p", [22.39] * 2, preset="laptop")
    found = results(*ours, theirs, cells("reward", "cartpole", "random", "true-env", [199.9]))
    (section,) = aggregates(found)
    rows = {entries[0].lines[0]: [e.lines[0] for e in entries[1:]] for entries in section.tables[0].rows}
    assert rows["CQL-P †"][:2] == ["5", "10"]
    assert rows["CQL-P †"][2].startswith("0.00 [")
    assert rows["CQL-P †"][4] == "1.00 [1.00, 1.00]"
    assert rows["True env+MPC, our planner"][0] == "10"
    assert rows["True env+MPC, our planner"][4] == "0.50"  # one run on its side
    assert {figure.name for figure in section.figures} == {"iqm", "profiles"}
    assert scores(found.of("reward"))[0].within("mountaincar") == []


def test_aggregates_without_rewards_say_so():
    (section,) = aggregates(results())
    assert not section.tables
    assert not section.figures


def test_cost_counts_a_shared_model_once():
    both = [
        *cells("reward", "cartpole", "random", "persim", [100.0], train=3600.0, measure=360.0, decision=0.004),
        *cells("prediction", "cartpole", "random", "persim", [0.1], train=3600.0, measure=0.0),
    ]
    assert core_hours(both) == pytest.approx(1.1)
    (section,) = cost(results(both, price=0.5))
    ((name, *shown),) = section.tables[0].rows
    assert name.lines == ("PerSim, our planner",)
    assert [entry.lines[0] for entry in shown] == [
        "500",
        "paper",
        "2",
        "60 min",
        "4 ms",
        "0 s",
        "360 s",
        "1.10",
        "$0.55",
    ]
    assert section.text[-1] == "All together: 1.10 core-hours, $0.55."


def test_the_rank_is_chosen_by_the_rule():
    title, section = ranks(results(rank_trials({3: [9.0, 9.1], 5: [1.1, 1.3], 10: [0.9, 1.4]})))
    assert title.title == "Choosing the rank"
    assert section.tables[0].rows[1][0].lines == ("rank 5 (chosen)",)
    assert section.figures[0].svg.startswith(b"<?xml")


def test_ranks_that_diverged_are_not_chosen():
    _, section = ranks(results(rank_trials({3: [math.inf, 1.0], 5: [1.0, 1.0]})))
    assert section.tables[0].rows[0][1].lines == ("diverged",)
    assert section.tables[0].rows[1][0].lines == ("rank 5 (chosen)",)
    _, section = ranks(results(rank_trials({3: [math.inf, math.inf]})))
    assert section.text == ("Every rank diverged.",)


def test_a_run_that_is_not_finite_counts_as_the_worst():
    (like,) = cells("reward", "cartpole", "random", "persim", [100.0])
    found = results([done(like.cell, math.nan, labels=like.labels)])
    assert row(found, "10", "PerSim, our planner", env="cartpole")[1].lines[0] == "diverged"
    assert row(found, "10", "PerSim, our planner", env="cartpole")[1].style == "worse"
    aggregates(found)
