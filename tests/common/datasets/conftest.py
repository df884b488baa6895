"""Shared fixtures: an empty cache for every test, and real MNIST where it can be had."""

import struct
from pathlib import Path

import pytest

from common.datasets import ImageDataset, load_mnist
from common.datasets.images import IDX_FILES
from common.errors import UserError


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch) -> Path:
    """Points the cache to an empty folder, and hides the user's own data folder (not from fixtures
    of wider scope, real MNIST among them)."""
    monkeypatch.delenv("EVOGRAD_DATA", raising=False)
    monkeypatch.setenv("EVOGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def mnist() -> ImageDataset:
    try:
        return load_mnist()
    except UserError as error:
        pytest.skip(f"MNIST cannot be had here: {error}")


@pytest.fixture(scope="session")
def mnist_originals(mnist, tmp_path_factory) -> Path:
    """Real MNIST as IDX files, written from the published description of the format."""
    folder = tmp_path_factory.mktemp("mnist-originals")
    for name, file in IDX_FILES.items():
        values = getattr(mnist, name).numpy().astype("uint8")
        header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
        (folder / file).write_bytes(header + values.tobytes())
    return folder


@pytest.fixture
def mnist_folder(mnist_originals, tmp_path) -> Path:
    """A folder of links to the real files, of which a test may replace some."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in IDX_FILES.values():
        (folder / file).symlink_to(mnist_originals / file)
    return folder
