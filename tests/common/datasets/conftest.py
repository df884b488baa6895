"""Shared fixtures: an empty cache for every test, and real MNIST where it can be had."""

import struct
from pathlib import Path

import pytest

from common.datasets import ImageDataset, load_mnist
from common.datasets.images import IDX_FILES
from common.errors import UserError


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch) -> Path:
    """Point the cache to an empty folder and hide the user's own data folder.

    Fixtures of wider scope, real MNIST among them, are made before this one and so find the
    user's settings.
    """
    monkeypatch.delenv("EVOGRAD_DATA", raising=False)
    monkeypatch.setenv("EVOGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def mnist() -> ImageDataset:
    try:
        return load_mnist()
    except UserError as error:
        pytest.skip(f"MNIST cannot be had here: {error}")


def idx(array) -> bytes:
    """An IDX file, written from the published description of the format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.tobytes()


@pytest.fixture(scope="session")
def mnist_originals(mnist, tmp_path_factory) -> Path:
    """Real MNIST as IDX files: written once, read by every test that needs them."""
    folder = tmp_path_factory.mktemp("mnist-originals")
    for name, file in IDX_FILES.items():
        values = getattr(mnist, name).numpy().astype("uint8")
        (folder / file).write_bytes(idx(values))
    return folder


@pytest.fixture
def mnist_folder(mnist_originals, tmp_path) -> Path:
    """A folder of links to the real files, of which a test may replace some."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in IDX_FILES.values():
        (folder / file).symlink_to(mnist_originals / file)
    return folder
