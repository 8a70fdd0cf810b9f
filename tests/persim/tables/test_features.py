import numpy as np
import pytest

from persim import Schema, read_table
from persim.tables.features import Features
from tests.persim.tables.systems import SCHEMA, frame

HISTORY = {"lags": 3, "memory": {"u": [2, 5], "x": [4], "k": [1.5]}}


def slow(table):
    """Histories ``[T, X]``, row by row: 3 values of x, then memories of u, u, x and k."""
    found = np.full((len(table), 7), np.nan)
    spans = [(table.action, 2), (table.action, 5), (table.state, 4), (table.known, 1.5)]
    for row in range(len(table)):
        for lag in range(3):
            if table.step[row] >= lag:
                found[row, lag] = table.state[row - lag, 0]
        opens = row - table.step[row]
        block = np.flatnonzero(table.block == table.block[row])
        for place, (values, span) in enumerate(spans):
            memory = values[opens, 0] if values is table.state else values[block, 0].mean()
            for before in range(opens, row):
                memory += (1 - np.exp(-1 / span)) * (values[before, 0] - memory)
            found[row, 3 + place] = memory
    return found


def table_of(given, **schema):
    return read_table(given, Schema(**(SCHEMA.to_mapping() | schema)))


def test_histories_are_those_of_a_slow_loop():
    table = table_of(frame(3, 40), **HISTORY)
    features = Features.of(table)
    history, acts = features.inputs_of(table)
    np.testing.assert_allclose(history, slow(table))
    np.testing.assert_array_equal(acts, np.concatenate([table.action, table.known], axis=1))
    assert features.width == 7
    names, inputs = features.names(table.schema)
    assert names[:3] == ["x", "x, 1 before", "x, 2 before"]
    assert names[3:5] == ["memory of u over 2", "memory of u over 5"]
    assert inputs == ["u", "k"]


def test_what_follows_in_a_rollout_is_what_the_table_has():
    import torch

    table = table_of(frame(2, 30), **HISTORY)
    features = Features.of(table)
    history, acts = (torch.from_numpy(part) for part in features.inputs_of(table))
    rows = np.flatnonzero((table.step >= 2) & (table.step < 29))
    following = features.following(history[rows], acts[rows], torch.from_numpy(table.state.copy())[rows + 1])
    np.testing.assert_allclose(following.numpy(), history[rows + 1].numpy())


def test_gaps_in_the_past_are_interpolated_and_the_present_is_not():
    given = frame(1, 12)
    given.loc[[5, 6], "x"] = np.nan
    given.loc[8, "u"] = np.nan
    table = table_of(given, lags=4, memory={"u": [3]})
    history = Features.of(table).inputs_of(table).history
    x = table.state[:, 0]
    assert np.isnan(history[[5, 6], 0]).all()
    np.testing.assert_allclose(history[7, :4], [x[7], x[4] + (x[7] - x[4]) * 2 / 3, x[4] + (x[7] - x[4]) / 3, x[4]])
    assert history[9, 4] == history[8, 4]  # a memory stays where its input is unknown


def test_labels_are_one_hot():
    given = frame(3, 30)
    given["u"] = np.where(given.u > 0, "on", "off")
    table = table_of(given, discrete=True)
    acts = Features.of(table).inputs_of(table).acts
    assert table.labels == ("off", "on")
    np.testing.assert_array_equal(acts[:, 1], given.u == "on")
    np.testing.assert_array_equal(acts[:, 0] + acts[:, 1], 1)


@pytest.mark.parametrize("lags", [1, 2, 5])
def test_rows_before_the_first_lags_are_unknown(lags):
    table = table_of(frame(2, 20), lags=lags)
    known = np.isfinite(Features.of(table).inputs_of(table).history).all(1)
    np.testing.assert_array_equal(known, table.step >= lags - 1)
