"""The one-standard-error rule on known answers, and where the choice is kept."""

import dataclasses

import pytest

from persim.errors import InputError
from persim.storage.cells import CellStore, FinishedCell, row
from sweeps.tuning.rank_choice import choose, read_choice, summarise, write_choice
from sweeps.tuning.rank_trial import SweepSettings

SETTINGS = SweepSettings("cartpole", "random", 500, (3, 5, 10), 3, 300, 0.2, 0)


def trial(rank, repeat, error):
    cell = SETTINGS.cell(rank, repeat)
    rows = [row("holdout_error", error), *(row("prediction_rmse", 0.1 * agent, agent) for agent in range(1, 6))]
    return FinishedCell(cell, rows, {}, 0, "abc", {"train": 2.0, "measure": 1.0}, 0, 0)


def summaries(**errors):
    return summarise([trial(int(rank[1:]), i, e) for rank, group in errors.items() for i, e in enumerate(group)])


def test_summary_has_mean_and_standard_error():
    (summary,) = summaries(r5=[1.0, 2.0, 3.0])
    assert summary.error == pytest.approx(2.0)
    assert summary.standard_error == pytest.approx(1 / 3**0.5)
    assert summary.prediction_rmse == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert summary.seconds == pytest.approx(3.0)


def test_the_smallest_rank_within_one_standard_error_is_chosen():
    table = summaries(r3=[9.0, 9.1, 9.2], r5=[1.1, 1.2, 1.3], r10=[0.9, 1.0, 1.4])
    assert min(table, key=lambda s: s.error).rank == 10
    assert choose(table).rank == 5


def test_a_rank_outside_one_standard_error_is_not_chosen():
    table = summaries(r3=[2.0, 2.0, 2.0], r5=[1.0, 1.0, 1.0], r10=[1.0, 1.0, 1.0])
    assert choose(table).rank == 5


def test_one_repeat_has_no_standard_error():
    assert choose(summaries(r3=[1.1], r5=[1.0])).rank == 5


def test_the_choice_is_found_again(tmp_path):
    table = summaries(r3=[2.0], r5=[1.0])
    write_choice(tmp_path, dataclasses.asdict(SETTINGS), table[1], table)
    assert read_choice(tmp_path, "cartpole", "random", 500) == 5
    with pytest.raises(InputError, match=r"run: python sweeps/rank_cv.py --env cartpole .* --agents 250"):
        read_choice(tmp_path, "cartpole", "random", 250)


def test_a_cell_is_named_by_what_its_result_depends_on():
    more = dataclasses.replace(SETTINGS, ranks=(3, 5), repeats=9)
    assert more.cell(5, 1).id == SETTINGS.cell(5, 1).id
    ids = {cell.id for cell in SETTINGS.cells()}
    assert len(ids) == 9
    for change in ({"epochs": 299}, {"seed": 1}, {"agents": 499}, {"holdout": 0.25}, {"env": "mountaincar"}):
        assert dataclasses.replace(SETTINGS, **change).cell(5, 1).id not in ids


def test_a_prediction_that_ran_away_is_kept_as_infinite(tmp_path):
    cells, done = CellStore(tmp_path), trial(5, 0, 1.5)
    rows = [*done.rows[:-1], row("prediction_rmse", float("nan"), 5)]
    cells.finish(dataclasses.replace(done, rows=rows))
    back = cells.finished(done.cell)
    assert back.value("prediction_rmse", 5) == float("inf")
    table = summarise([back])
    assert table[0].prediction_rmse[4] == float("inf")
    write_choice(tmp_path, dataclasses.asdict(SETTINGS), table[0], table)
    assert read_choice(tmp_path, "cartpole", "random", 500) == 5


def test_finished_cells_come_back(tmp_path):
    cells, done = CellStore(tmp_path), trial(5, 0, 1.5)
    assert cells.finished(done.cell) is None
    cells.finish(done)
    assert cells.finished(done.cell) == done
    assert done.value("prediction_rmse", 2) == pytest.approx(0.2)
    with pytest.raises(KeyError):
        done.value("reward")
    path = cells.record_path(done.cell)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="damaged"):
        cells.finished(done.cell)
