"""Images with noisy labels for training and a clean balanced meta set; batches made on the device.

Images stay on the device as uint8. A batch is one gather from them, which crops and mirrors at the
same time, so that it needs no padded copy and no work on the host.
"""

import functools
import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.datasets import (
    Cifar100,
    ImageDataset,
    load_cifar10,
    load_cifar10n,
    load_cifar100,
    load_mnist,
)
from common.errors import UserError
from common.training import new_generator
from metaweightnet.config import Config
from metaweightnet.noise import noisy_labels

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


@dataclass(frozen=True)
class Crops:
    """The crops of N samples: first row and column in the padded image, (N,), and whether it is
    mirrored, bool (N,)."""

    rows: Tensor
    columns: Tensor
    mirrored: Tensor

    def split(self, sizes: list[int]) -> list["Crops"]:
        parts = (t.split(sizes) for t in (self.rows, self.columns, self.mirrored))
        return [Crops(*part) for part in zip(*parts, strict=True)]


def draw_crops(count: int, side: int, generator: torch.Generator, device: torch.device) -> Crops:
    """Random crops of images of ``side`` pixels padded by side / 8 (4 at 32), drawn on the host for
    many samples and moved together."""
    offsets = torch.randint(2 * (side // 8) + 1, (2, count), generator=generator).to(device)
    mirrored = torch.randint(2, (count,), generator=generator).bool().to(device)
    return Crops(offsets[0], offsets[1], mirrored)


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, side, side, 3), labels int64 (N,), and which labels are wrong, bool (N,);
    all on the device."""

    images: Tensor
    labels: Tensor
    wrong: Tensor

    def batch(self, index: Tensor, crops: Crops | None = None) -> Batch:
        """Normalised images, channels last in memory, and labels."""
        if crops is None:
            pixels = self.images[index]
        else:
            side, device = self.images.shape[1], index.device
            padding, line = side // 8, torch.arange(side, device=device)
            rows = reflected(crops.rows.unsqueeze(1) + line - padding, side)
            line = torch.where(crops.mirrored.unsqueeze(1), line.flip(0), line)
            columns = reflected(crops.columns.unsqueeze(1) + line - padding, side)
            pixels = self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        mean, std = _mean_and_std(pixels.device)
        return Batch(((pixels.float() - mean) / std).permute(0, 3, 1, 2), self.labels[index])


@functools.cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """On the device, cached: a copy for each batch would wait for the device."""
    return torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)


def reflected(position: Tensor, side: int) -> Tensor:
    """Positions outside 0 .. side - 1 mirrored at the border pixels, as reflect-padding does."""
    position = position.abs()
    return side - 1 - (side - 1 - position).abs()


@dataclass(frozen=True)
class Splits:
    """train: noisy labels. meta, test: clean ones. checksums: SHA-256 by name."""

    train: Split
    meta: Split
    test: Split
    checksums: dict[str, str]


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


def load_splits(config: Config, device: torch.device) -> Splits:
    """The three splits at the configured sizes; UserError if the data are not available."""
    data, human = load_images(config), None
    if config.noise == "human":
        flag = "--human-dir" if config.human_dir else "--data-dir"
        try:
            found = load_cifar10n(config.human_dir or config.data_dir, data.train_labels)
            human = found.labels[config.human_labels]
        except UserError as error:
            raise UserError(str(error).replace("--data-dir", flag)) from None
    return make_splits(config, data, device, human)


def make_splits(
    config: Config, data: ImageDataset, device: torch.device, human: Tensor | None = None
) -> Splits:
    """Splits of a loaded data set. human: people's labels of its training images."""
    train, meta = split_indices(data.train_labels, config)
    true = data.train_labels[train]
    noisy = human[train] if human is not None else noisy_labels(true, config, superclasses(data))

    def split(images: Tensor, labels: Tensor, truth: Tensor) -> Split:
        images = shrunk(images, config.image_size)
        return Split(*(t.to(device) for t in (images, labels, labels != truth)))

    meta_labels, test = data.train_labels[meta], slice(config.test_size)
    return Splits(
        train=split(data.train_images[train], noisy, true),
        meta=split(data.train_images[meta], meta_labels, meta_labels),
        test=split(data.test_images[test], data.test_labels[test], data.test_labels[test]),
        checksums={
            **data.checksums,
            "indices of the training images": _checksum(train),
            "indices of the meta images": _checksum(meta),
            "noisy labels": _checksum(noisy),
        },
    )


def superclasses(data: ImageDataset) -> Tensor | None:
    """The superclass of each class, (C,), from the training samples; None if there are none."""
    if not isinstance(data, Cifar100):
        return None
    found = torch.full((len(data.class_names),), -1)
    found[data.train_labels] = data.train_coarse_labels
    return found


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


def _checksum(values: Tensor) -> str:
    """SHA-256 of whole numbers as little-endian int64."""
    return hashlib.sha256(values.numpy().astype("<i8").tobytes()).hexdigest()
