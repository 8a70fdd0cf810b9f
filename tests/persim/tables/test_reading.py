import gzip
import logging

import numpy as np
import pandas as pd
import pytest

from persim import Schema, Table, read_table
from persim.errors import InputError
from persim.tables.reading import read_static

SCHEMA = Schema(agent="patient", time="minute", state=["cgm"], action=["insulin"], known=["carbs"], static=["weight"])


def frame(agents=("a", "b"), rows=6):
    n = len(agents) * rows
    return pd.DataFrame(
        {
            "patient": np.repeat(agents, rows).astype(object),
            "minute": np.tile(np.arange(rows) * 15.0, len(agents)),
            "cgm": 100.0 + np.arange(n),
            "insulin": np.arange(n) / 10,
            "carbs": np.arange(n) % 4 * 1.0,
            "weight": np.repeat(60.0 + 5 * np.arange(len(agents)), rows),
        }
    )


def changed(row, column, value):
    given = frame().astype({column: object})
    given.loc[row, column] = value
    return given


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".parquet", "frame", "semicolon.csv", "bom.csv"])
def test_every_source_gives_the_same_table(tmp_path, suffix):
    given, path = frame(("007", "NA")), tmp_path / f"t{suffix}"  # ids that a careless reader makes 7 and missing
    if suffix == "frame":
        path = given.set_index(["patient", "minute"])  # as a frame often comes
    elif suffix == ".parquet":
        given.to_parquet(path)
    else:
        sep = {".tsv": "\t", "semicolon.csv": ";"}.get(suffix, ",")
        given.to_csv(path, index=False, sep=sep, encoding="utf-8-sig" if suffix == "bom.csv" else "utf-8")
    table = read_table(path, SCHEMA)
    assert table.names == ("007", "NA")
    assert table.every == 15
    np.testing.assert_array_equal(table.state[:, 0], given.cgm)
    np.testing.assert_array_equal(table.known[:, 0], given.carbs)
    np.testing.assert_array_equal(table.static, [[60], [65]])
    np.testing.assert_array_equal(table.step, np.tile(np.arange(6), 2))
    assert dict(table.counts) == {"rows": 12, "moved": 0, "merged": 0, "inserted": 0, "filled": 0}
    assert Schema.load(_saved(tmp_path, table.schema)) == table.schema


def _saved(folder, schema):
    schema.save(folder / "schema.yaml")
    return folder / "schema.yaml"


def test_columns_may_be_named_by_numbers():
    given = frame().set_axis(range(6), axis=1)
    schema = Schema(agent="0", time="1", state=["2"], action=[3], known=["4"], static=["5"])
    np.testing.assert_array_equal(read_table(given, schema).state, read_table(frame(), SCHEMA).state)


def test_the_order_of_rows_does_not_matter_but_for_that_of_the_agents():
    given = frame(("z", "a", "m"))
    mixed = pd.concat([given.iloc[[0, 6, 12]], given.drop([0, 6, 12]).sample(frac=1, random_state=1)])
    one, other = read_table(given, SCHEMA), read_table(mixed, SCHEMA)
    assert one.names == other.names == ("z", "a", "m")
    np.testing.assert_array_equal(one.state, other.state)


def test_missing_rows_and_values_stay_missing_and_are_counted():
    given = frame().drop([2, 3]).reset_index(drop=True)
    given.loc[0, "cgm"] = np.nan
    table = read_table(given, SCHEMA)
    assert np.isnan(table.state[:, 0]).tolist() == [True, False, True, True, False, False] + [False] * 6
    np.testing.assert_array_equal(table.time[:6], np.arange(6) * 15)
    assert table.counts["inserted"] == 2
    assert table.missing() == {"cgm": 3, "insulin": 2, "carbs": 2, "weight": 0}


def test_fill_says_what_a_missing_input_means():
    given = frame().drop([2]).reset_index(drop=True)
    given.loc[given.carbs == 0, "carbs"] = np.nan
    table = read_table(given, Schema(**(SCHEMA.to_mapping() | {"fill": {"carbs": 0}})))
    np.testing.assert_array_equal(table.known[:, 0], [0, 1, 0, 3, 0, 1, 2, 3, 0, 1, 2, 3])
    assert table.counts["filled"] == 4
    assert np.isnan(table.action[2, 0])


def test_irregular_times_go_to_the_nearest_point_and_rows_on_one_point_are_averaged(caplog):
    given = frame(("a",), 7)
    given["minute"] = [3, 18, 31, 49, 50.5, 75, 93]  # points at 3, 18, 33, 48, 48, 78, 93
    with caplog.at_level(logging.WARNING):
        table = read_table(given, Schema(**(SCHEMA.to_mapping() | {"every": 15})))
    np.testing.assert_array_equal(table.time, [3, 18, 33, 48, 63, 78, 93])
    np.testing.assert_array_equal(table.state[:, 0], [100, 101, 102, 103.5, np.nan, 105, 106])
    assert {key: table.counts[key] for key in ("moved", "merged", "inserted")} == {
        "moved": 3, "merged": 1, "inserted": 1
    }  # fmt: skip
    assert "1 rows share a point" in caplog.text


@pytest.mark.parametrize(
    ("start", "freq", "every", "seconds"),
    [
        ("2026-03-28", "15min", "15min", 900),
        ("2026-03-28", "1h", "1h", 3600),
        ("2026-03-28", "1D", "1D", 86400),
        ("2026-03-28", "100ms", "100ms", 0.1),
        ("2024-01-01", "MS", "MS", 30.436875 * 86400),
        ("2024-01-31", "ME", "MS", 30.436875 * 86400),
        ("2024-01-01", "QS", "QS", 91.310625 * 86400),
        ("2019-01-01", "YS", "YS", 365.2425 * 86400),
    ],
)
def test_timestamps_and_calendars(tmp_path, start, freq, every, seconds):
    given = frame(rows=14)
    stamps = pd.date_range(start, periods=14, freq=freq)
    given["minute"] = np.tile(stamps.astype(str), 2)
    given.drop([3]).to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv", SCHEMA)
    assert (table.schema.every, len(table), table.stamps) == (every, 28, True)
    assert table.every == pytest.approx(seconds)
    again = read_table(tmp_path / "t.csv", table.schema)
    np.testing.assert_array_equal(again.time, table.time)
    assert np.flatnonzero(np.isnan(table.state[:, 0])).tolist() == [3]
    if freq != "ME":
        assert (table.to_frame()["minute"][:14] == stamps).all()


def test_a_step_is_found_in_times_that_jitter(rng):
    given = frame(("a",), 200)
    for step, sd in ((300, 20), (0.02, 0.001), (1, 0.1)):
        given["minute"] = step * np.arange(200) + sd * rng.uniform(-1, 1, 200)
        assert read_table(given, SCHEMA).every == pytest.approx(step)
    given["minute"] = pd.Timestamp("2026") + pd.to_timedelta(
        300 * np.arange(200) + rng.integers(-20, 20, 200), unit="s"
    )
    table = read_table(given, SCHEMA)
    assert table.schema.every == "5min"
    assert len(table) == 200
    given["minute"] = np.cumsum(rng.uniform(7.2, 7.8, 200))  # no round number is near
    assert read_table(given, SCHEMA).every == pytest.approx(7.5, rel=0.02)


def test_time_zones_go_to_utc_and_frames_may_hold_dates():
    given = frame(("a",))
    given["minute"] = pd.date_range("2026-03-29", periods=6, freq="1h", tz="Europe/Berlin")  # over a change of clocks
    table = read_table(given, SCHEMA)
    assert table.counts["inserted"] == 0
    assert str(table.to_frame()["minute"][0]) == "2026-03-28 23:00:00"
    given["minute"] = [one.date() for one in pd.date_range("2026-03-29", periods=6)]
    assert read_table(given, SCHEMA).schema.every == "1D"


def test_trajectories_of_one_agent_may_overlap_in_time():
    given = frame().assign(day=np.tile([1, 1, 1, 2, 2, 2], 2), minute=np.tile([0.0, 15, 30], 4))
    table = read_table(given, Schema(**(SCHEMA.to_mapping() | {"trajectory": "day"})))
    assert table.trajectories == ("1", "2", "1", "2")
    assert table.block.tolist() == np.repeat([0, 1, 2, 3], 3).tolist()
    assert table.agent.tolist() == np.repeat([0, 1], 6).tolist()
    pd.testing.assert_frame_equal(table.to_frame().drop(columns="day"), given.drop(columns="day"), check_dtype=False)


def test_discrete_actions_have_codes_in_the_order_of_their_labels():
    words = {"insulin": ["low", "high", "off"] * 4}
    schema = Schema(**(SCHEMA.to_mapping() | {"discrete": True}))
    table = read_table(frame().assign(**words), schema)
    assert table.labels == table.schema.labels == ("high", "low", "off")
    assert table.action[:3, 0].tolist() == [1, 0, 2]
    assert table.to_frame()["insulin"].tolist() == words["insulin"]
    numbers = read_table(frame().assign(insulin=[10, 9, 100] * 4), schema)
    assert numbers.labels == ("9", "10", "100")
    with pytest.raises(InputError, match=r"agent 'a', data row 3, column 'insulin': 'off' is no label"):
        read_table(frame().assign(**words), Schema(**(schema.to_mapping() | {"labels": ["high", "low"]})))


BAD = [
    (frame().rename(columns={"cgm": "CGM"}), "table has no column 'cgm' (state in the schema) (did you mean 'CGM'?)"),
    (frame().assign(minute=[0, 15, 30, 30, 60, 75] * 2), "agent 'a', data row 4, column 'minute': the time is the "),
    (changed(7, "cgm", "high"), "agent 'b', data row 8, column 'cgm': 'high' is no number"),
    (changed(7, "cgm", "5,6"), "data row 8, column 'cgm': '5,6' is no number; write numbers with a point"),
    (changed(7, "cgm", np.inf), "agent 'b', data row 8, column 'cgm': the value is infinite"),
    (changed(7, "cgm", "1e999"), "agent 'b', data row 8, column 'cgm': the value is infinite"),
    (changed(7, "minute", "noon"), "agent 'b', data row 8, column 'minute': 'noon' is no time"),
    (changed(7, "minute", None), "agent 'b', data row 8, column 'minute': the time is missing"),
    (changed(7, "patient", None), "data row 8, column 'patient': the agent is missing"),
    (changed(7, "weight", 66), "agent 'b', data row 8, column 'weight': 66, but 65 in data row 7"),
    (changed(7, "minute", 1e9), "agent 'b', data row 8, column 'minute': 66,666,661 steps are missing before"),
    (changed(7, "minute", 1e200), "column 'minute': 999,999,999,999,994 steps are missing before"),
    (frame().iloc[:8], "agent 'b' has 2 rows with a known state, fewer than the 3 that 1 lags need"),
    (frame().assign(insulin=1), "action 'insulin' is 1 in every row"),
    (frame().assign(carbs=np.nan), "column 'carbs' holds no value at all"),
    (frame().iloc[:0], "table has no rows"),
    (pd.concat([frame(), frame()[["cgm"]]], axis=1), "table has 2 columns named 'cgm'"),
    (frame().assign(minute=pd.date_range("2026", periods=12).astype(str).where(np.arange(12) != 4, "01/02/2026")),
     "agent 'a', data row 5, column 'minute': '01/02/2026' is no time"),
    ([1, 2], "table is a list"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), BAD, ids=[message[-30:] for _, message in BAD])
def test_bad_values_are_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        read_table(given, SCHEMA)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "cannot be read as a table (No columns to parse"),
        ("t.csv", b"\x89PNG\xff\xfe\x00", "cannot be read as a table"),
        ("t.csv", b"a,b\n1,2\n1,2,3,4\n", "cannot be read as a table (Error tokenizing data. C error: Expected 2"),
        ("t.csv", b"patient,minute,cgm,insulin,carbs,weight\n", "t.csv has no rows"),
        ("t.csv.gz", b"no gzip", "cannot be read as a table"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0), "t.csv.gz has no column 'patient'"),
        ("t.parquet", b"no parquet", "cannot be read as a table"),
        ("t.xlsx", b"", "is no table that can be read; give a file that ends in .csv"),
        ("other.csv", None, "there is no file"),
    ],
)
def test_files_that_are_no_tables_are_refused_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        read_table(tmp_path / name, SCHEMA)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "stamps", "message"),
    [
        ({"every": "15min"}, False, "every is '15min', but 'minute' holds numbers"),
        ({"every": 15}, True, "every is 15, but 'minute' holds timestamps"),
        ({"memory": {"carbs": [40]}}, True, "memory is 40, but 'minute' holds timestamps"),
    ],
)
def test_spans_have_to_be_in_the_form_of_the_times(changes, stamps, message):
    given = frame()
    if stamps:
        given["minute"] = np.tile(pd.date_range("2026", periods=6, freq="15min"), 2)
    with pytest.raises(InputError) as caught:
        read_table(given, Schema(**(SCHEMA.to_mapping() | changes)))
    assert message in str(caught.value)


def test_data_of_new_agents_may_be_short_and_their_actions_constant():
    given = frame().iloc[:7].assign(insulin=1)
    table = Table.of_frame(given, SCHEMA, new=True)
    assert np.bincount(table.agent).tolist() == [6, 1]


def test_covariates_alone():
    names, static = read_static(pd.DataFrame({"patient": [3, 1], "weight": [70, None]}), SCHEMA)
    assert names == ("3", "1")
    np.testing.assert_array_equal(static, [[70], [np.nan]])
    with pytest.raises(InputError, match="data row 2, column 'patient': the agent has another row"):
        read_static(frame(), SCHEMA)
