"""What is recorded about a run's surroundings, and what must not be."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
import torch

from common.reporting import collect_provenance, records


def test_versions_are_those_in_use_and_nothing_names_a_person_or_a_place():
    found = collect_provenance()
    assert (found["torch"], found["numpy"]) == (torch.__version__, numpy.__version__)
    assert found["torch_threads"] == torch.get_num_threads()
    assert len(found["devices"]) == torch.cuda.device_count()
    assert set(found) == {
        *("python", "torch", "torchvision", "higher", "numpy", "platform", "cpu", "cpu_cores"),
        *("torch_threads", "devices", "cuda", "cudnn", "utc_time", "git_commit", "git_dirty"),
    }
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
