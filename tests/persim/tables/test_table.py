from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from persim import Schema, Table
from persim.errors import InputError
from persim.tables.usable import conform

SCHEMA = Schema(
    agent="machine", time="t", state=["x", "y"], action=["u"], known=["k"], static=["mass"], trajectory="run",
    reward="r", lags=2, memory={"u": [2.0]},
)  # fmt: skip
RUNS = {("a", "1"): 40, ("a", "2"): 20, ("b", "1"): 60, ("c", "9"): 30}  # rows of each trajectory


@pytest.fixture
def frame(rng):
    rows = [(agent, run, step / 2) for (agent, run), size in RUNS.items() for step in range(size)]
    given = pd.DataFrame(rows, columns=["machine", "run", "t"])
    given[["x", "y", "u", "k", "r"]] = rng.normal(size=(len(given), 5))
    given["mass"] = given.machine.map({"a": 1.0, "b": 2.0, "c": np.nan})
    return given


@pytest.fixture
def table(frame):
    return Table.of_frame(frame, SCHEMA)


def same(one, other):
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame())


def test_a_frame_goes_in_and_out(frame, table):
    given = table.to_frame()
    assert [*given.columns] == [*SCHEMA.columns]
    pd.testing.assert_frame_equal(given[frame.columns.tolist()], frame, check_dtype=False)
    same(Table.of_frame(given, SCHEMA), table)
    assert (len(table), table.names, table.every, table.memory) == (150, ("a", "b", "c"), 0.5, {"u": (4.0,)})
    assert "3 agents, 4 trajectories, 150 rows every 0.5 of 't'" in table.describe()


def test_arrays_are_read_only(table):
    with pytest.raises(ValueError, match="read-only"):
        table.state[0] = 1


def test_columns_by_name(frame, table):
    for name in ("x", "y", "u", "k", "r"):
        np.testing.assert_array_equal(table.column(name), frame[name])
    np.testing.assert_array_equal(table.column("mass"), [1, 2, np.nan])
    with pytest.raises(InputError, match="did you mean 'mass'"):
        table.column("masse")
    with pytest.raises(InputError, match="holds no numbers"):
        table.column("run")


def test_the_last_share_of_every_trajectory_is_split_off_with_its_context(frame, table):
    train, test = table.split_last(0.3)
    assert np.bincount(train.block).tolist() == [28, 14, 42, 21]
    context = 2 - 1 + 5 * 4  # lags, and five times the memory of four steps
    assert test.start.tolist() == [21, 14, 21, 21]
    assert np.bincount(test.block).tolist() == [21 + 12, 14 + 6, 21 + 18, 21 + 9]
    assert context == 21
    later = frame.groupby(["machine", "run"]).cumcount() >= frame.machine.map({"a": 0, "b": 42, "c": 21})
    later &= (frame.machine != "a") | (frame.t >= frame.run.map({"1": 14, "2": 7, "9": 0}))
    np.testing.assert_array_equal(test.state[test.counted, 0], frame.x[later])
    np.testing.assert_array_equal(train.state[:, 0], frame.x[~later])
    assert test.names == train.names == table.names
    np.testing.assert_array_equal(train.step[:28], np.arange(28))


def test_folds_leave_out_each_block_of_time_once(table):
    folds = table.folds(3)
    seen = pd.concat([test.to_frame()[test.counted] for _, test in folds])
    assert len(seen) == len(table) == len(seen.drop_duplicates())
    for train, test in folds:
        assert len(train) + test.counted.sum() == len(table)
        assert (np.diff(train.time)[np.diff(train.block) == 0] == 0.5).all()
        assert (np.diff(test.time)[np.diff(test.block) == 0] == 0.5).all()
    assert [len(train.trajectories) for train, _ in folds] == [4, 8, 4]


def test_a_split_of_a_split(table):
    _, test = table.split_last(0.5)
    train, last = test.split_last(0.5)
    assert last.counted.sum() == 10 + 5 + 15 + 7  # of 20, 10, 30 and 15
    assert train.start.tolist() == test.start.tolist()
    assert train.counted.sum() == 75 - 37


def test_some_agents(table):
    part = table.of_agents(["c", "a"])
    assert part.names == ("a", "c")
    assert part.trajectories == ("1", "2", "9")
    np.testing.assert_array_equal(part.static, [[1], [np.nan]])
    same(part, Table.of_frame(table.to_frame().query("machine != 'b'"), SCHEMA))
    with pytest.raises(InputError, match="agent 'd' is unknown"):
        table.of_agents(["d"])
    with pytest.raises(InputError, match="no agent is named"):
        table.of_agents([])


def test_the_head_is_of_each_agent(table):
    part = table.head(45)
    assert np.bincount(part.agent).tolist() == [45, 45, 30]
    assert np.bincount(part.block).tolist() == [40, 5, 45, 30]
    _, test = table.split_last(0.3)
    part = test.head(4)
    assert part.counted.sum() == 12
    assert part.trajectories == ("1", "1", "9")  # no context of a trajectory of which nothing counts
    with pytest.raises(InputError, match="head of 0"):
        table.head(0)


@pytest.mark.parametrize("share", [0, 1, -1, float("nan")])
def test_shares_are_checked(table, share):
    with pytest.raises(InputError, match="share is"):
        table.split_last(share)


def test_a_split_that_leaves_too_little_names_the_agent(frame):
    small = Table.of_frame(frame.query("machine != 'b' or t < 3"), SCHEMA)
    with pytest.raises(InputError, match=r"agent 'b' has 6 rows, .* leaves 3 of to learn from and 3 to test on"):
        small.split_last(0.5)
    with pytest.raises(InputError, match="agent 'b' has 6 rows"):
        small.split_last(0.05)
    with pytest.raises(InputError, match="number of folds is 1"):
        small.folds(1)


def test_a_summary_is_of_known_values(frame, table):
    assert table.summary()["x"]["mean"] == pytest.approx(frame.x.mean())
    assert table.summary()["mass"] == {"median": 1.5, "min": 1, "max": 2, "mean": 1.5, "std": 0.5}
    assert set(table.summary()) == {"x", "y", "u", "k", "mass", "r"}


def test_other_data_have_to_fit(frame, table):
    summary = table.summary()
    assert conform(table, table.schema, summary) is table
    for changes, message in [
        ({"state": ["y", "x"]}, "the table has 'y', 'x' as state, the simulator was trained with 'x', 'y'"),
        ({"known": [], "memory": {}}, "the table has none as known"),
        ({"every": 1.0}, "the table has a row every 1.0, the simulator a step every 0.5"),
    ]:
        other = Table.of_frame(frame, Schema(**(SCHEMA.to_mapping() | changes)))
        with pytest.raises(InputError, match="simulator") as caught:
            conform(other, table.schema, summary)
        assert message in str(caught.value)
    with pytest.raises(InputError, match=r"column 'u' is about .*: more than 30 times apart"):
        conform(Table.of_frame(frame.assign(u=frame.u * 1000), SCHEMA), table.schema, summary)


def test_labels_of_other_data_get_the_codes_of_the_simulator(frame):
    schema = Schema(**(SCHEMA.to_mapping() | {"discrete": True, "memory": {}}))
    table = Table.of_frame(frame.assign(u=["low", "off", "high"] * 50), schema)
    fewer = Table.of_frame(frame.assign(u=["low", "off", None] * 50), schema)
    assert fewer.labels == ("low", "off")
    fitting = conform(fewer, table.schema, table.summary())
    assert fitting.schema == table.schema
    np.testing.assert_array_equal(fitting.action[:3, 0], [1, 2, np.nan])
    with pytest.raises(InputError, match="label 'high', which the simulator does not know"):
        conform(table, replace(table.schema, labels=("low", "off")), table.summary())
