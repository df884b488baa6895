"""Whole files, and folders that one process works in at a time."""

import hashlib
import multiprocessing
import os
import subprocess
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import check_writable, checked_files, locked, write_atomic, write_checksums


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomic(path, b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(OSError) as error:
            check_writable(folder)
        assert str(folder) in str(error.value) or str(folder.parent) in str(error.value)


def hold(folder: Path, seconds: float) -> None:
    with locked(folder):
        (folder / "held").touch()
        (folder / ".half.1.tmp").touch()
        time.sleep(seconds)


def held(folder: Path, seconds: float) -> multiprocessing.Process:
    """A process that holds the lock of ``folder``."""
    child = multiprocessing.get_context("fork").Process(target=hold, args=(folder, seconds))
    child.start()
    while not (folder / "held").exists():
        time.sleep(0.01)
    return child


def test_a_held_folder_is_waited_for_as_long_as_patience_lasts(tmp_path, capsys):
    child = held(tmp_path, 0.3)
    with locked(tmp_path, patience=30):
        child.join(10)
        assert child.exitcode == 0  # it had left the block
        assert not (tmp_path / ".half.1.tmp").exists()
    assert capsys.readouterr().err.count(f"waiting for the process at work in {tmp_path}")
    (tmp_path / "held").unlink()
    child = held(tmp_path, 30)
    with pytest.raises(UserError, match=f"another process is at work in {tmp_path}"):
        locked(tmp_path, patience=0).__enter__()
    assert (tmp_path / ".half.1.tmp").exists()
    child.kill()
    child.join(10)
    with locked(tmp_path, patience=5):  # the lock dies with its process
        pass


def test_leftovers_of_killed_processes_are_cleared(tmp_path):
    (tmp_path / ".record.json.77.tmp").write_text("half")
    (tmp_path / ".download.tmp").mkdir()
    (tmp_path / ".download.tmp" / "part").write_text("half")
    (tmp_path / "mine.tmp").write_text("not hidden")
    with locked(tmp_path):
        assert {p.name for p in tmp_path.iterdir()} == {".lock", "mine.tmp"}


DAMAGES = {
    "changed": lambda folder: (folder / "part" / "a").write_bytes(b"c"),
    "missing": lambda folder: (folder / "part" / "a").unlink(),
    "added": lambda folder: (folder / "part" / "c").touch(),
    "no text": lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff"),
    "no sums": lambda folder: (folder / "SHA256SUMS").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_not_the_one_written_is_refused(damage, tmp_path):
    for name in ("a", "b"):
        write_atomic(tmp_path / "part" / name, name)
    write_checksums(tmp_path, "*/*")
    expected = {f"part/{name}": hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    assert checked_files(tmp_path, "get it again", "*/*") == expected
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, check=True)
    DAMAGES[damage](tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}.* is damaged.*: get it again"):
        checked_files(tmp_path, "get it again", "*/*")
