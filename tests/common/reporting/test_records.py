"""Records: round trip, what is refused, and that no file is ever half written."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.reporting import RunRecord, load, read_records, save
from common.reporting.records import checksum

FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
SCALAR = st.none() | st.booleans() | FINITE | st.text()
JSON = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = st.text("abxyz", min_size=1, max_size=5)


@st.composite
def records(draw):
    """Records as a run leaves them, with any settings, metrics and series."""
    count = draw(st.integers(1, 4))
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    rows = [
        {"epoch": e} | {n: draw(FINITE) for n in names} for e in range(1, count + 1)
    ]  # fmt: skip
    best = max(rows, key=lambda row: row[names[0]])
    steps = draw(st.integers(1, 30))
    series = st.lists(FINITE, min_size=steps, max_size=steps)
    own = {"method": draw(NAMES), "seed": draw(st.integers(0, 2**32 - 1)), "preset": draw(NAMES)}
    return RunRecord(
        experiment=draw(NAMES),
        **own,
        config=draw(st.dictionaries(st.text(), JSON, max_size=4)) | own | {"epochs": count},
        epochs=rows,
        traces=draw(st.dictionaries(NAMES, series, max_size=2)) | {"iteration": list(range(steps))},
        final={name: rows[-1][name] for name in names},
        best={names[0]: {"value": best[names[0]], "epoch": best["epoch"]}},
        cost=draw(st.dictionaries(NAMES, st.floats(0, 1e9), max_size=3)),
        data=draw(st.dictionaries(NAMES, st.text(min_size=1), max_size=3)),
        provenance=draw(st.dictionaries(NAMES, JSON, max_size=3))
        | {"python": "3.11", "torch": "2.13", "device": "cpu",
           "started": "2026-01-01T00:00:00Z", "finished": "2026-01-02T00:00:00Z"},
        curves=draw(st.dictionaries(NAMES, st.lists(FINITE, max_size=30), max_size=2)),
    )  # fmt: skip


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(record=records())
def test_a_record_is_read_as_it_was_written(record, tmp_path):
    back = load(save(record, tmp_path / "record.json"), RunRecord)
    assert back == record
    # == takes 1 and 1.0 for the same; the file must not.
    assert repr(back) == repr(record)


def test_records_from_before_curves_and_checksums_are_read(make_record, tmp_path):
    path = save(make_record(curves={"weight": [0.5, 1.0]}), tmp_path / "r.json")
    assert load(path, RunRecord).curves == {"weight": [0.5, 1.0]}
    change(path, lambda d: d.pop("curves"))
    assert load(path, RunRecord) == make_record()


def test_short_values_and_numbers_share_lines(make_record, tmp_path):
    steps = list(range(2000))
    record = make_record(traces={"iteration": steps, "loss": [0.5] * 2000})
    text = save(record, tmp_path / "r.json").read_text()
    assert '{"epoch": 2, "accuracy": 75, "accuracy_ci95": 2.0, "moved": 1.5}' in text
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 101  # and a comma
    assert len(lines) < 300
    assert json.loads(text)["traces"]["iteration"] == steps


def change(path, edit, keep_checksum=False):
    """Edits a record file; its checksum goes, so that only its consistency can give it away."""
    document = json.loads(path.read_text())
    if not keep_checksum:
        document.pop("sha256")
    edit(document)
    path.write_text(json.dumps(document))


# Dotted path of a field -> the values put there; "-" takes the field away.
MUTATIONS = {
    "kind": ["table", None, 1, "-"],
    "schema_version": [0, 2, "1", True, None],
    "experiment": ["metaxl", "", 1, None, "-"],
    "method": ["t1t2", "", 1, None, "-"],
    "seed": [2, -1, 2**32, "1", True, 1.0, None, "-"],
    "preset": ["paper", "", None, "-"],
    "config": [{}, [], None, "-"],
    "config.method": ["t1t2", None, "-"],
    "config.seed": [2, "1", "-"],
    "config.preset": ["paper", "-"],
    "config.epochs": [1, 3, "2", None, "-"],
    "config.learning_rate": [float("nan")],
    "epochs": [[], {}, None, "-"],
    "epochs.0": [{}, [], None],
    "epochs.0.epoch": [2, 0, 1.5, "1", None, "-"],
    "epochs.1.epoch": [1, 3, "-"],
    "epochs.1.accuracy": [74, 101, "75", None, float("inf"), True, "-"],
    "epochs.1.moved": [1.4, "-"],
    "traces": [{}, [], None, "-"],
    "traces.iteration": [[1, 2], [1, 3, 2], [1, 1, 2], "-", []],
    "traces.angle": [[0.0], [0.0, "1", 2], [0.0, None, 1.0], 3],
    "final": [{}, [], None, "-"],
    "final.accuracy": [74, 50.0, "75", None, "-"],
    "final.other": [1.0],
    "final.moved": [-1.5],
    "best": [{}, [], None, "-"],
    "best.accuracy": [{}, None, 75],
    "best.accuracy.value": [80, 50.0, "75", "-"],
    "best.accuracy.epoch": [1, 3, None, "-"],
    "best.other": [{"value": 1, "epoch": 1}],
    "cost": [[], None, "-"],
    "cost.seconds": [-0.1, 0.4, 0.05, "0.2", None],
    "cost.peak_bytes": [-1, "123"],
    "cost.repeats": [0],
    "data": [[], None, "-"],
    "data.train": [5, "", None],
    "provenance": [{}, [], None, "-"],
    "provenance.python": [None, 3.11, "-"],
    "provenance.device": [None, "-"],
    "provenance.started": ["2027-01-01T00:00:00Z", "yesterday", None, "-"],
    "provenance.wall_seconds": [-1, "1.5", None],
    "curves": [[], None, {"weight": ["1"]}, {"weight": 1}],
    "extra": [1],
}


def put(document, field, value):
    *parents, last = [int(part) if part.isdigit() else part for part in field.split(".")]
    for part in parents:
        document = document[part]
    if value == "-":
        del document[last]
    else:
        document[last] = value


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in MUTATIONS.items() for v in values]
)
def test_a_record_in_which_one_field_was_changed_is_refused_by_name(
    make_record, tmp_path, field, value
):
    path = save(make_record(), tmp_path / "changed.json")
    change(path, lambda d: put(d, field, value))
    with pytest.raises(UserError) as caught:
        read_records(tmp_path, "rotation")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def leaves(value, place=()):
    if not isinstance(value, dict | list):
        return [place]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [leaf for key, item in items for leaf in leaves(item, (*place, key))]


def test_no_value_can_change_without_the_checksum_knowing(make_record, tmp_path):
    path = save(make_record(curves={"weight": [0.5]}), tmp_path / "r.json")
    whole = json.loads(path.read_text())
    for place in leaves(whole):
        document = json.loads(path.read_text())
        inside = document
        for part in place[:-1]:
            inside = inside[part]
        old = inside[place[-1]]
        inside[place[-1]] = old + "x" if isinstance(old, str) else (old or 0) * 1.001 + 1e-9
        changed = tmp_path / "changed.json"
        changed.write_text(json.dumps(document))
        with pytest.raises(UserError):
            load(changed, RunRecord)
    for name in ("kind", "schema_version"):
        whole.pop(name)
    assert whole.pop("sha256") == checksum(whole)


@pytest.mark.parametrize(
    "changes",
    [{"seed": 2, "config": {"method": "evograd", "seed": 1, "preset": "quick", "epochs": 2}},
     {"traces": {}}, {"final": {"accuracy": 1}}, {"best": {}}, {"provenance": {}}],
)  # fmt: skip
def test_what_is_inconsistent_is_not_written(make_record, tmp_path, changes):
    with pytest.raises(UserError, match="not valid"):
        save(make_record(**changes), tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(make_record, tmp_path, value):
    with pytest.raises(UserError, match=r"epochs\.1\.loss.*not a finite number"):
        make_record(epochs=[{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": value}])
    record = make_record()
    record.epochs[1]["accuracy"] = value
    with pytest.raises(UserError, match=r"epochs\.1\.accuracy"):
        save(record, tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "1e999"])
def test_constants_that_are_no_json_are_refused(make_record, tmp_path, constant):
    path = save(make_record(), tmp_path / "r.json")
    path.write_text(path.read_text().replace('"accuracy": 50.0', f'"accuracy": {constant}'))
    with pytest.raises(UserError, match=r"r\.json.*not a finite number"):
        load(path, RunRecord)


def test_every_truncation_is_refused_with_the_name_of_the_file(make_record, tmp_path):
    path = save(make_record(), tmp_path / "cut.json")
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.json"):
            read_records(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00{", b"[1, 2]", b"null", b'{"kind": "table"}'])
def test_what_is_no_record_is_refused_not_left_out(tmp_path, content):
    (tmp_path / "other.json").write_bytes(content)
    with pytest.raises(UserError, match=r"other\.json"):
        read_records(tmp_path)


def test_reading_a_folder_takes_all_records_sorted_by_path(make_record, tmp_path):
    save(make_record(seed=2), tmp_path / "b" / "2.json")
    save(make_record(seed=1), tmp_path / "a" / "deep" / "1.json")
    (tmp_path / "metrics.jsonl").write_text("{broken")
    assert [r.seed for r in read_records(tmp_path, "rotation", "quick")] == [1, 2]
    assert read_records(tmp_path / "absent") == []
    with pytest.raises(UserError, match=r"preset quick .* among those of paper"):
        read_records(tmp_path, "rotation", "paper")


def test_reading_one_file_that_is_missing_says_so(tmp_path):
    with pytest.raises(UserError, match="no record at"):
        load(tmp_path / "absent.json", RunRecord)


def test_a_metric_that_a_record_lacks_is_named_not_a_traceback(make_record):
    record = make_record()
    for values in (record.final, record.traces, record.curves, record.cost, record.config):
        with pytest.raises(UserError, match="lacks 'angle_of_death'"):
            values["angle_of_death"]


def test_the_file_says_what_it_is(make_record, tmp_path):
    document = json.loads(save(make_record(), tmp_path / "r.json").read_text())
    assert (document["kind"], document["schema_version"]) == ("evograd-run-record", 1)
