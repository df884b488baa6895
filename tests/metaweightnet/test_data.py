"""Splits, label noise and batches: against their definitions."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.datasets import ImageDataset
from metaweightnet import data as data_module
from metaweightnet.config import Config
from metaweightnet.data import (
    MEAN,
    STD,
    Split,
    draw_labels,
    like_cifar,
    load_splits,
    noise_matrix,
    noisy_labels,
    released_flip_pairs,
    shrunk,
    split_indices,
)

CPU = torch.device("cpu")
LABELS = torch.randint(10, (50_000,), generator=torch.Generator().manual_seed(3))
SUPERCLASS = torch.arange(100) % 20


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_meta_set_is_balanced_drawn_from_the_seed_and_no_part_of_the_training_set():
    found = [split_indices(LABELS, Config(seed=seed)) for seed in range(3)]
    for train, meta in found:
        assert (len(train), len(meta)) == (49_000, 1_000)
        assert torch.bincount(LABELS[meta]).tolist() == [100] * 10
        assert len(torch.unique(torch.cat([train, meta]))) == 50_000
    assert not torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("kind", "level", "rows"),
    [
        ("flip_two", 0.4, [0.2, 0.2, 0.6]),
        ("flip_one", 0.3, [0.3, 0.7]),
        ("uniform", 0.4, [0.004] * 99 + [0.604]),
        ("hierarchical", 0.4, [0.1] * 4 + [0.6]),
    ],
)
def test_noise_is_shared_among_other_classes(kind, level, rows):
    matrix = noise_matrix(kind, level, 100, generator(), SUPERCLASS)
    for row in matrix:
        assert row[row > 0].sort()[0].tolist() == pytest.approx(rows)
    assert matrix.diagonal().tolist() == pytest.approx([rows[-1]] * 100)
    targets = [row.nonzero().flatten() for row in matrix]
    if kind == "hierarchical":
        assert all((SUPERCLASS[t] == SUPERCLASS[i]).all() for i, t in enumerate(targets))
    elif kind != "uniform":  # drawn for each class
        assert len({(row > 0).nonzero().flatten().sum().item() for row in matrix}) > 30


def test_the_released_flip_pairs_are_those_of_the_published_runs():
    published = [(9, 3), (4, 8), (1, 8), (8, 4), (2, 5), (7, 4), (9, 2), (8, 5), (6, 5), (5, 4)]
    assert [tuple(pair) for pair in released_flip_pairs(10).tolist()] == published
    expected = torch.eye(10, dtype=torch.bool).scatter(1, released_flip_pairs(10), True)
    for seed in (1, 2):
        reached = torch.zeros(10, 10, dtype=torch.bool)
        reached[LABELS, noisy_labels(LABELS, Config(seed=seed))] = True
        assert torch.equal(reached, expected)


def test_labels_are_drawn_from_the_rows():
    matrix = noise_matrix("flip", 0.4, 10, generator())
    drawn = draw_labels(LABELS, matrix, generator(5))
    for i in range(10):
        counts = torch.bincount(drawn[i == LABELS], minlength=10).double()
        # Five standard errors of a share of about 5,000 samples.
        assert (counts / counts.sum() - matrix[i]).abs().max() < 5 * (0.25 / 4800) ** 0.5
        assert counts[matrix[i] == 0].sum() == 0
    assert torch.equal(LABELS, draw_labels(LABELS, torch.eye(10).double(), generator()))


def test_only_training_labels_are_noisy(images, small):
    config = small(noise_level=0.5, image_size=32)
    splits, checksums = load_splits(config, CPU)
    assert 15 < splits["train"].wrong.sum() < 45
    assert not splits["meta"].wrong.any()
    assert torch.equal(splits["test"].images, images.test_images)
    names = {"indices of the training images", "indices of the meta images", "noisy labels"}
    other = load_splits(replace(config, seed=9), CPU)[1]
    assert all(checksums[n] != other[n] for n in names)
    assert load_splits(config, CPU)[1] == checksums


def test_peoples_labels_are_taken_for_the_same_images(images, small, monkeypatch):
    human = (images.train_labels + torch.arange(100) % 2) % 10
    found = SimpleNamespace(labels={"worse": human})
    monkeypatch.setattr(data_module, "load_cifar10n", lambda folder, clean: found)
    split = load_splits(small(noise="human"), CPU)[0]["train"]
    train, _ = split_indices(images.train_labels, small(noise="human"))
    assert torch.equal(split.labels, human[train])
    assert torch.equal(split.wrong, train % 2 == 1)


def test_mnist_takes_cifars_format():
    digits = torch.randint(256, (50_100, 28, 28), dtype=torch.uint8, generator=generator())
    labels = torch.arange(50_100) % 10
    mnist = ImageDataset("mnist", tuple("0123456789"), digits, labels, digits[:50], labels[:50],
                         {"train_images": "00"}, "memory")  # fmt: skip
    made = like_cifar(mnist)
    assert made.train_images.shape == (50_000, 32, 32, 3)
    assert made.train_images.dtype == torch.uint8 and made.checksums == mnist.checksums
    assert torch.equal(made.train_labels, labels[:50_000])
    for image, digit in ((made.train_images[-1], digits[49_999]), (made.test_images[7], digits[7])):
        padded = np.pad(digit.numpy(), 2)
        assert all(np.array_equal(image[:, :, channel].numpy(), padded) for channel in range(3))


def test_batches_are_padded_by_reflection_cropped_and_mirrored(images):
    split = Split(images.train_images, images.train_labels, images.train_labels < 0)
    index = torch.tensor([3, 50, 7, 99])
    crops = torch.tensor([[0, 8, 4, 1], [8, 0, 4, 3], [0, 1, 1, 0]])
    batch, labels, _ = split.batch(index, crops)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels, images.train_labels[index])
    for n, (row, column, mirrored) in enumerate(crops.T.tolist()):
        image = images.train_images[index[n]].numpy()
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        expected = padded[row : row + 32, column : column + 32, :]
        expected = expected[:, ::-1] if mirrored else expected
        expected = (expected - np.array(MEAN)) / np.array(STD)
        np.testing.assert_allclose(batch[n].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    centre = torch.tensor([[4], [4], [0]]).expand(3, 4)
    assert torch.equal(split.batch(index).images, split.batch(index, centre).images)


def test_smaller_images_are_means_over_pixels(images):
    half = shrunk(images.train_images, 16, chunk=30)
    blocks = images.train_images.numpy().reshape(100, 16, 2, 16, 2, 3).mean((2, 4))
    assert half.dtype == torch.uint8
    assert np.abs(half.numpy() - blocks).max() <= 0.5
