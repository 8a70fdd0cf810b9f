import pytest

from persim import Schema
from persim.errors import InputError
from persim.tables.schema import calendar, seconds

GIVEN = {"agent": "patient", "time": "minute", "state": ["cgm"], "action": ["insulin"], "known": ["carbs"]}


def schema(**changes):
    return Schema(**(GIVEN | changes))


def test_lists_become_tuples_and_one_name_may_stand_for_a_list():
    given = schema(state="cgm", memory={"insulin": 60, "carbs": [40, 120]})
    assert given == schema(memory={"insulin": (60,), "carbs": (40, 120)})
    assert given.state == ("cgm",)
    assert given.inputs == ("insulin", "carbs")
    assert given.columns == ("patient", "minute", "cgm", "insulin", "carbs")


@pytest.mark.parametrize(
    "given",
    [
        schema(),
        schema(static=["weight"], reward="r", trajectory="day", every=15, lags=4, memory={"insulin": [60, 180]}),
        schema(time="when", every="15min", memory={"cgm": ["3h"]}, fill={"carbs": 0}),
        schema(discrete=True, labels=["off", "on"]),
    ],
)
def test_yaml_and_mappings_give_the_same_schema_back(tmp_path, given):
    given.save(tmp_path / "schema.yaml")
    assert Schema.load(tmp_path / "schema.yaml") == given
    assert Schema.of_mapping(given.to_mapping()) == given


def test_yaml_holds_only_what_was_said(tmp_path):
    schema(every=15).save(tmp_path / "schema.yaml")
    assert set((tmp_path / "schema.yaml").read_text().split()) == {
        *("agent:", "patient", "time:", "minute", "state:", "-", "cgm", "action:", "insulin", "known:", "carbs"),
        *("every:", "15"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": []}, "state names no column"),
        ({"known": ["cgm"]}, "column 'cgm' is named as state and as known"),
        ({"state": ["cgm", "cgm"]}, "column 'cgm' is named twice as state"),
        ({"agent": ""}, "agent is ''"),
        ({"lags": 0}, "schema: lags is 0"),
        ({"lags": "4"}, "schema: lags is '4'"),
        ({"discrete": "maybe"}, "schema: discrete is 'maybe'"),
        ({"discrete": True, "labels": [True, False]}, "labels has True; put quotes around on, off"),
        ({"every": [15]}, "[15] is no length of time"),
        ({"every": -1}, "-1 is no length of time"),
        ({"every": "often"}, "'often' is no length of time"),
        ({"every": "15T"}, "'15T' is no length of time"),
        ({"memory": {"insulinn": [60]}}, "did you mean 'insulin'"),
        ({"memory": {"insulin": [0]}}, "0 is no length of time"),
        ({"memory": [60]}, "memory is"),
        ({"discrete": True, "memory": {"insulin": [60]}}, "memory of 'insulin'"),
        ({"discrete": True, "action": []}, "exactly one action column, not 0"),
        ({"labels": ["a"]}, "labels are of discrete actions"),
        ({"fill": {"cgm": 0}}, "fill of 'cgm'"),
        ({"fill": {"carbs": float("nan")}}, "fill of 'carbs' is nan"),
        ({"state": 3.5j}, "state is 3.5j"),
    ],
)
def test_bad_schemas_are_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        schema(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agent: p\ntime: t\nstates: [x]\n", "key 'states' is unknown (did you mean 'state'?)"),
        ("agent: p\ntime: t\n", "has no 'state'; name the columns of the state"),
        ("time: t\nstate: x\n", "has no 'agent'; name the column of the agent"),
        ("- p\n", "is no YAML mapping"),
        ("agent: [p\n", "cannot be read"),
        ("agent: p\ntime: 2026-13-45\nstate: x\n", "cannot be read"),
        ("agent: p\ntime: t\nstate: no\n", "has no 'state'"),
    ],
)
def test_bad_yaml_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "schema.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        Schema.load(tmp_path / "schema.yaml")
    assert message in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        Schema.load(tmp_path / "none.yaml")


def test_spans_are_numbers_or_offsets():
    assert [seconds(one) for one in (15, 0.5, "15min", "h", "2h", "1D")] == [15, 0.5, 900, 3600, 7200, 86400]
    assert [calendar(one) for one in ("MS", "1ME", "QS", "YE", "15min", 3)] == ["M", "M", "Q", "Y", None, None]
    assert seconds("MS") == pytest.approx(365.2425 * 86400 / 12)


def test_a_schema_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^schema '.*' cannot be written \(No such file or directory\)$"):
        schema().save(tmp_path / "none" / "schema.yaml")
