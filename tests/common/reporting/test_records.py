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


def test_short_values_and_numbers_share_lines(make_record, tmp_path):
    steps = list(range(2000))
    record = make_record(traces={"iteration": steps, "loss": [0.5] * 2000})
    text = save(record, tmp_path / "r.json").read_text()
    assert '{"epoch": 2, "accuracy": 75, "accuracy_ci95": 2.0, "moved": 1.5}' in text
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 101  # and a comma
    assert len(lines) < 300
    assert json.loads(text)["traces"]["iteration"] == steps


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["final"].update(accuracy=75.5),
        lambda d: d["config"].update(epochs=3),
        lambda d: d["epochs"].pop(),
        lambda d: d.update(seed=2),
        lambda d: d.update(kind="evograd-cost-measurement"),
        lambda d: d.pop("sha256"),
        lambda d: d.update(more=1),
    ],
)
def test_whatever_was_changed_is_refused(edit, make_record, tmp_path):
    path = save(make_record(), tmp_path / "r.json")
    change(path, edit)
    with pytest.raises(UserError, match=r"r\.json is not a valid .*changed after it was written"):
        load(path, RunRecord)


# Values of fields that no run leaves, though the checksum is right.
WRONG = [
    {"seed": -1}, {"seed": "1"}, {"seed": True}, {"method": ""}, {"epochs": []}, {"final": None},
    {"final": {"accuracy": "75"}}, {"cost": {"seconds": -1.0}}, {"more": 1}, {"config": [1]},
    {"traces": {"iteration": [1, None]}},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_values_of_another_form_are_refused(wrong, make_record, tmp_path):
    path = save(make_record(), tmp_path / "r.json")
    document = json.loads(path.read_text()) | wrong
    document.pop("sha256")
    path.write_text(json.dumps(document | {"sha256": checksum(document)}))
    with pytest.raises(UserError, match=r"r\.json is not a valid") as refused:
        load(path, RunRecord)
    assert next(iter(wrong)) in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(value, make_record, tmp_path):
    record = make_record()
    record.traces["angle"].append(value)
    with pytest.raises(UserError, match=r"traces\.angle"):
        save(record, tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 99_999, b"1" * 5000])
def test_what_is_no_record_is_refused(content, tmp_path):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"r\.json is not a valid"):
        load(path, RunRecord)
    with pytest.raises(UserError, match="There is no record at"):
        load(tmp_path / "missing.json", RunRecord)


def test_a_folder_has_the_records_of_one_experiment_and_preset(make_record, tmp_path):
    assert read_records(tmp_path / "missing") == []
    for seed in (2, 1):
        save(make_record(seed=seed), tmp_path / str(seed) / "record.json")
    assert [r.seed for r in read_records(tmp_path, "rotation", "quick")] == [1, 2]
    for wanted in (("metaxl", "quick"), ("rotation", "paper")):
        with pytest.raises(UserError, match="move it away"):
            read_records(tmp_path, *wanted)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json is not a valid"):
        read_records(tmp_path)


def test_a_write_that_fails_leaves_the_old_record(make_record, tmp_path, monkeypatch):
    path = save(make_record(), tmp_path / "r.json")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("os.fsync", full)
        save(make_record(final={"accuracy": 1.0}), path)
    assert load(path, RunRecord) == make_record()
