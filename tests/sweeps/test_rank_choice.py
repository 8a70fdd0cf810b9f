"""The one-standard-error rule on known answers, and where the choice is kept and found again."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from persim.envs import get
from persim.errors import InputError
from persim.learning.presets import RANKS
from persim.methods import Options, PerSim, PerSimSettings, PlanningSettings
from persim.methods.holdout import holdouts
from persim.methods.tuned import RANK, TUNED, rank_path, read_rank, tuned_path, tuned_settings
from persim.storage import store
from persim.storage.cells import CellStore, FinishedCell, plain, row
from sweeps.reporting.rows import read
from sweeps.tuning.ranks import SweepSettings, choose, curves, summarise

SETTINGS = SweepSettings(
    env="cartpole", regime="random", agents=500, holdout=0.2, seed=0, ranks=(3, 5, 10), repeats=3, epochs=300
)
RESULTS = Path(__file__).parents[2] / "results"
HERE = "cartpole", "random", 500


def trial(rank, repeat, error):
    """A finished trial, made by hand."""
    rows = [row("holdout_error", error), *(row("prediction_rmse", 0.1 * agent, agent) for agent in range(1, 6))]
    return FinishedCell(SETTINGS.job(rank, repeat).cell, rows, {}, "abc", {"train": 2.0, "measure": 1.0}, 0, 0)


def summaries(**errors):
    return summarise([trial(int(rank[1:]), i, e) for rank, group in errors.items() for i, e in enumerate(group)])


def test_summary_has_means_and_the_paired_difference():
    summary, best = summaries(r3=[1.0, 3.0, 5.0], r5=[1.0, 2.0, 3.0])
    assert (summary.error, best.error) == pytest.approx((3.0, 2.0))
    assert (best.difference, best.standard_error) == (0, 0)
    assert summary.difference == pytest.approx(1.0)  # of 0, 1 and 2
    assert summary.standard_error == pytest.approx(1 / 3**0.5)
    assert summary.prediction_rmse == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert summary.seconds == pytest.approx(3.0)


def test_the_smallest_rank_within_one_standard_error_is_chosen():
    table = summaries(r3=[9.0, 9.1, 9.2], r5=[1.1, 1.2, 1.3], r10=[0.9, 1.0, 1.5])
    assert min(table, key=lambda s: s.error).rank == 10
    assert choose(table).rank == 5


def unpaired(table, trials):
    """The rule of before: within one standard error of the lowest mean, that of the best rank's own errors."""
    best = min(table, key=lambda s: s.error)
    own = [done.value("holdout_error") for done in trials if done.cell.settings["rank"] == best.rank]
    limit = best.error + np.std(own, ddof=1) / len(own) ** 0.5
    return min(s.rank for s in table if s.error <= limit)


def test_noise_that_splits_share_hides_the_rank_from_the_unpaired_rule_only():
    """Above the true rank, 5, the curve is level; splits differ by ten times what rank 3 lacks."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        splits = rng.exponential(10.0, size=6)
        lacks = {3: 1.0, 5: 0.0, 10: 0.0}
        trials = [trial(r, i, 20 + s + lacks[r] + rng.normal(0, 0.1)) for r in lacks for i, s in enumerate(splits)]
        table = summarise(trials)
        found.append((choose(table).rank, unpaired(table, trials)))
    paired, before = (np.array(ranks) for ranks in zip(*found, strict=True))
    assert (before == 3).mean() > 0.9
    assert (paired == 3).sum() == 0
    assert (paired == 5).mean() > 0.7  # else 10, by one standard error of a difference that is noise alone


def test_trials_are_paired_by_their_split_not_by_their_order():
    errors = {3: [1.1, 5.1, 9.1], 5: [1.0, 5.0, 9.0]}
    trials = [trial(rank, split, group[split]) for rank, group in errors.items() for split in range(3)]
    table = summarise(trials)
    assert summarise([trials[i] for i in (2, 5, 0, 3, 4, 1)]) == table
    assert table[0].difference == pytest.approx(0.1)
    assert table[0].standard_error < 1e-12
    partly = summarise([*trials[:2], *trials[3:]])  # split 3 of rank 3 is still to be done: not better than rank 5
    assert (partly[0].difference, partly[1].difference) == pytest.approx((0, -0.1))
    assert summarise([trials[0], trials[4]])[1].difference == math.inf  # nothing in common


def test_the_published_trials_choose_the_ranks_of_the_paper():
    """5 in CartPole and 3 in MountainCar (Appendix D.1), from the published rows, without training."""
    published = [done for done in read(RESULTS / "rows-holdout.parquet") if "rank_cv" in done.labels]
    chosen = {}
    for env in ("cartpole", "mountaincar"):
        trials = [done for done in published if done.cell.env == env and done.cell.regime == "random"]
        splits = {rank: {t.cell.measure["split"] for t in trials if t.cell.settings["rank"] == rank} for rank in RANKS}
        assert set(map(frozenset, splits.values())) == {frozenset(range(3))}
        chosen[env] = choose(summarise(trials)).rank
    assert chosen == {"cartpole": 5, "mountaincar": 3}


def test_cells_of_the_default_measurement_keep_their_ids():
    """Options that came later do not enter the cells and sweeps that leave them at their defaults."""
    assert SETTINGS.job(5, 1).cell.measure.keys() == {"what", "share", "split", "then"}
    assert SETTINGS.as_json().keys() == {
        "env", "regime", "agents", "holdout", "seed", "ranks", "repeats", "epochs"}  # fmt: skip
    published = next(done for done in read(RESULTS / "rows-holdout.parquet"))
    assert holdouts(0.2, 1).items() <= {**published.cell.measure, "split": 1}.items()
    blocks = dataclasses.replace(SETTINGS, holdout_by="blocks")
    rolled = dataclasses.replace(blocks, error="multi-step", steps=5)
    assert blocks.job(5, 1).cell.measure["by"] == rolled.job(5, 1).cell.measure["by"] == "blocks"
    assert rolled.job(5, 1).cell.measure["steps"] == 5
    assert len({each.job(5, 1).cell.id for each in (SETTINGS, blocks, rolled)}) == 3
    assert len({each.id for each in (SETTINGS, blocks, rolled)}) == 3
    assert rolled.label == "cartpole random N=500, blocks of time held out, error of 5 steps"
    assert SweepSettings(**rolled.as_json()) == rolled


def test_a_rank_outside_one_standard_error_is_not_chosen():
    table = summaries(r3=[2.0, 2.0, 2.0], r5=[1.0, 1.0, 1.0], r10=[1.0, 1.0, 1.0])
    assert choose(table).rank == 5


def test_one_repeat_has_no_standard_error():
    table = summaries(r3=[1.1], r5=[1.0])
    assert [s.standard_error for s in table] == [0, 0]
    assert choose(table).rank == 5
    assert choose(summaries(r3=[1.0], r5=[1.0])).rank == 3


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
