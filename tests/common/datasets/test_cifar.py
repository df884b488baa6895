"""CIFAR on small archives in the official format, with torchvision as oracle.

The real CIFAR-10 is checked if it is in the cache or EVOGRAD_TEST_LARGE_DATA=1 (139 MB).
"""

import dataclasses
import hashlib
import os
import pickle
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.datasets import cifar, load_cifar10, load_cifar100
from common.datasets.cifar import CIFAR100, PickleArchive, read_archive, read_cifar10_folder
from common.datasets.dataset import CanonicalFile, cache_root
from common.datasets.sources import Damaged, Unavailable
from common.errors import UserError
from common.torchvision_import import torchvision

LARGE = os.environ.get("EVOGRAD_TEST_LARGE_DATA") == "1"
USER_CACHE = cache_root()  # on import, before the fixture that hides it
CACHED = (USER_CACHE / "cifar10" / "train_images").is_file()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def pack(folder: Path, archive: str, inner: str, members: dict[str, dict]) -> PickleArchive:
    """An archive in the official format, in ``folder``, and its description."""
    (folder / inner).mkdir(parents=True)
    checks = []
    for name, content in members.items():
        data = pickle.dumps(content, protocol=2)
        (folder / inner / name).write_bytes(data)
        checks.append(CanonicalFile(name, md5(data), algorithm="md5"))
    with tarfile.open(folder / archive, "w:gz") as tar:
        tar.add(folder / inner, arcname=inner)
    subfolder = "cifar100" if "100" in archive else "cifar10"
    checksum = md5((folder / archive).read_bytes())
    return PickleArchive(archive, checksum, inner, tuple(checks), subfolder)


def random_images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


@pytest.fixture
def small10(tmp_path) -> tuple[Path, PickleArchive]:
    batches = {
        name: {"data": random_images(3, seed), "labels": [seed, (seed + 3) % 10, 9]}
        for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"])
    }
    folder = tmp_path / "small10"
    return folder, pack(folder, "cifar-10-python.tar.gz", "cifar-10-batches-py", batches)


@pytest.fixture
def small100(tmp_path) -> tuple[Path, PickleArchive]:
    members = {
        name: {
            "data": random_images(count, count),
            "fine_labels": list(range(99, 99 - count, -1)),
            "coarse_labels": [(7 * i) % 20 for i in range(count)],
        }
        for name, count in (("train", 5), ("test", 2))
    }
    members["meta"] = {
        "fine_label_names": [f"fine{i}" for i in range(100)],
        "coarse_label_names": [f"coarse{i}" for i in range(20)],
    }
    folder = tmp_path / "small100"
    return folder, pack(folder, "cifar-100-python.tar.gz", "cifar-100-python", members)


def theirs(cls: type, folder: Path, archive: PickleArchive, train: bool, meta: dict):
    """torchvision's own reader on the small archive."""
    members = [(file.name, file.checksum) for file in archive.members]
    split = {
        "train_list": [m for m in members if m[0] == "train" or m[0].startswith("data_batch")],
        "test_list": [m for m in members if m[0].startswith("test")],
    }
    name = meta["filename"]
    (folder / archive.folder / name).write_bytes(pickle.dumps({meta["key"]: ["x"]}, 2))
    checksum = md5((folder / archive.folder / name).read_bytes())
    small = type("Small", (cls,), split | {"meta": meta | {"md5": checksum}})
    return small(folder, train=train)


def test_official_pickles_are_read_as_torchvision_reads_them(small10):
    folder, archive = small10
    pieces = read_cifar10_folder(folder, archive)
    for split, count in (("train", 15), ("test", 3)):
        meta = torchvision.datasets.CIFAR10.meta
        oracle = theirs(torchvision.datasets.CIFAR10, folder, archive, split == "train", meta)
        images = np.frombuffer(pieces[f"{split}_images"].data, np.uint8)
        assert np.array_equal(images.reshape(count, 32, 32, 3), oracle.data)
        assert list(pieces[f"{split}_labels"].data) == oracle.targets


@pytest.mark.parametrize("layout", ["", "cifar10"])
@pytest.mark.parametrize("form", ["packed", "extracted", "bare"])
def test_layouts(layout, form, small10, tmp_path):
    folder, archive = small10
    expected = read_cifar10_folder(folder, archive)
    place = tmp_path / "data" / layout
    place.mkdir(parents=True)
    if form == "packed":
        (folder / archive.filename).rename(place / archive.filename)
    elif form == "extracted":
        (folder / archive.folder).rename(place / archive.folder)
    else:
        for path in (folder / archive.folder).iterdir():
            path.rename(place / path.name)
    found = read_cifar10_folder(tmp_path / "data", archive)
    assert {n: p.data for n, p in found.items()} == {n: p.data for n, p in expected.items()}


def test_packed_archive_is_used_where_the_extracted_folder_is_incomplete(small10):
    folder, archive = small10
    (folder / archive.folder / "data_batch_3").unlink()
    assert len(read_cifar10_folder(folder, archive)["train_labels"].data) == 15
    (folder / archive.filename).unlink()
    with pytest.raises(Damaged, match="lacks data_batch_3"):
        read_cifar10_folder(folder, archive)


def test_altered_files_are_refused_before_they_are_opened(small10, monkeypatch):
    folder, archive = small10
    monkeypatch.setattr(cifar, "load_arrays", lambda *_: pytest.fail("a pickle was opened"))
    batch = folder / archive.folder / "data_batch_2"
    data = bytearray(batch.read_bytes())
    data[len(data) // 2] ^= 1
    batch.write_bytes(data)
    with pytest.raises(Damaged, match=f"data_batch_2 .{len(data)} bytes. has md5"):
        read_cifar10_folder(folder, archive)
    batch.unlink()
    packed = folder / archive.filename
    packed.write_bytes(packed.read_bytes()[:-100])
    monkeypatch.setattr(tarfile, "open", lambda *_: pytest.fail("an archive was opened"))
    with pytest.raises(Damaged, match=r"cifar-10-python\.tar\.gz .* has md5"):
        read_cifar10_folder(folder, archive)


def test_packed_pickle_with_another_md5_is_refused(small10, tmp_path):
    folder, archive = small10
    (tmp_path / "packed").mkdir()
    (folder / archive.filename).rename(tmp_path / "packed" / archive.filename)
    members = (*archive.members[:-1], CanonicalFile("test_batch", md5(b""), algorithm="md5"))
    other = dataclasses.replace(archive, members=members)
    with pytest.raises(Damaged, match=r"test_batch .* has md5"):
        read_cifar10_folder(tmp_path / "packed", other)


def test_real_checksums_refuse_small_data(small10, tmp_path):
    folder, _ = small10
    with pytest.raises(UserError, match=r"data_batch_1 .* has md5") as error:
        load_cifar10(folder)
    assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither cifar-10-batches-py nor cifar-10-python"):
        load_cifar10(tmp_path / "empty")


def test_png_strips_are_read_as_images(tmp_path):
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8) for _ in range(6)]
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    for name, batch in zip(names, batches, strict=True):
        Image.fromarray(batch.reshape(4, 1024, 3)).save(tmp_path / f"{name}.png")
    (tmp_path / "train_lables.json").write_text(str(list(range(10)) * 2))
    (tmp_path / "test_lables.json").write_text("[3, 1, 4, 1]")
    pieces = cifar._read_cifar10_png(tmp_path)
    assert pieces["train_images"].data == np.concatenate(batches[:5]).tobytes()
    assert pieces["test_images"].data == batches[5].tobytes()
    assert pieces["train_labels"].data == bytes(list(range(10)) * 2)
    assert pieces["test_labels"].data == bytes([3, 1, 4, 1])


def small_cifar100(archive: PickleArchive):
    return dataclasses.replace(
        CIFAR100,
        files=archive.members,
        read_folder=partial(read_archive, archive=archive),
    )


def test_cifar100_is_read_as_torchvision_reads_it(small100):
    folder, archive = small100
    loaded = load_cifar100(folder, small_cifar100(archive))
    assert loaded.class_names == tuple(f"fine{i}" for i in range(100))
    assert loaded.coarse_names == tuple(f"coarse{i}" for i in range(20))
    assert loaded.train_coarse_labels.tolist() == [0, 7, 14, 1, 8]
    assert loaded.test_coarse_labels.tolist() == [0, 7]
    assert loaded.train_labels.dtype == loaded.train_coarse_labels.dtype == torch.int64
    assert loaded.train_images.dtype == torch.uint8
    checksum = hashlib.sha256(loaded.test_images.numpy().tobytes()).hexdigest()
    assert loaded.checksums["test_images"] == checksum
    for split in ("train", "test"):
        meta = torchvision.datasets.CIFAR100.meta
        oracle = theirs(torchvision.datasets.CIFAR100, folder, archive, split == "train", meta)
        assert np.array_equal(getattr(loaded, f"{split}_images").numpy(), oracle.data)
        assert getattr(loaded, f"{split}_labels").tolist() == oracle.targets


def test_cifar100_official_files_are_the_ones_torchvision_names():
    assert {file.name: file.checksum for file in CIFAR100.files} == {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    }


def test_files_named_train_and_test_alone_are_not_cifar100(tmp_path):
    (tmp_path / "train").write_text("a text")
    (tmp_path / "test").write_text("a text")
    with pytest.raises(Unavailable):
        CIFAR100.read_folder(tmp_path)


@pytest.mark.skipif(not (LARGE or CACHED), reason="set EVOGRAD_TEST_LARGE_DATA=1 (139 MB)")
def test_cifar10_is_the_published_one(monkeypatch):
    monkeypatch.setenv("EVOGRAD_CACHE", str(USER_CACHE))
    loaded = load_cifar10()
    assert loaded.train_images.shape == (50_000, 32, 32, 3)
    assert loaded.test_images.shape == (10_000, 32, 32, 3)
    assert loaded.train_labels.bincount().tolist() == [5000] * 10
    assert loaded.test_labels.bincount().tolist() == [1000] * 10
    means = loaded.train_images.float().mean(dim=(0, 1, 2))
    assert means.tolist() == pytest.approx([125.31, 122.95, 113.87], abs=0.005)
    # The first training images of the official files are a frog and two trucks.
    names = [loaded.class_names[label] for label in loaded.train_labels[:3]]
    assert names == ["frog", "truck", "truck"]
