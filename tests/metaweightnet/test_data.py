"""Splits, label noise and batches: against their definitions, and what bad data is answered."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.datasets import Cifar100, ImageDataset
from metaweightnet.config import Config
from metaweightnet.data import (
    MEAN,
    STD,
    Crops,
    Split,
    like_cifar,
    make_splits,
    shrunk,
    split_indices,
    superclasses,
)
from metaweightnet.noise import draw_labels, noise_matrix, noisy_labels, released_flip_pairs

LABELS = torch.randint(10, (50_000,), generator=torch.Generator().manual_seed(3))


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
    ("kind", "level", "values"), [("flip_two", 0.4, [0.2, 0.2, 0.6]), ("flip_one", 0.3, [0.3, 0.7])]
)
def test_flips_share_the_noise_among_other_classes(kind, level, values):
    matrix = noise_matrix(kind, level, 10, generator())
    torch.testing.assert_close(matrix.diagonal(), torch.full((10,), 1 - level).double())
    for row in matrix:
        assert row[row > 0].sort()[0].tolist() == pytest.approx(values)
    targets = {tuple(torch.nonzero(row == values[0]).flatten().tolist()) for row in matrix}
    assert len(targets) > 5  # drawn for each class


def test_the_released_flip_pairs_are_those_of_the_published_runs():
    published = [(9, 3), (4, 8), (1, 8), (8, 4), (2, 5), (7, 4), (9, 2), (8, 5), (6, 5), (5, 4)]
    assert [tuple(pair) for pair in released_flip_pairs(10).tolist()] == published
    expected = torch.eye(10, dtype=torch.bool).scatter(1, released_flip_pairs(10), True)
    for seed in (1, 2):
        reached = torch.zeros(10, 10, dtype=torch.bool)
        reached[LABELS, noisy_labels(LABELS, Config(seed=seed))] = True
        assert torch.equal(reached, expected)


def test_uniform_mixes_with_the_uniform_distribution():
    matrix = noise_matrix("uniform", 0.4, 10, generator())
    expected = np.full((10, 10), 0.04) + 0.6 * np.eye(10)
    np.testing.assert_allclose(matrix.numpy(), expected, rtol=1e-12)


def test_hierarchical_stays_within_the_superclass():
    superclass = torch.randperm(100, generator=generator(1)) % 20
    matrix = noise_matrix("hierarchical", 0.4, 100, generator(), superclass)
    for i in range(100):
        for j in range(100):
            same = superclass[i] == superclass[j]
            assert matrix[i, j] == pytest.approx(0.6 if i == j else 0.1 if same else 0.0)


def test_labels_are_drawn_from_the_rows():
    matrix = noise_matrix("flip", 0.4, 10, generator())
    drawn = draw_labels(LABELS, matrix, generator(5))
    for i in range(10):
        counts = torch.bincount(drawn[i == LABELS], minlength=10).double()
        # Five standard errors of a share of about 5,000 samples.
        assert (counts / counts.sum() - matrix[i]).abs().max() < 5 * (0.25 / 4800) ** 0.5
        assert counts[matrix[i] == 0].sum() == 0
    assert torch.equal(drawn, draw_labels(LABELS, matrix, generator(5)))
    assert torch.equal(LABELS, draw_labels(LABELS, torch.eye(10).double(), generator()))


def test_superclasses_are_read_from_the_samples(images):
    coarse_of = torch.randperm(10, generator=generator()) // 5
    fields = {name: getattr(images, name) for name in images.__dataclass_fields__}
    cifar = Cifar100(
        **fields,
        coarse_names=("x", "y"),
        train_coarse_labels=coarse_of[images.train_labels],
        test_coarse_labels=coarse_of[images.test_labels],
    )
    assert torch.equal(superclasses(cifar), coarse_of)
    assert superclasses(images) is None


def test_only_training_labels_are_noisy(images, small):
    config = small(noise_level=0.5, image_size=32)
    splits = make_splits(config, images, torch.device("cpu"))
    assert 15 < splits.train.wrong.sum() < 45
    assert not splits.meta.wrong.any()
    assert torch.equal(splits.test.images, images.test_images)
    names = {"indices of the training images", "indices of the meta images", "noisy labels"}
    assert names < set(splits.checksums)
    other = make_splits(replace(config, seed=9), images, torch.device("cpu"))
    assert all(splits.checksums[n] != other.checksums[n] for n in names)
    again = make_splits(config, images, torch.device("cpu"))
    assert again.checksums == splits.checksums


def test_peoples_labels_are_taken_for_the_same_images(images, small):
    human = (images.train_labels + torch.arange(100) % 2) % 10
    splits = make_splits(small(noise="human"), images, torch.device("cpu"), human)
    train, _ = split_indices(images.train_labels, small(noise="human"))
    assert torch.equal(splits.train.labels, human[train])
    assert torch.equal(splits.train.wrong, train % 2 == 1)


def test_mnist_takes_cifars_format():
    g = generator()
    digits = torch.randint(256, (60_000, 28, 28), dtype=torch.uint8, generator=g)
    labels = torch.arange(60_000) % 10
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
    mirrored = torch.tensor([False, True, True, False])
    crops = Crops(torch.tensor([0, 8, 4, 1]), torch.tensor([8, 0, 4, 3]), mirrored)
    batch, labels, _ = split.batch(index, crops)
    assert batch.shape == (4, 3, 32, 32)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels, images.train_labels[index])
    for n in range(4):
        image = images.train_images[index[n]].numpy()
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        row, column = int(crops.rows[n]), int(crops.columns[n])
        expected = padded[row : row + 32, column : column + 32]
        if crops.mirrored[n]:
            expected = expected[:, ::-1]
        expected = (expected - np.array(MEAN)) / np.array(STD)
        np.testing.assert_allclose(batch[n].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_without_crops_a_batch_is_the_images_as_they_are(images):
    split = Split(images.train_images, images.train_labels, images.train_labels < 0)
    index, centre = torch.arange(5), torch.full((5,), 4)
    cropped = split.batch(index, Crops(centre, centre, torch.zeros(5, dtype=torch.bool)))
    assert torch.equal(split.batch(index)[0], cropped[0])


def test_smaller_images_are_means_over_pixels(images):
    half = shrunk(images.train_images, 16, chunk=30)
    blocks = images.train_images.numpy().reshape(100, 16, 2, 16, 2, 3).mean((2, 4))
    assert half.dtype == torch.uint8
    assert np.abs(half.numpy() - blocks).max() <= 0.5
