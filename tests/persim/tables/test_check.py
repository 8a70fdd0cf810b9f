import numpy as np
import pandas as pd
import pytest

from persim import Schema, read_table
from persim.cli import main
from persim.tables.check import check
from persim.tables.explained import earlier, explained, residual

SCHEMA = Schema(agent="b", time="t", state=["x"], action=["u"], known=["k"], static=["m"])
N, T = 8, 120


def frame(rng, memory=0.0, gain=0.0):
    """A linear system of ``N`` agents that acts by ``gain`` and sees ``memory`` times the input of three steps ago."""
    x, u, k = np.zeros((3, N, T))
    for t in range(T):
        u[:, t] = gain * x[:, t] + rng.normal(size=N) * (0.1 if gain else 1)
        k[:, t] = rng.normal(size=N)
        if t + 1 < T:
            x[:, t + 1] = 0.8 * x[:, t] + u[:, t] + memory * u[:, t - 3] * (t >= 3) + k[:, t] + rng.normal(size=N) * 0.1
    columns = {"x": x.ravel(), "u": u.ravel(), "k": k.ravel(), "m": np.repeat(np.arange(N) % 3, T)}
    return pd.DataFrame({"b": np.repeat([f"b{i}" for i in range(N)], T), "t": np.tile(np.arange(T), N)} | columns)


def found(given, **schema):
    return check(read_table(given, Schema(**(SCHEMA.to_mapping() | schema)), new=True))


def test_a_sound_table_is_ready(rng):
    result = found(frame(rng))
    assert (result.error, result.findings, result.verdict) == ("", [], "ready to fit")
    assert result.steps.tolist() == [T - 1] * N
    assert result.coefficients == 4  # state, action, known input, intercept
    assert [column.name for column in result.columns] == ["x", "u", "k", "m"]


def test_gaps_are_counted_per_agent(rng):
    given = frame(rng)
    given.loc[[0, 1, 10, T + 5, T + 6, T + 7, 2 * T - 1, 2 * T], "x"] = np.nan
    result = found(given.drop([20, 21, 22, 23]).reset_index(drop=True))
    assert result.gaps.tolist() == [3, 2, 1] + [0] * 5
    assert result.longest.tolist() == [4, 3, 1] + [0] * 5
    assert result.rows.tolist() == [T] * N
    assert result.steps[:3].tolist() == [T - 1 - 2 - 2 - 5, T - 1 - 4 - 1, T - 1 - 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(u=f.u.where(f.b != "b3", 2.0)), "action 'u' never varies for b3: its effect there"),
        (lambda f: f.assign(x=f.x.where(f.b != "b3", 2.0)), "state 'x' never varies for b3: is the sensor stuck?"),
        (lambda f: f.assign(k=5.0), "known 'k' is 5 wherever it is known: take it out"),
        (lambda f: f.assign(m=5.0), "static 'm' is 5 wherever it is known: take it out"),
        (lambda f: f.assign(k=f.m), "known 'k' varies between agents but never within one: make it static"),
        (lambda f: f.assign(k=f.u * 3 + 1), "action 'u' nearly follows from the other inputs (100.0%)"),
        (lambda f: f.assign(k=f.k.where(f.k > 1)), "of the rows; if empty means none, say so by `fill`"),
        (lambda f: f.assign(k=f.k.where(f.k > 1)), "rows can be learnt from, as the others lack a state"),
        (lambda f: f.assign(m=f.m.where(f.b > "b4")), "static 'm' is missing in 62% of the agents"),
        (lambda f: f[f.b < "b3"], "only 3 agents: there is little to share"),
        (lambda f: f[(f.b != "b3") | (f.t < 40)], "1 agent with fewer than 40 known steps (10 for each coefficient"),
        (lambda f: f.assign(t=f.t + f.t % 2 * 0.2), "480 rows lie off the grid (every 1): does"),
        (lambda f: f.assign(t=f.t / 2), "472 rows merged with another: a smaller `every`"),
    ],
)
def test_findings_name_what_to_look_at(rng, change, message, tmp_path, capsys):
    change(frame(rng)).to_csv(tmp_path / "t.csv", index=False)
    Schema(**(SCHEMA.to_mapping() | {"every": 1})).save(tmp_path / "s.yaml")
    assert main(["check", str(tmp_path / "t.csv"), "--schema", str(tmp_path / "s.yaml")]) == 0
    shown = capsys.readouterr().out
    assert message in " ".join(shown.split())
    assert "verdict: can be fitted, but see the" in shown.splitlines()[-1]


def test_inputs_that_follow_from_the_state_are_found(rng):
    [column] = [one for one in found(frame(rng, gain=-0.5)).columns if one.name == "u"]
    assert column.by_state > 0.9
    [column] = [one for one in found(frame(rng)).columns if one.name == "u"]
    assert column.by_state < 0.05


def test_what_the_schema_leaves_out_is_found_until_it_is_in(rng):
    given = frame(rng, memory=1.0)
    assert any("earlier rows of action 'u' explain" in line for line in found(given).findings)
    assert not any("earlier rows" in line for line in found(frame(rng)).findings)


def test_discrete_actions(rng):
    given = frame(rng)
    result = found(given.assign(u=np.where(given.u > 0, "on", "off")), discrete=True)
    assert result.error == ""
    assert result.columns[1].by_state < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(u=1.0), "action 'u' is 1 in every row"),
        (lambda f: f.assign(x=np.nan), "agent 'b0' has 0 rows with a known state"),
        (lambda f: f[(f.b != "b3") | (f.t < 2)], "agent 'b3' has 2 rows with a known state, fewer than the 3"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_reported_and_exits_with_2(rng, tmp_path, capsys, change, message):
    change(frame(rng)).to_csv(tmp_path / "t.csv", index=False)
    SCHEMA.save(tmp_path / "s.yaml")
    assert main(["check", str(tmp_path / "t.csv"), "--schema", str(tmp_path / "s.yaml")]) == 2
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("verdict: no simulator can be fitted yet: t.csv: ")
    assert message in last


def test_the_report_shows_every_column_and_the_shortest_agents(rng, tmp_path, capsys):
    given = frame(rng).assign(t=lambda f: pd.Timestamp("2026-03-01") + pd.to_timedelta(f.t, unit="h"))
    given.to_parquet(tmp_path / "t.parquet")
    SCHEMA.save(tmp_path / "s.yaml")
    main(["check", str(tmp_path / "t.parquet"), "--schema", str(tmp_path / "s.yaml")])
    shown = capsys.readouterr().out
    assert "8 agents, 8 trajectories, 960 rows every 1h" in shown
    assert "t: 2026-03-01T00:00:00 to 2026-03-05T23:00:00" in shown
    assert "known steps per agent: 119 to 119, median 119" in shown
    assert shown.splitlines()[-1] == "verdict: ready to fit"


def test_explained_shares_have_known_answers(rng):
    agent, x = np.repeat([0, 1], 500), rng.normal(size=(1000, 3))
    y = 2 * x[:, :1] - x[:, 1:2] + 100 * agent[:, None]
    np.testing.assert_allclose(residual(y, x, agent), 0, atol=1e-9)
    assert explained(y, x, agent) == pytest.approx(1)
    assert explained(y, x[:, :1], agent) == pytest.approx(0.8, abs=0.05)
    assert explained(y, rng.normal(size=(1000, 3)), agent) < 0.02
    assert np.isnan(explained(0 * y, x, agent))
    assert np.isnan(explained(y[:20], x[:20], agent[:20]))
    assert np.isnan(explained(y, x[:, :0], agent))


def test_earlier_values_are_of_the_same_trajectory(rng):
    table = read_table(frame(rng), SCHEMA)
    x = table.column("x")
    row = np.array([5, T + 1])
    before = earlier(table, x, row, 3)
    np.testing.assert_array_equal(before[0], x[[4, 3, 2]])
    np.testing.assert_allclose(before[1], [x[T], *[x[T : 2 * T].mean()] * 2])
