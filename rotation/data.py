"""MNIST as the experiment uses it: upright for training, rotated for validation and test."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.datasets import load_mnist
from common.torchvision_import import torchvision
from rotation.config import Config

META_START = 50_000
"""Meta-validation images begin here in MNIST's training set."""


class Batch(NamedTuple):
    """pixels: in [0, 1], (N, 1, 28, 28). labels: (N,)."""

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 28, 28) and labels int64 (N,), on the device."""

    images: Tensor
    labels: Tensor

    def batch(self, index: Tensor) -> Batch:
        """The samples at ``index`` (N,)."""
        return Batch(self.images[index].unsqueeze(1).float() / 255, self.labels[index])


@dataclass(frozen=True)
class Splits:
    """train: upright. meta: rotated. test: rotated. checksums: SHA-256 by name."""

    train: Split
    meta: Split
    test: Split
    checksums: dict[str, str]


def rotate_images(images: Tensor, degrees: float) -> Tensor:
    """Ordinary rotation, counter-clockwise, by Pillow through torchvision: nearest pixel, black
    corners. Images uint8 (N, 28, 28)."""
    rotate = torchvision.transforms.functional.rotate
    rotated = [np.asarray(rotate(Image.fromarray(image), degrees)) for image in images.numpy()]
    return torch.from_numpy(np.stack(rotated))


def load_splits(config: Config, device: torch.device) -> Splits:
    """The three splits at the configured sizes; UserError if MNIST is not available."""
    mnist = load_mnist(config.data_dir)
    meta = slice(META_START, META_START + config.meta_size)
    images = {
        "train": mnist.train_images[: config.train_size],
        "meta": rotate_images(mnist.train_images[meta], config.degrees),
        "test": rotate_images(mnist.test_images[: config.test_size], config.degrees),
    }
    labels = {
        "train": mnist.train_labels[: config.train_size],
        "meta": mnist.train_labels[meta],
        "test": mnist.test_labels[: config.test_size],
    }
    checksums = dict(mnist.checksums)
    for name in ("meta", "test"):
        digest = hashlib.sha256(images[name].numpy().tobytes()).hexdigest()
        checksums[f"{name} images rotated by {config.degrees:g} degrees"] = digest
    splits = {n: Split(images[n].to(device), labels[n].to(device)) for n in images}
    return Splits(**splits, checksums=checksums)
