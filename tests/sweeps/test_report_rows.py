"""Rows: what is written is what is read, whatever the order; what is damaged or contradicts itself is refused."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persim.errors import InputError
from persim.storage.cells import CellStore, Request
from sweeps.reporting import rows as report_rows
from sweeps.reporting.machines import computed_on
from tests.sweeps.report_helpers import cells, fill, rank_trials


@pytest.fixture
def three():
    return cells("reward", "mountaincar", "random", "persim", [-50.0, -60.0, -70.0], decision=0.02)


def by_id(finished):
    return {done.cell.id: done for done in finished}


def table(three):
    return pq.read_table(io.BytesIO(report_rows.encode(three)))


def write(path, changed):
    pq.write_table(changed, path)
    return path


def test_a_cell_is_read_as_it_was_written(tmp_path, three):
    path = report_rows.rows_path(tmp_path, "reward")
    path.write_bytes(report_rows.encode(three))
    assert by_id(report_rows.read(path)) == by_id(three)
    assert report_rows.read_all(tmp_path) == by_id(three)


def test_one_row_per_cell_metric_and_agent(three):
    rows = table(three).to_pylist()
    assert len(rows) == 3 * 5
    first = rows[0]
    assert (first["version"], first["seed"], first["agent"], first["value"]) == (3, 0, 1, -50.0)
    assert (first["train_seconds"], first["measure_seconds"], first["decision_seconds"]) == (10.0, 2.0, 0.02)
    assert json.loads(first["settings"])["train"]["epochs"] == 300
    assert json.loads(first["measure"]) == {"what": "reward", "episodes": 20}
    assert json.loads(first["labels"]) == {"reward": "paper"}


def test_the_bytes_do_not_depend_on_the_order(three):
    other = [replace(done, rows=done.rows[::-1]) for done in three[::-1]]
    assert report_rows.encode(three) == report_rows.encode(other)


def test_a_value_that_is_not_finite_is_null(tmp_path):
    (done,) = cells("prediction", "cartpole", "random", "persim", [math.inf])
    assert table([done])["value"].to_pylist()[-1] is None
    path = report_rows.rows_path(tmp_path, "prediction")
    path.write_bytes(report_rows.encode([done]))
    assert report_rows.read(path)[0].value("prediction_rmse", 1) == math.inf


def test_rows_without_an_agent(tmp_path):
    path = report_rows.rows_path(tmp_path, "holdout")
    path.write_bytes(report_rows.encode(rank_trials({3: [0.5]})))
    assert report_rows.read(path)[0].value("holdout_error") == 0.5


def test_a_store_is_collected_as_far_as_reported_suites_asked(tmp_path, three):
    ranks = rank_trials({3: [0.5], 5: [0.1]})
    smoke = cells("smoke", "cartpole", "random", "persim", [1.0], agents=6, preset="smoke")
    nobody = [replace(done, labels={}) for done in cells("reward", "cartpole", "random", "persim", [1.0])]
    fill(tmp_path, three, ranks, smoke, nobody)
    assert report_rows.collect(tmp_path) == by_id([*three, *ranks])
    CellStore(tmp_path).ask(Request("scarcity", "paper", (three[0].cell.id, "to be done")))
    assert report_rows.collect(tmp_path)[three[0].cell.id].labels == {"reward": "paper", "scarcity": "paper"}


def test_a_store_of_version_0_1_says_what_to_do(tmp_path, caplog):
    (tmp_path / "cells" / "reward").mkdir(parents=True)
    (tmp_path / "cells" / "reward" / "0123456789ab.json").write_text("{}")
    with pytest.raises(InputError, match="has no finished cells of prediction"):
        report_rows.collect(tmp_path)
    assert "has cells of version 0.1 (1)" in caplog.text
    assert "CHANGELOG.md" in caplog.text


def test_a_store_without_cells_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no finished cells of prediction, reward"):
        report_rows.collect(tmp_path / "nothing")


def test_of_a_cell_in_two_places_the_later_is_kept(three):
    later = [replace(done, ended=2000, seconds={"train": 1.0}) for done in three]
    assert report_rows.merge(by_id(three), by_id(later), "here") == by_id(later)
    assert report_rows.merge(by_id(later), by_id(three), "here") == by_id(later)


def test_a_cell_in_two_places_has_the_labels_of_both(three):
    other = [replace(done, labels={"reward": "laptop", "scarcity": "quick"}) for done in three]
    for one, two in ((three, other), (other, three)):
        merged = report_rows.merge(by_id(one), by_id(two), "here")
        assert [done.labels for done in merged.values()] == [{"reward": "paper", "scarcity": "quick"}] * 3


def test_cells_that_disagree_are_refused(three):
    rows = [{**three[0].rows[0], "value": -51.0}, *three[0].rows[1:]]
    with pytest.raises(
        InputError, match=rf"cell {three[0].cell.id} is there twice here and its reward of agent 1 diff"
    ):
        report_rows.merge(by_id(three), by_id([replace(three[0], rows=rows)]), "here")
    with pytest.raises(InputError, match="with 5 and 4 rows"):
        report_rows.merge(by_id(three), by_id([replace(three[0], rows=three[0].rows[:4])]), "here")


def test_duplicate_rows(tmp_path, three):
    path = report_rows.rows_path(tmp_path, "reward")
    same = pa.concat_tables([table(three), table(three).slice(0, 2)])
    with pytest.raises(InputError, match=r"the same row twice in .*7 rows, 5 of them different"):
        report_rows.read(write(path, same))
    place = report_rows.SCHEMA.get_field_index("value")
    other = table(three).set_column(place, "value", pa.array([0.0] * 15))
    with pytest.raises(InputError, match=r"is there twice in .*-50\.0 and 0\.0"):
        report_rows.read(write(path, pa.concat_tables([table(three), other])))


def test_rows_of_another_version_are_refused(tmp_path, three):
    path = report_rows.rows_path(tmp_path, "reward")
    changed = table(three).set_column(0, "version", pa.array([4] * 15, pa.int32()))
    with pytest.raises(InputError, match="rows of version 4, this program reads 3"):
        report_rows.read(write(path, changed))
    with pytest.raises(InputError, match="rows of version None"):
        report_rows.read(write(path, table(three).drop_columns(["version"])))


def test_rows_say_what_computed_them(tmp_path, three):
    known = [replace(three[0], machine={"cpu": "A", "numpy": "2"}), *three[1:]]
    assert [done.cell.id for done in known] == [done.cell.id for done in three]
    written = table(known)["machine"].to_pylist()
    assert sorted(map(str, written)) == ["None"] * 10 + ['{"cpu":"A","numpy":"2"}'] * 5
    path = report_rows.rows_path(tmp_path, "reward")
    path.write_bytes(report_rows.encode(known))
    assert by_id(report_rows.read(path)) == by_id(known)
    later = [replace(done, ended=2000, machine={"cpu": "B"}) for done in three]
    assert report_rows.merge(by_id(known), by_id(later), "here") == by_id(later)


def as_version_2(cells):
    """The table as version 0.2 wrote it before machines were recorded."""
    old = table(cells).drop_columns(["machine"])
    return old.set_column(0, "version", pa.array([2] * len(old), pa.int32()))


def test_rows_of_version_2_are_read_without_a_machine_and_rewritten(tmp_path, three):
    path = write(report_rows.rows_path(tmp_path, "reward"), as_version_2(three))
    back = report_rows.read(path)
    assert by_id(back) == by_id(three)
    assert all(done.machine == {} for done in back)
    assert set(table(back)["version"].to_pylist()) == {3}
    with pytest.raises(InputError, match="its columns are not those of rows"):
        report_rows.read(write(path, as_version_2(three).drop_columns(["ended"])))
    mixed = table(three).set_column(0, "version", pa.array([2] + [3] * 14, pa.int32()))
    with pytest.raises(InputError, match="rows of version 2, this program reads 3"):
        report_rows.read(write(path, mixed))


def test_the_report_names_the_machines_the_most_common_first(three):
    a, b = {"cpu": "A", "instructions": "avx2", "device": "cpu"}, {"cpu": "B", "device": "H100"}
    known = [replace(done, machine=found) for done, found in zip(three, (b, a, a), strict=True)]
    line = computed_on([*known, *cells("reward", "cartpole", "random", "persim", [1.0])])
    assert line.startswith("Computed on: A, with avx2, numpy unknown (unknown), torch unknown")
    assert "persim unknown (cells: 2); B, device H100, with unknown" in line
    assert line.endswith("(cells: 1); not recorded, as an earlier version computed them (cells: 1).")


def test_rows_of_version_0_1_are_refused_with_the_way_out_whatever_their_file(tmp_path):
    old = pa.table({"version": pa.array([1], pa.int32()), "suite": ["augmentation"]})
    write(tmp_path / "rows-augmentation.parquet", old)
    with pytest.raises(InputError, match=r"is of version 0\.1.*convert it as CHANGELOG\.md says") as caught:
        report_rows.read_all(tmp_path)
    assert "\n" not in str(caught.value)


def test_rows_of_one_cell_that_contradict_each_other_are_refused(tmp_path, three):
    seeds = pa.array([0, 1, *table(three)["seed"].to_pylist()[2:]])
    changed = table(three).set_column(report_rows.SCHEMA.get_field_index("seed"), "seed", seeds)
    with pytest.raises(InputError, match="does not hold what its id says"):
        report_rows.read(write(report_rows.rows_path(tmp_path, "reward"), changed))


@pytest.mark.parametrize("damage", ["truncated", "text", "column", "settings", "measure", "labels", "env", "machine"])
def test_a_damaged_file_is_refused(tmp_path, three, damage):
    path = report_rows.rows_path(tmp_path, "reward")
    good = report_rows.encode(three)
    if damage == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif damage == "text":
        path.write_text("no Parquet")
    elif damage == "column":
        write(path, table(three).drop_columns(["value"]))
    else:
        place = report_rows.SCHEMA.get_field_index(damage)
        write(path, table(three).set_column(place, damage, pa.array(["x" if damage == "env" else "[]"] * 15)))
    with pytest.raises(InputError, match="is damaged") as caught:
        report_rows.read_all(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_is_never_read_as_other_rows(tmp_path, three):
    good = bytearray(report_rows.encode(three))
    path = report_rows.rows_path(tmp_path, "reward")
    for place in range(4, len(good), 61):
        bad = good.copy()
        bad[place] ^= 0xFF
        path.write_bytes(bytes(bad))
        try:
            found = report_rows.read_all(tmp_path)
        except InputError:
            continue
        assert by_id(three) == found, place


def test_a_file_of_an_unknown_kind_is_refused(tmp_path, three):
    (tmp_path / "rows-rewards.parquet").write_bytes(report_rows.encode(three))
    with pytest.raises(InputError, match="did you mean 'reward'"):
        report_rows.read_all(tmp_path)
    (tmp_path / "rows-rewards.parquet").rename(tmp_path / "rows-holdout.parquet")
    with pytest.raises(InputError, match="is damaged"):
        report_rows.read_all(tmp_path)


def test_the_published_rows_can_be_read():
    published = report_rows.read_all(Path(__file__).parents[2] / "results")
    assert {done.cell.what for done in published.values()} == set(report_rows.KINDS)
    assert all(done.labels.keys() & set(report_rows.SUITES) for done in published.values())
