"""Small photographs in the layout of the paper's domains, whose colour tells class and number."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cross_domain_fewshot.folders import SPLITS
from tests.experiments import one_thread  # noqa: F401


@pytest.fixture
def write_photos(tmp_path):
    """Writes DATA/NAME with its three lists and PNG files; returns DATA.

    Image number i of class c is plain, (10 c, 10 i, 50), but noisy with ``plain=False``.
    """

    def write(name="cub", classes=(4, 2, 3), images=6, plain=True):
        folder, number = tmp_path / "data" / name, 0
        generator = np.random.default_rng(0)
        for split, count in zip(SPLITS, classes, strict=True):
            content = {"label_names": [], "image_names": [], "image_labels": []}
            for label in range(count):
                class_name = f"{split}_{label}"
                content["label_names"].append(class_name)
                (folder / class_name).mkdir(parents=True)
                for i in range(images):
                    pixels = np.full((20 + i, 26, 3), (10 * number, 10 * i, 50), np.uint8)
                    if not plain:
                        pixels = generator.integers(0, 256, pixels.shape, dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / class_name / f"{i}.png")
                    content["image_names"].append(f"{class_name}/{i}.png")
                    content["image_labels"].append(label)
                number += 1
            (folder / f"{split}.json").write_text(json.dumps(content))
        return tmp_path / "data"

    return write


@pytest.fixture
def pixels():
    """Undoes ImageNet's normalisation: values 0 to 255, rounded."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return lambda images: ((images * std + mean) * 255).round().long()
