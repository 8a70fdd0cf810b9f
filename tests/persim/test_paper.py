"""The paper's numbers as shipped: cells of every table, read off the supplement."""

from pathlib import Path

import pytest

from persim.evaluation import paper


def test_scarcity():
    known = paper.scarcity("mountaincar", "random", 250)
    assert known[0] == paper.PaperReward(-53.7, 0.41)
    assert len(known) == 5
    assert paper.scarcity("mountaincar", "random", 500) == {}
    assert paper.scarcity("mountaincar", "pure", 250) == {}


def test_unseen_agents():
    assert paper.unseen_error("random", "PerSim", 1.0)[0] == paper.PaperError(0.004, 1.0)
    assert paper.unseen_error("pure", "PerSim", 0.25)[1] == paper.PaperError(0.479, 0.98)
    assert paper.unseen_reward("random", "PerSim", 1.0)[4] != paper.unseen_reward("random", "PerSim", 0.1)[4]
    assert paper.unseen_reward("random", "BCQ-P")[0] == paper.PaperReward(-500.0, 0.0)
    assert paper.unseen_reward("random", "BCQ-P", 0.5) == {}
    assert paper.unseen_agents()[1] == "gravity=0.00008"


def test_the_printed_precision_is_kept():
    assert paper.prediction_error("mountaincar", "random")[0].decimals == 3
    assert paper.reward("mountaincar", "pure")[2].decimals == 1
    assert paper.reward("halfcheetah", "random")[0].decimals == 0


def test_best_reward_is_of_any_learning_method_and_regime():
    assert paper.best_reward("cartpole")[0] == 199.9
    assert paper.best_reward("mountaincar")[0] == -44.6  # CQL-A on pure data
    assert paper.best_reward("mountaincar", "random")[0] == -45.0  # MOReL-P
    assert paper.best_reward("halfcheetah")[1] == 3155.0  # CQL-P; not the true environment's 42893


def test_test_agents():
    assert paper.test_agents("mountaincar")[4] == "gravity=0.0035"


@pytest.mark.parametrize(("table", "cells"), [
    ("augmentation", 90), ("disagreements", 20), ("observed_data", 12), ("prediction_error", 180), ("reward", 555),
    ("scarcity_reward", 240), ("unseen_prediction_error", 60), ("unseen_reward", 70),
])  # fmt: skip
def test_every_cell_that_the_paper_prints_is_shipped(table, cells):
    lines = (Path(paper.__file__).parents[1] / "paper" / f"{table}.csv").read_text().splitlines()
    assert len(lines) - 1 == len(set(lines[1:])) == cells
