"""Records: round trip, what is refused, and what they say of a run's surroundings."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.reporting import RunRecord, collect_provenance, load, read_records, records, save
from common.reporting.records import checksum


def test_a_record_is_read_as_it_was_written(make_record, tmp_path):
    record = make_record(curves={"w": [1, 0.1, -1e-300, 2**60]}, data={"ä\n": "\u2028"})
    back = load(save(record, tmp_path / "record.json"), RunRecord)
    # == takes 1 and 1.0 for the same; the file must not.
    assert back == record and repr(back) == repr(record)


CHANGED = [{"final": {"accuracy": 75.5}}, {"kind": "evograd-peers"}, {"sha256": "0"}]
WRONG = [
    {"seed": True}, {"method": ""}, {"epochs": []}, {"final": {"accuracy": "75"}},
    {"cost": {"seconds": -1.0}}, {"more": 1}, {"traces": {"iteration": [1, None]}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [(change, "changed after it was written") for change in CHANGED]
    + [(change, next(iter(change))) for change in WRONG],
)
def test_what_was_changed_or_is_of_another_form_is_refused(change, message, make_record, tmp_path):
    path = save(make_record(), tmp_path / "r.json")
    document = json.loads(path.read_text()) | change
    if change in WRONG:  # with the checksum that fits
        document.pop("sha256")
        document["sha256"] = checksum(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"r\.json is not a valid .*{message}"):
        load(path, RunRecord)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(value, make_record, tmp_path):
    record = make_record()
    record.traces["angle"].append(value)
    with pytest.raises(UserError, match=r"traces\.angle"):
        save(record, tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"[" * 99_999])
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


def test_nothing_names_a_person_or_a_place():
    found = collect_provenance()
    assert (found["torch"], found["torch_threads"]) == (torch.__version__, torch.get_num_threads())
    text = json.dumps(found, allow_nan=False)
    assert str(Path(__file__).resolve().parents[3]) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit_and_changes_of_the_source(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path.resolve()

    def git(*arguments):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        command = ["git", "-C", str(folder), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def state():
        found = collect_provenance()
        return found["git_commit"], found["git_dirty"]

    for name in ("results", "vendored"):
        (folder / name).mkdir()
    code, result = folder / "code.py", folder / "results" / "run.json"
    for file in (code, result):
        file.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    monkeypatch.setattr(records, "_PROJECT", folder)
    result.write_text("2")
    assert state() == (commit, False)
    code.write_text("2")
    assert state() == (commit, True)
    # The commit of a repository around the project is another project's; without git there is none.
    monkeypatch.setattr(records, "_PROJECT", folder / "vendored")
    assert state() == (None, None)
    monkeypatch.setenv("PATH", str(folder))
    assert state() == (None, None)
