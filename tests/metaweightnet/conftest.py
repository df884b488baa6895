"""A small labelled image set in memory, and settings that fit it."""

from dataclasses import replace

import pytest
import torch

from common.datasets import ImageDataset
from metaweightnet import data as data_module
from tests.experiments import one_thread, small_settings  # noqa: F401


@pytest.fixture
def images() -> ImageDataset:
    """100 training and 40 test images of 10 classes: noise on a shade that tells the class."""
    g = torch.Generator().manual_seed(0)

    def split(count):
        labels = torch.arange(count) % 10
        noise = torch.randint(0, 60, (count, 32, 32, 3), generator=g)
        return (noise + 18 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels

    return ImageDataset("cifar10", tuple("abcdefghij"), *split(100), *split(40),
                        {"train_images": "00"}, "memory")  # fmt: skip


@pytest.fixture
def small(images, monkeypatch, tmp_path):
    """Settings of a run that takes a second, on the images above."""
    monkeypatch.setattr(data_module, "load_images", lambda config: images)
    fixed = {"dataset": "cifar10", "noise": "flip", "noise_level": 0.4, "augment": True}

    def make(**changes):
        config = small_settings("metaweightnet", **fixed | changes)
        return replace(config, run_dir=config.run_dir or tmp_path / config.run_name())

    return make
