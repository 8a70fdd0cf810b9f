"""What the report says above all tables and below each: the headline, what is not reached, and remarks."""

from dataclasses import replace

import pytest

from persim.errors import InputError
from persim.evaluation import paper
from sweeps.reporting import goal as report_goal
from sweeps.reporting import tables as report_tables
from tests.sweeps.report_helpers import block, cells, results
from tests.sweeps.report_helpers import shown_row as row


def summary(found):
    """The rows of the headline: name of the table, then counts and means as shown."""
    _, table = report_goal.headline(found)
    lines = [[entry.lines[0] for entry in entries] for entries in table.rows]
    return {(name, line): rest for name, line, *rest in lines}


def test_cells_that_are_not_reached_are_listed_with_the_reason():
    values = (-57.0, -74.0, -900.0, -186.0, -211.0)  # agent 3 fails, agent 5 is within 4.48 of -210.1
    notes = {"9/mountaincar/random/500/3": "too few plans"}
    found = results(cells("reward", "mountaincar", "random", "persim", [values]), notes=notes)
    report_goal.check_notes(found)
    (section,) = report_goal.goal(found)
    ((cell, shown, behind, reason),) = section.tables[1].rows
    assert cell.lines == ("Table 9: MountainCar, random", "PerSim, our planner", "agent 3")
    assert shown.style == "worse"
    assert (behind.lines, reason.lines) == (("1 trial, paper",), ("too few plans",))
    assert "of 80 cells (Tables 9, 10, 14, 15, all regimes) 3 ▲, 1 ≈, 1 ▼, 75 not measured" in section.text[2]
    assert "Rewards of PerSim, the paper's planner: of 40 cells" in section.text[3]
    assert "Table 15: CartPole, pure, N = 25" in section.text[-1]
    assert summary(found)["Table 9: MountainCar, random", "PerSim, our planner"] == [
        "1",
        "5",
        "3",
        "1",
        "1",
        "0",
        "–",
        "–",
    ]


def test_errors_of_all_regimes_are_counted_with_their_geometric_mean():
    # The paper's, CartPole, pure-eps-40: 0.000, 0.002, 0.011, 0.000 and 0.018.
    values = (0.0004, 0.0023, 0.011, 0.002, 0.036)  # ratios 0.8, 1.15, 1, 4 and 2
    found = results(cells("prediction", "cartpole", "pure-eps-40", "persim", [values]))
    rows = summary(found)
    mean = (0.8 * 1.15 * 1 * 4 * 2) ** 0.2
    assert rows["Table 7: CartPole, pure-eps-40", "PerSim"] == ["1", "5", "3", "0", "2", "0", f"{mean:.2f}", "2"]
    assert rows["Table 6: MountainCar, pure", "PerSim"] == ["–", "5", "0", "0", "0", "5", "–", "0"]
    assert len(rows) == 26  # Tables 6, 7, 9 and 10 have four regimes each, and rewards two planners
    (section,) = report_goal.goal(found)
    assert [entries[0].lines[2] for entries in section.tables[1].rows] == ["agent 4", "agent 5"]
    assert "at most 1 in 0 of 1 tables" in section.text[1]


def test_a_note_for_a_whole_line():
    found = results(cells("reward", "cartpole", "random", "persim", [1.0]), notes={"10/cartpole/random/500": "why"})
    (section,) = report_goal.goal(found)
    assert [entries[3].lines for entries in section.tables[1].rows] == [("why",)] * 5


def test_a_reason_for_a_cell_that_is_not_missed_any_more_is_no_error():
    good = cells("reward", "cartpole", "random", "persim", [200.0])
    found = results(good, notes={"10/cartpole/random/500/1": "why", "7/cartpole/pure/500/5": "not measured"})
    report_goal.check_notes(found)
    assert len(report_goal.goal(found)[0].tables) == 1


def test_the_scored_steps_stand_beside_a_prediction_error():
    (finished,) = cells("prediction", "mountaincar", "random", "persim", [0.005])
    steps = [{"metric": "prediction_steps", "agent": agent + 1, "value": 49.56} for agent in range(5)]
    found = results([replace(finished, rows=[*finished.rows, *steps])])
    assert row(found, "6", "PerSim")[1].lines[0] == "0.0050 (0.900; 49.6 steps)"


def remarks_of(found, table, **where):
    return "\n".join(report_tables.table(block(found, table, **where)).notes)


def test_a_table_says_how_each_line_acts():
    found = results(
        cells("reward", "mountaincar", "random", "persim", [-50.0], planner="random_shooting"),
        cells("reward", "mountaincar", "random", "cadm", [-60.0], preset="laptop", episodes=4),
        cells("reward", "mountaincar", "random", "bcq-p", [-70.0]),
    )
    told = remarks_of(found, "9")
    assert "PerSim, our planner: random_shooting, 1000 plans, horizon 50" in told
    assert "Vanilla CaDM: random_shooting, 200 plans, horizon 50, shaping: progress, episodes of an agent: 4;" in told
    assert "BCQ-P: by its policy, episodes of an agent: 100." in told


def test_a_table_names_what_is_as_good_as_persim_and_what_is_at_the_ceiling():
    found = results(
        cells("reward", "cartpole", "random", "persim", [(200.0, 200.0, 200.0, 200.0, 190.0)]),
        cells("reward", "cartpole", "random", "morel-p", [(200.0, 199.0, 197.0, 10.0, 191.0)]),
        cells("reward", "cartpole", "random", "cql-p", [10.0], preset="laptop"),
    )
    told = remarks_of(found, "10", env="cartpole")
    assert "As much as PerSim, to 1 %, or more: MOReL-P (agents 1, 2, 5)." in told
    assert (
        "At the ceiling of 200, where nothing is told apart any more: "
        "PerSim, our planner (agents 1, 2, 3, 4); MOReL-P (agent 1)"
    ) in told
    assert "ceiling" not in remarks_of(results(cells("reward", "mountaincar", "random", "persim", [-1.0])), "9")


def test_table_3_says_which_lines_choose_their_policy():
    found = results(
        cells("augmentation", "cartpole", "random", "persim-bcq-5", [200.0], preset="laptop"),
        cells("augmentation", "cartpole", "random", "bcq-a", [50.0], preset="laptop"),
    )
    assert "PerSim-BCQ-5: of ten policies on the way the one is kept" in remarks_of(found, "3", env="cartpole")


def test_a_note_on_nothing_is_refused():
    with pytest.raises(InputError, match="did you mean '9/mountaincar/random/500"):
        report_goal.check_notes(results(notes={"9/mountaincar/randm/500": "?"}))


def test_our_rewards_stand_beside_the_best_of_all_methods():
    # MountainCar, random data: MOReL-P earns -45.0 for agent 1; the best of the others are the paper's own.
    best = [paper.best_reward("mountaincar", "random")[agent] for agent in range(5)]
    values = (best[0], best[1] * 1.005, best[2] * 1.5, best[3] + 5, best[4])
    found = results(cells("reward", "mountaincar", "random", "persim", [values]))
    (section,) = report_goal.goal(found)
    assert section.text[2].endswith(
        "Beside the best of all the paper's methods (Tables 9, 10): 3 better or equal, 1 within 1 %, 1 worse "
        "(MountainCar, random, agent 3)."
    )
    assert "best of all" not in section.text[3]
