import numpy as np
import pandas as pd
import pytest
import torch

import persim
from persim.errors import InputError
from persim.tables.adapting import known_steps, read_new, still_open
from persim.tables.given import columns_of
from persim.tables.schema import Schema
from tests.persim.tables.systems import SCHEMA, frame, weights


def inputs(steps=12, seed=5):
    u, k = np.random.default_rng(seed).normal(size=(2, steps))
    return pd.DataFrame({"u": u, "k": k})


def truth(size, x, given):
    a, b, c = weights(size)
    found = []
    for u, k in given.to_numpy():
        x = a * x + b * u + c * k + 1
        found.append(x)
    return np.array(found)


def test_a_linear_system_is_recovered_exactly(linear):
    given, data = inputs(), frame()
    for name in ("h0", "h7"):
        last = data[data.house == name].iloc[-1]
        found = linear.rollout(name, given)
        np.testing.assert_allclose(found.x, truth(last["size"], last.x, given), atol=2e-3)
        assert found.columns.tolist() == ["step", "u", "k", "x"]
        assert found.step.tolist() == list(range(1, 13))


def test_rollouts_are_those_of_a_slow_loop(remembering):
    """Histories are computed afresh at every step from all states and inputs so far."""
    rows, given = frame(noise=0.3, seed=9).query("house == 'h2'").head(20), inputs(6)
    found = remembering.rollout("h2", given, start=rows)
    of, number = remembering.dynamics, remembering.number("h2")
    for member in range(2):
        data = rows.copy()
        for step in range(6):
            # The inputs of the last row that the start has are unknown in a rollout: those given come then.
            data.loc[data.index[-1], ["u", "k"]] = given.iloc[step].to_numpy()
            table = persim.read_table(data, remembering.schema, new=True)
            history = of.features.inputs_of(table).history[-1]
            history[3:5] = memories_of(rows, given, step, (2, 5))
            acts = of.units.acts(np.array([number]), torch.tensor(given.iloc[[step]].to_numpy()))
            seen = of.units.history(np.array([number]), torch.from_numpy(history)[None])
            change = of.terms.difference(seen[None].float(), acts.float(), of.theta[:, [number]])[member, 0, 0]
            x = data.x.iloc[-1] + float(change)
            data = pd.concat([data, data.iloc[[-1]].assign(x=x, hour=data.hour.iloc[-1] + 1)], ignore_index=True)
        paths = of.steps(np.array([number]), torch.from_numpy(remembering.start("h2", rows))[None],
                         torch.tensor(given.to_numpy())[None])  # fmt: skip
        np.testing.assert_allclose(paths[member, 0, :, 0].numpy(), data.x[20:], atol=1e-4)
    np.testing.assert_allclose(found.x, paths.mean(0)[0, :, 0], atol=1e-6)


def memories_of(rows, given, step, spans):
    """Memories of u before a step: the mean of the recorded ones, then all that was done."""
    found = []
    for span in spans:
        memory = rows.u.mean()
        for u in [*rows.u.iloc[:-1], *given.u.iloc[:step]]:
            memory += (1 - np.exp(-1 / span)) * (u - memory)
        found.append(memory)
    return found


def test_what_is_saved_is_what_is_loaded(remembering, tmp_path):
    new = frame(2, 30, seed=4, prefix="n").assign(size=[np.nan] * 30 + [2.0] * 30)
    new.loc[30:, "x"] = np.nan  # one without covariates, one without states
    simulator = remembering.adapt(persim.read_table(new, remembering.schema, new=True))
    simulator.save(tmp_path / "s.safetensors")
    loaded = persim.load(tmp_path / "s.safetensors")
    assert (loaded.schema, loaded.names) == (simulator.schema, simulator.names)
    assert loaded.about == simulator.about
    for name in ("last", "static", "bounds"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(simulator, name))
    pd.testing.assert_frame_equal(loaded.rollout("h1", inputs(), band=0.8), simulator.rollout("h1", inputs(), band=0.8))
    pd.testing.assert_frame_equal(loaded.factors(), simulator.factors())
    test = persim.read_table(frame(steps=30, seed=1), remembering.schema)
    assert str(loaded.evaluate(test, [1, 5])) == str(simulator.evaluate(test, [1, 5]))
    more = frame(1, 9, seed=6, prefix="m")
    both = [one.adapt(persim.read_table(more, one.schema, new=True)) for one in (loaded, simulator)]
    torch.testing.assert_close(both[0].dynamics.theta, both[1].dynamics.theta)
    with pytest.raises(InputError, match="agent 'n1' has no row from which a prediction could start; give at least 3"):
        loaded.rollout("n1", inputs())


def test_a_fit_is_the_same_again(linear):
    again = persim.fit(persim.read_table(frame(), SCHEMA), terms="linear", steps=1, members=2, horizon=5)
    torch.testing.assert_close(again.dynamics.theta, linear.dynamics.theta, rtol=0, atol=0)


def test_without_any_step_an_agent_has_the_weights_that_its_covariates_say(linear):
    table = read_new(pd.DataFrame({"house": ["new"], "size": [2.0]}), SCHEMA)
    new = linear.adapt(table)
    prior = linear.prior
    row = torch.from_numpy(prior.covariates.rows(np.array([[2.0]])))[0]
    expected = torch.einsum("ksgf,g->ksf", prior.mean, row) * prior.unit
    torch.testing.assert_close(new.dynamics.theta[:, -1].double(), expected, rtol=1e-5, atol=1e-6)
    assert known_steps(linear, table).tolist() == [0]
    np.testing.assert_allclose(still_open(new, ["new"]), 1)
    start = pd.DataFrame({"house": ["new"], "hour": [0], "x": [0.5], "u": [0], "k": [0], "size": [2.0]})
    given = inputs(3)
    np.testing.assert_allclose(new.rollout("new", given, start=start).x, truth(2.0, 0.5, given), atol=0.15)


def test_with_thousands_of_steps_an_agent_has_those_of_least_squares():
    simulator = persim.fit(persim.read_table(frame(noise=0.5), SCHEMA), terms="linear", steps=1, members=1, horizon=5)
    table = persim.read_table(frame(1, 4000, seed=8, noise=0.5, prefix="new"), SCHEMA)
    new = simulator.adapt(table)
    x, u, k = table.state[:, 0], table.action[:, 0], table.known[:, 0]
    columns = np.stack([x, u, k, np.ones_like(x)], axis=1)
    expected = np.linalg.lstsq(columns[:-1], x[1:], rcond=None)[0]
    last = np.array([x[-1], 0, 0, 1])
    for column in range(3):
        given = last + (np.arange(4) == column)
        start = pd.DataFrame({"house": ["new0"], "hour": [0], "x": [given[0]], "u": [0], "k": [0],
                              "size": table.static[0]})  # fmt: skip
        found = new.rollout("new0", pd.DataFrame({"u": [given[1]], "k": [given[2]]}), start=start).x[0]
        np.testing.assert_allclose(found, given @ expected, atol=5e-3)
    assert known_steps(simulator, table).tolist() == [3999]
    assert still_open(new, ["new0"])[0] < 0.2


def test_agents_that_are_known_get_new_weights_and_the_others_keep_theirs(linear):
    adapted = linear.adapt(persim.read_table(frame(2, 60, seed=2, noise=0.5), SCHEMA))
    assert adapted.names == ("h2", "h3", "h4", "h5", "h6", "h7", "h0", "h1")
    given = inputs()
    pd.testing.assert_frame_equal(adapted.rollout("h5", given, band=0.9), linear.rollout("h5", given, band=0.9))
    assert not np.allclose(adapted.rollout("h0", given).x, linear.rollout("h0", given).x)


def test_more_steps_make_surer():
    simulator = persim.fit(persim.read_table(frame(noise=0.5), SCHEMA), terms="linear", steps=1, members=1, horizon=5)
    shares = []
    for steps in (3, 10, 100):
        adapted = simulator.adapt(persim.read_table(frame(1, steps, 3, 0.5, "new"), SCHEMA, new=True))
        shares.append(still_open(adapted, ["new0"])[0])
    assert 1 > shares[0] > shares[1] > shares[2] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0; give a whole number of at least 1"),
        ({"rank": "best"}, "rank is 'best'; give a whole number of at least 1, or 'cv'"),
        ({"terms": "bth"}, "did you mean 'both'"),
        ({"seed": -1}, "seed is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"holdout": 1.0}, "holdout is 1.0"),
    ],
)
def test_settings_of_a_fit_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        persim.fit(persim.read_table(frame(3, 30), SCHEMA), **settings)


def test_too_little_data_for_choices_say_so(caplog):
    simulator = persim.fit(persim.read_table(frame(4, 3), SCHEMA), steps=1, members=1)
    assert "nothing is held out" in caplog.text
    assert simulator.about["tried"] == []
    with pytest.raises(InputError, match="no bands were calibrated"):
        simulator.rollout("h0", inputs(), band=0.9)
    assert len(simulator.rollout("h0", inputs())) == 12


def test_an_empty_input_means_what_the_schema_fills():
    schema = Schema("a", "t", ("x",), ("u",), ("meal",), fill={"meal": 0})
    given = pd.DataFrame({"u": [1.0, 2.0], "meal": [None, 30.0]})
    assert columns_of(schema, given, ("u", "meal"), 2).tolist() == [[1.0, 0.0], [2.0, 30.0]]
    with pytest.raises(InputError, match="row 1, column 'meal'"):
        columns_of(schema, given.assign(meal=["much", 1]), ("u", "meal"), 2)
