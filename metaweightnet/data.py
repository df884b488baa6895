"""Images with noisy labels for training and a clean balanced meta set; batches made on the device.

Images stay on the device as uint8. A batch is one gather from them, which crops and mirrors at the
same time, so that it needs no padded copy and no work on the host. The noise is a matrix of
P(noisy label | true label), from whose rows labels are drawn.
"""

import functools
import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.datasets import ImageDataset, load_cifar10, load_cifar10n, load_cifar100, load_mnist
from common.errors import UserError
from common.training import new_generator
from metaweightnet.config import Config

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
"""Of CIFAR-10's training pixels, 0 to 255; as in the authors' code also used for CIFAR-100, and
here for MNIST."""
MNIST_TRAINING = 50_000
"""MNIST's training images used: the first ones, the same number as CIFAR's."""


class Batch(NamedTuple):
    """images: normalised, (N, 3, side, side). labels: (N,). seen: the losses (N,) that the weight
    net sees in the inner loss, without gradient; None: those at the given parameters."""

    images: Tensor
    labels: Tensor
    seen: Tensor | None = None


def draw_crops(count: int, side: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Random crops of images of ``side`` pixels padded by side / 8 (4 at 32), (3, count): first
    row, first column, and 1 if mirrored. Drawn on the host for many samples and moved together."""
    offsets = torch.randint(2 * (side // 8) + 1, (2, count), generator=generator)
    mirrored = torch.randint(2, (1, count), generator=generator)
    return torch.cat([offsets, mirrored]).to(device)


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, side, side, 3), labels int64 (N,), and which labels are wrong, bool (N,);
    all on the device."""

    images: Tensor
    labels: Tensor
    wrong: Tensor

    def batch(self, index: Tensor, crops: Tensor | None = None) -> Batch:
        """Normalised images, channels last in memory, and labels. crops: as from ``draw_crops``."""
        if crops is None:
            pixels = self.images[index]
        else:
            side, device = self.images.shape[1], index.device
            padding, line = side // 8, torch.arange(side, device=device)
            first_row, first_column, mirrored = crops.unsqueeze(2)
            rows = reflected(first_row + line - padding, side)
            line = torch.where(mirrored.bool(), line.flip(0), line)
            columns = reflected(first_column + line - padding, side)
            pixels = self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        mean, std = _mean_and_std(pixels.device)
        return Batch(((pixels.float() - mean) / std).permute(0, 3, 1, 2), self.labels[index])


@functools.cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """On the device, cached: a copy for each batch would wait for the device."""
    return torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)


def reflected(position: Tensor, side: int) -> Tensor:
    """Positions outside 0 .. side - 1 mirrored at the border pixels, as reflect-padding does."""
    return side - 1 - (side - 1 - position.abs()).abs()


def split_indices(labels: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the meta images in the data set's training set.

    Both depend on the seed and never overlap. The meta set has the same number of images of every
    class.
    """
    order = torch.randperm(len(labels), generator=new_generator(config.seed, "meta set"))
    count = config.meta_size // config.num_classes
    meta = torch.cat([order[labels[order] == c][:count] for c in range(config.num_classes)])
    order = torch.randperm(len(labels), generator=new_generator(config.seed, "training set"))
    return order[~torch.isin(order, meta)][: config.train_size], meta


def load_images(config: Config) -> ImageDataset:
    """The data set in CIFAR's format; UserError if it is not available."""
    load = {"mnist": load_mnist, "cifar10": load_cifar10, "cifar100": load_cifar100}
    data = load[config.dataset](config.data_dir)
    return like_cifar(data) if config.dataset == "mnist" else data


def like_cifar(data: ImageDataset) -> ImageDataset:
    """MNIST in CIFAR's format: the first 50,000 training images; 28x28 grey padded with zeros to
    32x32; three equal channels."""
    train, test = (
        F.pad(images, (2, 2, 2, 2)).unsqueeze(3).repeat(1, 1, 1, 3)
        for images in (data.train_images[:MNIST_TRAINING], data.test_images)
    )
    labels = data.train_labels[:MNIST_TRAINING]
    return replace(data, train_images=train, train_labels=labels, test_images=test)


def load_splits(config: Config, device: torch.device) -> tuple[dict[str, Split], dict[str, str]]:
    """The splits train (noisy labels), meta and test (clean ones) at the configured sizes, and
    SHA-256 by name; UserError if the data are not available."""
    data = load_images(config)
    train, meta = split_indices(data.train_labels, config)
    true, meta_labels = data.train_labels[train], data.train_labels[meta]
    if config.noise == "human":
        noisy = human_labels(config, data.train_labels)[train]
    else:
        noisy = noisy_labels(true, config, data.superclasses)
    test = data.test_labels[: config.test_size]
    parts = {
        "train": (data.train_images[train], noisy, noisy != true),
        "meta": (data.train_images[meta], meta_labels, torch.zeros_like(meta_labels).bool()),
        "test": (data.test_images[: config.test_size], test, torch.zeros_like(test).bool()),
    }
    splits = {
        name: Split(*(t.to(device) for t in (shrunk(images, config.image_size), *labels)))
        for name, (images, *labels) in parts.items()
    }
    drawn = {"indices of the training images": train, "indices of the meta images": meta}
    checksums = {  # of little-endian int64
        name: hashlib.sha256(values.numpy().astype("<i8").tobytes()).hexdigest()
        for name, values in (drawn | {"noisy labels": noisy}).items()
    }
    return splits, {**data.checksums, **checksums}


def human_labels(config: Config, clean: Tensor) -> Tensor:
    """CIFAR-10N's chosen labels of the training images, whose clean labels are given."""
    try:
        found = load_cifar10n(config.human_dir or config.data_dir, clean)
    except UserError as error:
        flag = "--human-dir" if config.human_dir else "--data-dir"
        raise UserError(str(error).replace("--data-dir", flag)) from None
    return found.labels[config.human_labels]


def shrunk(images: Tensor, side: int, chunk: int = 5_000) -> Tensor:
    """uint8 images (N, S, S, 3) at ``side`` pixels, each the rounded mean of S/side x S/side."""
    factor = images.shape[1] // side
    if factor == 1:
        return images
    parts = [
        F.avg_pool2d(part.permute(0, 3, 1, 2).float(), factor).round().byte().permute(0, 2, 3, 1)
        for part in images.split(chunk)
    ]
    return torch.cat(parts).contiguous()


def noisy_labels(labels: Tensor, config: Config, superclass: Tensor | None = None) -> Tensor:
    """The run's noisy labels of training samples (N,), seeded by the run. superclass: of each
    class (C,), for hierarchical noise."""
    generator = new_generator(config.seed, "label noise")
    level, classes = config.noise_level, config.num_classes
    return draw_labels(
        labels, noise_matrix(config.noise, level, classes, generator, superclass), generator
    )


def draw_labels(labels: Tensor, matrix: Tensor, generator: torch.Generator) -> Tensor:
    """For each of ``labels`` (N,) a noisy label drawn from its row of ``matrix``."""
    uniform = torch.rand(len(labels), 1, dtype=torch.float64, generator=generator)
    cumulative = matrix.cumsum(1)[labels]
    # The last sum can be below 1 by rounding.
    return (uniform >= cumulative).sum(1).clamp(max=len(matrix) - 1)


def noise_matrix(
    kind: str,
    level: float,
    num_classes: int,
    generator: torch.Generator,
    superclass: Tensor | None = None,
) -> Tensor:
    """P(noisy label j | true label i) as row i, float64 (C, C); p is ``level``.

    flip: 1 - p stays, p / 2 goes to each of two other classes, see ``released_flip_pairs``.
    flip_two, flip_one: the same with two or one other classes, drawn for every class.
    uniform: p of the labels are drawn anew from all classes, so 1 - p + p / C stays.
    hierarchical: 1 - p stays, p is spread evenly over the other classes of the same superclass;
    ``superclass`` (C,) has that of each class.
    """
    matrix, classes = torch.eye(num_classes, dtype=torch.float64), torch.arange(num_classes)
    if kind == "uniform":
        return (1 - level) * matrix + level / num_classes
    matrix *= 1 - level
    for i in range(num_classes):
        targets = classes[classes != i]
        if kind == "flip":
            targets = released_flip_pairs(num_classes)[i]
        elif kind == "hierarchical":
            targets = targets[superclass[targets] == superclass[i]]
        else:
            count = {"flip_two": 2, "flip_one": 1}[kind]
            targets = targets[torch.randperm(len(targets), generator=generator)[:count]]
        matrix[i, targets] = level / len(targets)
    return matrix


@functools.cache
def released_flip_pairs(num_classes: int) -> Tensor:
    """The two classes of each class's wrong labels in the authors' code, (C, 2).

    They are drawn with seed 1 in every run, by NumPy's legacy generator, whose stream is frozen.
    """
    draw = np.random.RandomState(1)
    classes = np.arange(num_classes)
    pairs = [draw.choice(classes[classes != i], 2, replace=False) for i in classes]
    return torch.from_numpy(np.stack(pairs))
