"""The one-standard-error rule on known answers, and where the choice is kept and found again."""

import dataclasses

import pytest

from persim.envs import get
from persim.errors import InputError
from persim.methods import Options, PerSim, PerSimSettings, PlanningSettings
from persim.methods.tuned import RANK, TUNED, rank_path, read_rank, tuned_path, tuned_settings
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell, plain, row
from sweeps.tuning.ranks import SweepSettings, choose, curves, summarise

SETTINGS = SweepSettings(
    env="cartpole", regime="random", agents=500, holdout=0.2, seed=0, ranks=(3, 5, 10), repeats=3, epochs=300
)
HERE = "cartpole", "random", 500


def trial(rank, repeat, error):
    """A finished trial, made by hand."""
    rows = [row("holdout_error", error), *(row("prediction_rmse", 0.1 * agent, agent) for agent in range(1, 6))]
    return FinishedCell(SETTINGS.job(rank, repeat).cell, rows, {}, "abc", {"train": 2.0, "measure": 1.0}, 0, 0)


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


def test_a_rank_that_diverged_is_not_chosen_and_not_drawn():
    table = summaries(r3=[float("inf"), 0.1], r5=[1.0, 1.0])
    assert choose(table).rank == 5
    assert curves(table, choose(table))["by_rank/holdout_error"] == [(5, 1.0)]
    with pytest.raises(InputError, match="diverged at every rank"):
        choose(table[:1])


def test_the_choice_is_found_again(tmp_path):
    store.write_record(rank_path(tmp_path, *HERE), RANK, {"rank": 5, "settings": SETTINGS.as_json(), "table": []})
    assert read_rank(tmp_path, *HERE) == 5
    with pytest.raises(InputError, match=r"run: python sweeps/rank_cv.py --env cartpole .* --agents 250"):
        read_rank(tmp_path, "cartpole", "random", 250)


def test_a_cell_is_named_by_what_its_result_depends_on():
    more = dataclasses.replace(SETTINGS, ranks=(3, 5), repeats=9)
    assert more.job(5, 1).cell.id == SETTINGS.job(5, 1).cell.id
    ids = {job.cell.id for job in SETTINGS.jobs()}
    assert len(ids) == 9
    for change in ({"epochs": 299}, {"seed": 1}, {"agents": 499}, {"holdout": 0.25}, {"env": "mountaincar"}):
        assert dataclasses.replace(SETTINGS, **change).job(5, 1).cell.id not in ids


def test_a_prediction_that_ran_away_is_kept_as_infinite(tmp_path):
    cells, done = CellStore(tmp_path), trial(5, 0, 1.5)
    rows = [*done.rows[:-1], row("prediction_rmse", float("nan"), 5)]
    cells.finish(dataclasses.replace(done, rows=rows))
    back = cells.finished(done.cell)
    assert back.value("prediction_rmse", 5) == float("inf")
    assert summarise([back])[0].prediction_rmse[4] == float("inf")


def test_finished_cells_come_back(tmp_path):
    cells, done = CellStore(tmp_path), trial(5, 0, 1.5)
    assert cells.finished(done.cell) is None
    cells.finish(done)
    assert cells.finished(done.cell) == done
    assert done.value("prediction_rmse", 2) == pytest.approx(0.2)
    with pytest.raises(KeyError):
        done.value("reward")
    path = cells.record_path(done.cell.id)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="damaged"):
        cells.finished(done.cell)


def tune(root, objective, rank, **other):
    """A record as ``tune.py`` writes it."""
    spec = get("cartpole")
    settings = PerSimSettings.of(spec, PlanningSettings.of(spec, "cem", plans=123), rank=rank, epochs=7)
    about = {"env": "cartpole", "regime": "random", "agents": 500, "seed": 0, "objective": objective, **other}
    record = {"method": "persim", **about, "value": 1.0, "best": plain(PerSim(settings).about()), "table": []}
    path = tuned_path(root, *HERE, objective)
    store.write_record(path, TUNED, record)
    return path


def test_tuned_settings_are_those_of_the_reward_if_there_are_any(tmp_path):
    spec = get("cartpole")
    with pytest.raises(InputError, match=r"nothing was tuned yet .* run: python sweeps/tune\.py --env cartpole"):
        tuned_settings("tuned", tmp_path, *HERE)
    path = tune(tmp_path, "holdout", 6)
    found = tuned_settings("tuned", tmp_path, *HERE)
    assert set(found) == {"rank", "train", "nets"}  # the planner was not tuned
    assert tuned_settings(str(path), tmp_path, "cartpole", "pure", 20) == found
    tune(tmp_path, "reward", 8)
    found = tuned_settings("tuned", tmp_path, *HERE)
    settings = PerSimSettings.chosen(spec, Options(tuned=found))
    assert (settings.rank, settings.train.epochs) == (8, 7)
    assert (settings.planning.planner, settings.planning.settings.plans) == ("cem", 123)
    assert PerSimSettings.chosen(spec, Options(tuned=found, rank=2, planner="random_shooting")).rank == 2


def test_a_chosen_rank_is_settings_too(tmp_path):
    path = rank_path(tmp_path, *HERE)
    store.write_record(path, RANK, {"rank": 10, "settings": SETTINGS.as_json(), "table": []})
    found = tuned_settings(str(path), tmp_path, "cartpole", "pure", 25)
    assert PerSimSettings.chosen(get("cartpole"), Options(tuned=found)).rank == 10


def test_settings_that_do_not_fit_are_refused_in_one_line(tmp_path):
    path = tune(tmp_path, "holdout", 6)
    other = tmp_path / "other.json"
    store.write_record(other, "cell", {})
    old = tmp_path / "old.json"
    store.write_record(old, TUNED, {"best": {"rank": 3}, "study": {}})
    for text, env, expected in (
        (path, "mountaincar", "has settings for cartpole, not for mountaincar; give another file, or run: python"),
        (other, "cartpole", "holds 'cell'; give a file of 'tuned-settings' or 'rank-choice'"),
        (old, "cartpole", "was written by version 0.1; run: python sweeps/tune.py"),
        (tmp_path / "none.json", "cartpole", "cannot be read (No such file or directory)"),
        (tmp_path, "cartpole", "cannot be read (Is a directory)"),
        (tune(tmp_path, "reward", 6, method="bcq"), "cartpole", "has settings of bcq, but only PerSim takes settings"),
    ):
        with pytest.raises(InputError) as caught:
            tuned_settings(str(text), tmp_path, env, "random", 500)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_text(path.read_text().replace("cartpole", "mountaincar"))
    with pytest.raises(InputError, match="is damaged"):
        tuned_settings(str(path), tmp_path, *HERE)
