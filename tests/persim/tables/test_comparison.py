from dataclasses import replace

import numpy as np
import pytest

import persim
from persim.errors import InputError
from persim.tables.comparison import Comparison, fitting_horizons
from tests.persim.tables.systems import SCHEMA, frame

ERRORS = {"PerSim": [1.0, 2.0], "last value": [3.0, 4.0], "ARX, one per agent": [2.0, 1.0]}


def comparison(**errors):
    """Two horizons, three agents; each error is the same for all agents but the last, whose is twice that."""
    wanted = ERRORS | {name.replace("_", " "): found for name, found in errors.items()}
    share = np.array([1, 1, 2])[:, None]
    given = {name: np.array(found)[:, None, None] * share for name, found in wanted.items()}
    return Comparison((1, 8), ("x",), ("a", "b", "c"), given, 30, "1", None, False)


def test_the_last_line_says_where_another_is_better_and_what_to_try():
    text = str(comparison())
    assert text.splitlines()[-1] == (
        "PerSim does not win everywhere: ARX, one per agent is better at 8 steps. Use that, or try more data for each "
        'agent, lags and memory in the schema, rank="cv", or covariates.'
    )
    assert "3 of 3" in text
    assert "0 of 3" in text


def test_the_last_line_says_that_it_wins():
    found = comparison(PerSim=[0.5, 0.5])
    assert str(found).splitlines()[-1] == "PerSim has the lowest mean error at every horizon."
    np.testing.assert_array_equal(found.wins("last value"), [[3], [3]])


def test_the_last_line_says_that_the_last_value_is_best():
    line = str(comparison(last_value=[0.1, 0.1])).splitlines()[-1]
    assert "last value is better at 1 step; last value is better at 8 steps" in line
    assert "these data may hold nothing that predicts the next steps" in line


def test_an_agent_without_a_model_counts_as_no_win_and_not_as_an_error():
    found = comparison()
    errors = found.errors | {"ARX, one per agent": np.full((2, 3, 1), np.nan)}
    text = str(replace(found, errors=errors))
    assert text.splitlines()[-1].startswith("PerSim has the lowest")
    assert "nan" not in text


def test_errors_are_those_of_a_slow_loop(linear):
    test = persim.read_table(frame(seed=3, noise=0.2, steps=30), SCHEMA)
    found = linear.evaluate(test, [1, 6])
    x = test.state[:, 0].reshape(8, 30)
    for place, horizon in enumerate((1, 6)):
        last = [[np.square(one[t + 1 : t + horizon + 1] - one[t]).mean() for t in range(24)] for one in x]
        np.testing.assert_allclose(found.errors["last value"][place, :, 0], np.sqrt(np.mean(last, axis=1)))
    assert found.windows == 8 * 24
    assert list(found.errors) == ["PerSim", "last value", "ARX, one per agent", "ARX, one for all", "one net for all"]
    frame_ = found.frame()
    assert len(frame_) == 5 * 2 * 8
    assert frame_.query("method == 'last value' and agent == 'h3' and horizon == 6").rmse.item() == pytest.approx(
        found.errors["last value"][1, 3, 0]
    )


def test_in_a_linear_system_an_arx_per_agent_is_as_exact_and_the_others_are_not(linear):
    errors = linear.evaluate(persim.read_table(frame(seed=3), SCHEMA), [10]).errors
    assert errors["PerSim"].max() < 0.01
    assert errors["ARX, one per agent"].max() < 0.01
    assert min(errors[name].mean() for name in ("last value", "ARX, one for all", "one net for all")) > 0.1


def test_horizons_fit_the_test(linear):
    test = persim.read_table(frame(steps=30), SCHEMA)
    assert fitting_horizons(test) == (1, 10)
    for horizons, message in (
        ([31], "longer than the test, whose longest trajectory has 30"),
        ([0], "from 1"),
        ([], "from 1"),
    ):
        with pytest.raises(InputError, match=message):
            linear.evaluate(test, horizons)
    with pytest.raises(InputError, match="agent 'new0' is unknown"):
        linear.evaluate(persim.read_table(frame(1, prefix="new"), SCHEMA))
    with pytest.raises(InputError, match="no window of 30 steps"):
        linear.evaluate(test, [30])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(x=100 * f.x), "column 'x' is about .* more than 30 times apart; give it in the same unit"),
        (lambda f: f.assign(hour=f.hour / 60), "rows share a point of the grid with another"),
    ],
)
def test_a_table_in_other_units_is_refused(linear, change, message):
    with pytest.raises(InputError, match=message):
        linear.evaluate(persim.read_table(change(frame()), linear.schema, new=True), [1])
