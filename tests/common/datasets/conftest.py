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
def originals(mnist) -> dict[str, bytes]:
    """Real MNIST as IDX files, written from the published description of the format."""
    files = {}
    for name, file in IDX_FILES.items():
        values = getattr(mnist, name).numpy().astype("uint8")
        header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
        files[file] = header + values.tobytes()
    return files


@pytest.fixture
def mnist_folder(originals, tmp_path) -> Path:
    """A folder with the real files, which a test may change."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for file, data in originals.items():
        (folder / file).write_bytes(data)
    return folder
