"""MNIST and CIFAR: published checksums and counts, torchvision's readers as oracle, damaged files.

The real CIFAR-10 is checked if it is in the cache or EVOGRAD_TEST_LARGE_DATA=1 (139 MB).
"""

import dataclasses
import gzip
import hashlib
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.datasets import __main__ as command_line
from common.datasets import images, load_cifar10, load_cifar100, load_mnist
from common.datasets.fetch import Damaged, Missing, cache_root
from common.datasets.images import CIFAR100, read_cifar10
from common.errors import UserError
from common.torchvision_import import torchvision

# Published, not computed by this project.
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
LARGE = os.environ.get("EVOGRAD_TEST_LARGE_DATA") == "1"
USER_CACHE = cache_root()  # on import, before the fixture that hides it
CACHED = (USER_CACHE / "cifar10" / "train_images").is_file()


def test_mnist_is_the_published_one(mnist):
    assert mnist.train_images.shape == (60_000, 28, 28)
    assert mnist.test_images.shape == (10_000, 28, 28)
    assert mnist.train_images.dtype == mnist.test_images.dtype == torch.uint8
    assert mnist.train_labels.dtype == mnist.test_labels.dtype == torch.int64
    assert mnist.train_labels.bincount().tolist() == TRAIN_COUNTS
    assert mnist.test_labels.bincount().tolist() == TEST_COUNTS
    pixels = mnist.train_images.float() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_mnist_is_read_as_torchvision_reads_it(mnist_folder, tmp_path, capsys):
    (tmp_path / "MNIST").mkdir()
    mnist_folder.rename(tmp_path / "MNIST" / "raw")
    ours, theirs = load_mnist(tmp_path), torchvision.datasets.MNIST(tmp_path, train=False)
    assert ours.source == f"folder {tmp_path}"
    assert torch.equal(ours.test_images, theirs.data)
    assert torch.equal(ours.test_labels, theirs.targets)
    command_line.main(("mnist",), tmp_path)
    assert f"train: 60000, per class {' '.join(map(str, TRAIN_COUNTS))}" in capsys.readouterr().out


@pytest.mark.parametrize(("layout", "deeper"), [(".", False), ("mnist", True)])
def test_layouts_gzip_and_spelling(layout, deeper, mnist_folder, tmp_path):
    labels = mnist_folder / "t10k-labels-idx1-ubyte"
    labels.with_name(f"{labels.name}.gz").write_bytes(gzip.compress(labels.read_bytes(), 1))
    labels.unlink()
    (mnist_folder / "train-labels-idx1-ubyte").rename(mnist_folder / "train-labels.idx1-ubyte")
    for path in mnist_folder.iterdir():
        folder = tmp_path / "data" / layout / (path.name if deeper else "")
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    assert load_mnist(tmp_path / "data").train_labels.bincount().tolist() == TRAIN_COUNTS


@pytest.mark.parametrize(
    ("ending", "change", "message"),
    [
        ("", lambda data: data + b"\0", "test_labels .*sha256"),
        ("", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "test_labels .*sha256"),
        (".gz", lambda data: gzip.compress(data, 1)[:3000], "t10k-labels-idx1-ubyte.gz cannot be"),
        (".gz", lambda data: data, "t10k-labels-idx1-ubyte.gz cannot be"),
        ("gone", lambda data: data, "lacks t10k-labels-idx1-ubyte"),
    ],
)
def test_a_damaged_mnist_file_is_refused(ending, change, message, mnist_folder):
    path = mnist_folder / "t10k-labels-idx1-ubyte"
    data = path.read_bytes()
    path.unlink()
    if ending != "gone":
        path.with_name(path.name + ending).write_bytes(change(data))
    with pytest.raises(UserError, match=message):
        load_mnist(mnist_folder)


# CIFAR, on small archives in the official format.


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def random_images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def pack(folder: Path, official: type, members: dict[str, dict], monkeypatch) -> type:
    """An archive in the official format, in ``folder``; torchvision's class that expects it."""
    inner = folder / official.base_folder
    inner.mkdir(parents=True)
    lists: dict[str, list] = {"train_list": [], "test_list": []}
    sums = {}
    for name, content in members.items():
        (inner / name).write_bytes(pickle.dumps(content, protocol=2))
        sums[name] = md5(inner / name)
        if "meta" not in name:
            lists["test_list" if "test" in name else "train_list"].append([name, sums[name]])
    with tarfile.open(folder / official.filename, "w:gz") as tar:
        tar.add(inner, arcname=official.base_folder)
    changes = {
        "meta": official.meta | {"md5": sums[official.meta["filename"]]},
        "tgz_md5": md5(folder / official.filename),
    }
    for name, value in (lists | changes).items():
        monkeypatch.setattr(official, name, value)
    return official


@pytest.fixture
def small10(tmp_path, monkeypatch) -> tuple[Path, type]:
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    members = {
        name: {"data": random_images(3, seed), "labels": [seed, (seed + 3) % 10, 9]}
        for seed, name in enumerate(names)
    }
    members["batches.meta"] = {"label_names": list("abcdefghij")}
    folder = tmp_path / "small10"
    return folder, pack(folder, images._C10, members, monkeypatch)


def test_cifar10_is_read_as_torchvision_reads_it(small10):
    folder, official = small10
    files = read_cifar10(folder)
    for split, count in (("train", 15), ("test", 3)):
        oracle = official(folder, train=split == "train")
        found = np.frombuffer(files[f"{split}_images"], np.uint8)
        assert np.array_equal(found.reshape(count, 32, 32, 3), oracle.data)
        assert list(files[f"{split}_labels"]) == oracle.targets
    with pytest.raises(UserError, match="has sha256"):  # other content than the published one
        load_cifar10(folder)


@pytest.mark.parametrize(
    ("layout", "form"),
    [("cifar10", "packed"), ("", "extracted"), ("cifar10", "deeper"), ("", "bare")],
)
def test_cifar_layouts(layout, form, small10, tmp_path):
    folder, official = small10
    expected = read_cifar10(folder)
    place = tmp_path / "data" / layout / (official.base_folder if form == "deeper" else "")
    place.mkdir(parents=True)
    if form == "bare":
        for path in (folder / official.base_folder).iterdir():
            path.rename(place / path.name)
    else:
        moved = official.filename if form == "packed" else official.base_folder
        (folder / moved).rename(place / moved)
    assert read_cifar10(tmp_path / "data") == expected


def test_altered_pickles_are_refused_before_they_are_opened(small10, tmp_path):
    folder, official = small10
    batch, packed = folder / official.base_folder / "data_batch_2", folder / official.filename

    class Program:
        def __reduce__(self):
            return os.mkdir, (str(folder / "ran"),)

    batch.write_bytes(pickle.dumps({"data": Program()}))
    with pytest.raises(Damaged, match=r"data_batch_2 .* has md5"):
        read_cifar10(folder)
    assert not (folder / "ran").exists()
    batch.unlink()  # the packed archive is used instead
    assert len(read_cifar10(folder)["train_labels"]) == 15
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(Damaged, match=r"cifar-10-python\.tar\.gz cannot be read"):
        read_cifar10(folder)
    packed.unlink()
    with pytest.raises(Missing, match="lacks data_batch_2"):
        read_cifar10(folder)
    with pytest.raises(UserError, match=r"should hold cifar-10-python\.tar\.gz or"):
        load_cifar10(tmp_path)


def test_png_strips_are_read_as_images(tmp_path):
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8) for _ in range(6)]
    (tmp_path / "package").mkdir()
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    for name, batch in zip(names, batches, strict=True):
        Image.fromarray(batch.reshape(4, 1024, 3)).save(tmp_path / "package" / f"{name}.png")
    labels = {"train": list(range(10)) * 2, "test": [3, 1, 4, 1]}
    for split, values in labels.items():
        (tmp_path / "package" / f"{split}_lables.json").write_text(json.dumps(values))
    files = read_cifar10(tmp_path)
    assert files["train_images"] == np.concatenate(batches[:5]).tobytes()
    assert files["test_images"] == batches[5].tobytes()
    assert files["train_labels"] == bytes(labels["train"])
    assert files["test_labels"] == bytes(labels["test"])
    (tmp_path / "package" / "test_lables.json").write_text("[256]")
    with pytest.raises(Damaged, match=r"package cannot be read \(.*256"):
        read_cifar10(tmp_path)


def test_cifar100_is_read_as_torchvision_reads_it(tmp_path, monkeypatch):
    members = {
        name: {
            "data": random_images(count, count),
            "fine_labels": list(range(99, 99 - count, -1)),
            "coarse_labels": [(7 * i) % 20 for i in range(count)],
        }
        for name, count in (("train", 5), ("test", 2))
    }
    names = {k: [f"{k}{i}" for i in range(n)] for k, n in (("fine", 100), ("coarse", 20))}
    members["meta"] = {f"{kind}_label_names": value for kind, value in names.items()}
    official = pack(tmp_path, images._C100, members, monkeypatch)
    small = dataclasses.replace(CIFAR100, checksums=images._md5(official))
    monkeypatch.setattr(images, "CIFAR100", small)
    loaded = load_cifar100(tmp_path)
    assert loaded.class_names == tuple(names["fine"])
    assert loaded.superclasses[-5:].tolist() == [8, 1, 14, 7, 0]
    assert loaded.train_labels.dtype == loaded.superclasses.dtype == torch.int64
    checksum = hashlib.sha256(loaded.test_images.numpy().tobytes()).hexdigest()
    assert loaded.checksums["test_images"] == checksum
    for split in ("train", "test"):
        oracle = official(tmp_path, train=split == "train")
        assert np.array_equal(getattr(loaded, f"{split}_images").numpy(), oracle.data)
        assert getattr(loaded, f"{split}_labels").tolist() == oracle.targets


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
