"""What is recorded about a run's surroundings, and what must not be."""

import importlib.metadata
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
import torch

from common.reporting import collect_provenance, records, utc_now


def test_versions_are_those_of_the_packages_in_use():
    found = collect_provenance()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == numpy.__version__
    assert found["torch_threads"] == torch.get_num_threads()
    assert len(found["devices"]) == torch.cuda.device_count()
    assert re.fullmatch(r"3\.\d+\.\d+.*", found["python"])
    json.dumps(found, allow_nan=False)


def test_nothing_names_a_person_or_a_place():
    found = collect_provenance()
    assert set(found) == {
        *("python", "torch", "torchvision", "higher", "numpy", "platform", "cpu", "cpu_cores"),
        *("torch_threads", "devices", "cuda", "cudnn", "utc_time", "git_commit", "git_dirty"),
    }
    text = json.dumps(found)
    assert str(Path(__file__).resolve().parents[3]) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"


def test_times_are_utc_to_the_second():
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", utc_now())


def test_a_package_that_is_not_installed_is_none(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert collect_provenance()["higher"] is None


def test_without_git_the_commit_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = collect_provenance()
    assert found["git_commit"] is None
    assert found["git_dirty"] is None


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path.resolve()

    def git(*arguments):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        command = ["git", "-C", str(folder), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    (folder / "results").mkdir()
    (folder / "code.py").write_text("1")
    (folder / "results" / "run.json").write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(records, "_PROJECT", folder)
    return folder, git("rev-parse", "HEAD")


def git_state():
    found = collect_provenance()
    return found["git_commit"], found["git_dirty"]


def test_commit_and_changes_of_the_source(checkout):
    folder, commit = checkout
    assert git_state() == (commit, False)
    (folder / "results" / "run.json").write_text("2")
    assert git_state() == (commit, False)
    (folder / "code.py").write_text("2")
    assert git_state() == (commit, True)


def test_the_commit_of_a_repository_around_the_project_is_not_taken(checkout, monkeypatch):
    folder, _ = checkout
    (folder / "vendored").mkdir()
    monkeypatch.setattr(records, "_PROJECT", folder / "vendored")
    assert git_state() == (None, None)
