"""What every command of the project shares."""

import pytest

from persim import console


def test_a_table_has_its_first_columns_on_the_left_and_the_others_on_the_right():
    rows = [["1", "force=2", "20.5"], ["10", "x", "-"]]
    assert console.table(["agent", "covariates", "mean"], rows, left=2) == (
        "agent  covariates  mean\n"
        "1      force=2     20.5\n"
        "10     x              -"
    )  # fmt: skip
    assert console.table(["", "k"], [["ours", "1"], ["paper", ""]]) == "       k\nours   1\npaper"
    assert console.table(["k", "sum"], [], left=0) == "k  sum"


def test_a_row_of_another_length_than_the_heads_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        console.table(["a", "b"], [["1"]])
