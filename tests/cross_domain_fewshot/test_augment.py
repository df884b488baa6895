"""Augmentation against torchvision and Pillow, given the same random numbers."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from common.torchvision_import import torchvision
from common.training import new_generator
from cross_domain_fewshot import augment
from cross_domain_fewshot.data import read_image

NOISE = torch.randint(0, 256, (12, 24, 24, 3), generator=new_generator(0, "noise")).byte()


def as_floats(images):
    return images.permute(0, 3, 1, 2).double() / 255


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(32, 32, (0.5, 1.0)), (300, 500, (0.08, 1.0)), (100, 30, (0.6, 1.0)), (20, 90, (0.9, 1.0))],
)
def test_random_boxes_are_those_of_torchvision(height, width, scale, monkeypatch):
    draws = augment.draw(200, new_generator(1, "boxes"))
    boxes = augment.crop_boxes(draws, height, width, scale)
    image, used = torch.empty(3, height, width), []

    def uniform(tensor, low, high):
        used.append(next(numbers))
        return tensor.fill_(low + (high - low) * used[-1])

    def randint(low, high, size):
        # Area and ratio of the try that fits were drawn last; its position is column, row (torch-
        # vision asks for the row first).
        column, row = tries[len(used) // 2 - 1, 2:].tolist()
        positions.append(row if not positions else column)
        return torch.tensor([low + int((high - low) * positions[-1])])

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform)
    monkeypatch.setattr(torch, "randint", randint)
    later_tries = 0
    for row, box in zip(draws.double(), boxes.tolist(), strict=True):
        tries, positions = row[:40].view(10, 4), []
        used.clear()
        numbers = iter(tries[:, :2].flatten().tolist())
        top, left, h, w = torchvision.transforms.RandomResizedCrop.get_params(
            image, scale, augment.RATIO
        )
        assert box == [left, top, left + w, top + h]
        later_tries += len(used) > 2
    assert later_tries > 0


def test_crops_on_the_device_are_pillows():
    draws = augment.draw(len(NOISE), new_generator(2, "crops"))
    boxes = augment.crop_boxes(draws, 24, 24, (0.5, 1.0))
    cropped = augment.crop(as_floats(NOISE), boxes) * 255
    for image, box, ours in zip(NOISE, boxes.tolist(), cropped, strict=True):
        theirs = Image.fromarray(image.numpy()).resize((24, 24), Image.Resampling.BILINEAR, box)
        assert np.abs(ours.permute(1, 2, 0).numpy() - np.asarray(theirs)).max() < 1.5


def test_jitter_is_pillows_in_the_authors_order():
    draws = augment.draw(len(NOISE), new_generator(3, "jitter"))
    jittered = augment.jitter(as_floats(NOISE), draws) * 255
    factors = 1 + 0.4 * (2 * draws[:, 40:43] - 1)
    assert factors.std(0).min() > 0.1
    for image, factor, ours in zip(NOISE, factors.tolist(), jittered, strict=True):
        theirs = Image.fromarray(image.numpy())
        for enhance, f in zip(("Brightness", "Contrast", "Color"), factor, strict=True):
            theirs = getattr(ImageEnhance, enhance)(theirs).enhance(f)
        # Pillow rounds after each of the three steps.
        assert np.abs(ours.permute(1, 2, 0).numpy() - np.asarray(theirs)).max() < 4


def test_mirroring_and_normalisation():
    draws = augment.draw(len(NOISE), new_generator(4, "mirror"))
    images = as_floats(NOISE).float()
    mirrored = augment.mirror(images, draws)
    flipped = draws[:, -1] < 0.5
    assert 2 < flipped.sum() < 10
    for image, ours, flip in zip(images, mirrored, flipped, strict=True):
        assert torch.equal(ours, image.flip(-1) if flip else image)
    theirs = torchvision.transforms.functional.normalize(images, augment.MEAN, augment.STD)
    torch.testing.assert_close(augment.normalise(images), theirs)


@pytest.mark.parametrize("size", [(40, 31), (24, 60)])
def test_files_are_read_as_torchvision_reads_them(size, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path, picture = tmp_path / "image.png", Image.fromarray(pixels)
    picture.save(path)
    transforms = torchvision.transforms
    evaluation = transforms.Compose([transforms.Resize((18, 18)), transforms.CenterCrop(16)])
    assert np.array_equal(read_image(path, 16, None), np.asarray(evaluation(picture)))
    draws = augment.draw(1, new_generator(5, "file"))
    left, top, right, bottom = augment.crop_boxes(draws, *size, (0.08, 1.0))[0].tolist()
    cropped = transforms.functional.resized_crop(
        picture, top, left, bottom - top, right - left, [16, 16]
    )
    assert np.array_equal(read_image(path, 16, draws), np.asarray(cropped))
