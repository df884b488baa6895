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


def rotate_images(images: Tensor, degrees: float) -> Tensor:
    """Ordinary rotation, counter-clockwise, by Pillow through torchvision: nearest pixel, black
    corners. Images uint8 (N, 28, 28)."""
    rotate = torchvision.transforms.functional.rotate
    rotated = [np.asarray(rotate(Image.fromarray(image), degrees)) for image in images.numpy()]
    return torch.from_numpy(np.stack(rotated))


def load_splits(config: Config, device: torch.device) -> tuple[dict[str, Split], dict[str, str]]:
    """The splits train (upright), meta and test (both rotated) at the configured sizes, and their
    SHA-256 by name; UserError if MNIST is not available."""
    mnist = load_mnist(config.data_dir)
    parts = {
        "train": (mnist.train_images, mnist.train_labels, 0, config.train_size),
        "meta": (mnist.train_images, mnist.train_labels, META_START, config.meta_size),
        "test": (mnist.test_images, mnist.test_labels, 0, config.test_size),
    }
    splits, checksums = {}, dict(mnist.checksums)
    for name, (images, labels, start, size) in parts.items():
        images, labels = images[start : start + size], labels[start : start + size]
        if name != "train":
            images = rotate_images(images, config.degrees)
            digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
            checksums[f"{name} images rotated by {config.degrees:g} degrees"] = digest
        splits[name] = Split(images.to(device), labels.to(device))
    return splits, checksums
