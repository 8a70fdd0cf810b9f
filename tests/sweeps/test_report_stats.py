"""Statistics over few runs, against closed forms and SciPy."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, trim_mean

from sweeps.reporting.stats import improvement, interquartile_mean, iqm, profile, resampled


@pytest.fixture
def tasks(rng):
    return [rng.normal(task, 1, 5) for task in range(8)]


def generator():
    return np.random.default_rng(3)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 27, 100])
def test_interquartile_mean_is_the_trimmed_mean(rng, count):
    scores = rng.normal(size=(3, count))
    assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25, axis=1))


def test_interquartile_mean_ignores_outliers():
    assert interquartile_mean(np.array([1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -1e9])) == pytest.approx(3.5)


def test_iqm_pools_all_runs(tasks):
    found = iqm(tasks, generator())
    assert found.estimate == pytest.approx(trim_mean(np.concatenate(tasks), 0.25))
    assert found.low < found.estimate < found.high


def test_resamples_stay_within_their_task():
    drawn = resampled([np.array([1.0, 2.0]), np.array([5.0, 6.0, 7.0])], generator())
    assert [sample.shape[1] for sample in drawn] == [2, 3]
    assert set(np.unique(drawn[0])) == {1.0, 2.0}
    assert set(np.unique(drawn[1])) == {5.0, 6.0, 7.0}


def test_tasks_that_share_runs_are_resampled_together(tasks):
    one, other = resampled([tasks[0], tasks[0]], generator(), ["same", "same"])
    assert (one == other).all()
    one, other = resampled([tasks[0], tasks[0]], generator())
    assert (one != other).any()


def test_the_interval_does_not_narrow_when_the_same_runs_are_counted_again(tasks):
    def width(found):
        return found.high - found.low

    again, names = [tasks[0]] * 4, ["same"] * 4
    assert width(iqm(again, generator(), names)) > 1.5 * width(iqm(again, generator()))


def test_the_interval_covers_about_95_percent():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        found = iqm([rng.normal(size=30)], rng)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_seed_decides(tasks):
    assert iqm(tasks, generator()) == iqm(tasks, generator())
    assert iqm(tasks, generator()) != iqm(tasks, np.random.default_rng(4))


def test_one_run_a_task_has_no_interval():
    found = iqm([np.array([1.0]), np.array([2.0])], generator())
    assert found.estimate == pytest.approx(1.5)
    assert np.isnan([found.low, found.high]).all()


def test_a_single_run_on_one_side_has_no_interval(tasks):
    found = improvement([scores + 10 for scores in tasks], [scores[:1] for scores in tasks], generator())
    assert found.estimate == 1.0
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(iqm([tasks[0], tasks[1][:1]], generator()).low)


def test_improvement_is_mann_whitneys_u(rng):
    ours = [rng.integers(0, 6, 7).astype(float) for _ in range(4)]
    theirs = [rng.integers(0, 6, 5).astype(float) for _ in range(4)]
    expected = np.mean([mannwhitneyu(x, y).statistic / 35 for x, y in zip(ours, theirs, strict=True)])
    found = improvement(ours, theirs, generator())
    assert found.estimate == pytest.approx(expected)
    assert found.low < found.estimate < found.high


@pytest.mark.parametrize(("shift", "probability"), [(10.0, 1.0), (-10.0, 0.0)])
def test_improvement_of_disjoint_runs_is_certain(tasks, shift, probability):
    found = improvement([scores + shift for scores in tasks], tasks, generator())
    assert (found.estimate, found.low, found.high) == (probability, probability, probability)


def test_ties_count_one_half():
    assert improvement([np.array([200.0, 200.0])], [np.array([200.0] * 3)], generator()).estimate == 0.5


def test_a_profile_is_the_share_above():
    tasks = [np.array([0.0, 1.0]), np.array([0.5, 0.5, 2.0])]
    share, low, high = profile(tasks, np.array([-1.0, 0.0, 0.7, 3.0]), generator())
    assert share == pytest.approx([1.0, (1 / 2 + 1) / 2, (1 / 2 + 1 / 3) / 2, 0.0])
    assert (low <= share).all()
    assert (share <= high).all()
    assert low[0] == high[0] == 1.0
