"""Run records: round trip, what is refused, and that no file is ever half written."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.reporting import RECORD_KIND, RunRecord, read_record, read_records, write_record

FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
SCALAR = st.none() | st.booleans() | FINITE | st.text()
JSON = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = st.text(min_size=1, max_size=5)


def traces():
    """Nothing, or series of one common length, one of them "iteration"."""
    lengths = st.integers(0, 30)
    series = lengths.flatmap(
        lambda n: (
            st.dictionaries(NAMES, st.lists(FINITE, min_size=n, max_size=n), max_size=2).map(
                lambda found: {"iteration": list(range(n))} | found
            )
            if n
            else st.just({})
        )
    )
    return series.filter(lambda t: len({len(s) for s in t.values()}) <= 1)


RECORDS = st.builds(
    RunRecord,
    experiment=NAMES,
    method=NAMES,
    seed=st.integers(),
    preset=NAMES,
    config=st.dictionaries(st.text(), JSON, max_size=4),
    epochs=st.lists(
        st.dictionaries(NAMES, FINITE, max_size=3).map(lambda m: m | {"epoch": 1}), max_size=4
    ),
    traces=traces(),
    final=st.dictionaries(NAMES, FINITE, max_size=3),
    best=st.dictionaries(
        NAMES, st.fixed_dictionaries({"value": FINITE, "epoch": st.integers(0)}), max_size=2
    ),
    cost=st.dictionaries(NAMES, JSON, max_size=3),
    data=st.dictionaries(NAMES, st.text(), max_size=3),
    provenance=st.dictionaries(NAMES, JSON, max_size=3),
    curves=st.dictionaries(NAMES, st.lists(FINITE, max_size=30), max_size=2),
)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(record=RECORDS)
def test_a_record_is_read_as_it_was_written(record, tmp_path):
    path = write_record(record, tmp_path / "record.json")
    back = read_record(path)
    assert back == record
    # == takes 1 and 1.0 for the same; the file must not.
    assert repr(back) == repr(record)


def test_records_from_before_curves_are_read(make_record, tmp_path):
    path = write_record(make_record(curves={"weight": [0.5, 1.0]}), tmp_path / "r.json")
    assert read_record(path).curves == {"weight": [0.5, 1.0]}
    change(path, lambda d: d.pop("curves"))
    assert read_record(path) == make_record()


def test_tuples_are_read_as_lists(make_record, tmp_path):
    record = make_record(config={"sizes": (1, (2, 3))})
    back = read_record(write_record(record, tmp_path / "r.json"))
    assert back.config == {"sizes": [1, [2, 3]]}


def test_short_values_and_numbers_share_lines(make_record, tmp_path):
    steps = list(range(2000))
    record = make_record(traces={"iteration": steps, "loss": [0.5] * 2000})
    text = write_record(record, tmp_path / "r.json").read_text()
    assert '{"epoch": 2, "accuracy": 0.75}' in text
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 101  # and a comma
    assert len(lines) < 300
    assert json.loads(text)["traces"]["iteration"] == steps


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(make_record, tmp_path, value):
    record = make_record(epochs=[{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": value}])
    with pytest.raises(UserError, match=r"record\.epochs\[1\]\.loss"):
        write_record(record, tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": "1"}, r"\$\.seed"),
        ({"seed": True}, r"\$\.seed"),
        ({"method": ""}, r"\$\.method"),
        ({"epochs": [{"accuracy": 1.0}]}, r"\$\.epochs\[0\]"),
        ({"final": {"accuracy": "high"}}, r"\$\.final\.accuracy"),
        ({"final": {"accuracy": True}}, r"\$\.final\.accuracy"),
        ({"best": {"accuracy": {"value": 1.0}}}, r"\$\.best\.accuracy"),
        ({"data": {"train": 5}}, r"\$\.data\.train"),
        ({"traces": {"iteration": [1, 2], "loss": [1.0]}}, "different lengths"),
        ({"traces": {"loss": [1.0]}}, '"iteration"'),
        ({"curves": {"weight": ["1"]}}, r"\$\.curves\.weight\[0\]"),
        ({"traces": {"iteration": ["1"]}}, r"\$\.traces\.iteration\[0\]"),
        ({"config": {"path": object()}}, r"record\.config\.path"),
        ({"config": {1: 2}}, "keys must be strings"),
        ({"schema_version": 0}, "schema_version"),
        ({"provenance": {"wall_seconds": -1}}, "wall_seconds"),
    ],
)
def test_what_the_schema_does_not_allow_is_not_written(make_record, tmp_path, changes, field):
    with pytest.raises(UserError, match=field):
        write_record(make_record(**changes), tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("final"), "'final' is a required property"),
        (lambda d: d.update(seed="one"), r"\$\.seed"),
        (lambda d: d.update(extra=1), "'extra' was unexpected"),
        (lambda d: d.update(schema_version=2), "update the code"),
        (lambda d: d["traces"]["angle"].pop(), "different lengths"),
    ],
)
def test_a_record_that_was_changed_by_hand_is_refused_with_its_name(
    make_record, tmp_path, edit, message
):
    path = write_record(make_record(), tmp_path / "changed.json")
    change(path, edit)
    for read in (lambda: read_record(path), lambda: read_records(tmp_path)):
        with pytest.raises(UserError, match=message) as caught:
            read()
        assert "changed.json" in str(caught.value)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "1e999"])
def test_constants_that_are_no_json_are_refused(make_record, tmp_path, constant):
    path = write_record(make_record(), tmp_path / "r.json")
    path.write_text(path.read_text().replace('"accuracy": 0.5', f'"accuracy": {constant}'))
    with pytest.raises(UserError, match=r"r\.json"):
        read_record(path)


def test_every_truncation_is_refused_with_the_name_of_the_file(make_record, tmp_path):
    path = write_record(make_record(), tmp_path / "cut.json")
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.json"):
            read_records(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(UserError, match=r"binary\.json"):
        read_records(tmp_path)


def test_reading_a_folder_takes_records_only_sorted_and_of_one_experiment(make_record, tmp_path):
    write_record(make_record(seed=2), tmp_path / "b" / "2.json")
    write_record(make_record(seed=1), tmp_path / "a" / "deep" / "1.json")
    write_record(make_record(seed=3, experiment="metaxl"), tmp_path / "c.json")
    (tmp_path / "table.json").write_text('{"kind": "table"}')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "metrics.jsonl").write_text("{broken")
    assert [r.seed for r in read_records(tmp_path)] == [1, 2, 3]
    assert [r.seed for r in read_records(tmp_path, "rotation")] == [1, 2]
    assert read_records(tmp_path / "absent") == []


def test_reading_one_file_that_is_missing_or_no_record_says_so(tmp_path):
    with pytest.raises(UserError, match="no run record at"):
        read_record(tmp_path / "absent.json")
    (tmp_path / "table.json").write_text('{"kind": "table"}')
    with pytest.raises(UserError, match=r"table\.json is not a run record"):
        read_record(tmp_path / "table.json")


def test_an_exception_while_writing_leaves_the_old_record(make_record, tmp_path, monkeypatch):
    path = write_record(make_record(seed=1), tmp_path / "r.json")
    before = path.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_record(make_record(seed=2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_the_file_says_what_it_is(make_record, tmp_path):
    document = json.loads(write_record(make_record(), tmp_path / "r.json").read_text())
    assert document["kind"] == RECORD_KIND
    assert document["schema_version"] == 1
