"""Random crops, colour jitter and mirroring of whole batches, with parameters drawn beforehand.

All randomness of N augmented samples is one tensor of uniform numbers (N, DRAWS), so that it makes
no difference where and when the pixels are computed. Source: the transforms of Chen et al.,
"A Closer Look at Few-shot Classification" (2019), which the few-shot experiment's authors use:
random resized crop, brightness, contrast and colour by +-40 % in this order, mirroring.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, for every domain."""
JITTER = 0.4
RATIO = (3 / 4, 4 / 3)
"""Width over height of a random crop."""
TRIES = 10
DRAWS = 4 * TRIES + 3 + 1
"""Uniform numbers per sample: crops, jitter, mirroring."""
LUMA = (0.299, 0.587, 0.114)


def draw(count: int, generator: torch.Generator) -> Tensor:
    """(count, DRAWS), uniform in [0, 1)."""
    return torch.rand(count, DRAWS, generator=generator)


def crop_boxes(draws: Tensor, height: int, width: int, scale: tuple[float, float]) -> Tensor:
    """Boxes (N, 4) of whole pixels, left, top, right, bottom, for images of one size.

    As torchvision's RandomResizedCrop: area uniform in ``scale`` times the image's, log of the
    ratio width / height uniform; the first of ten tries that fits into the image, else the
    largest central box with a ratio in range.
    """
    tries = draws[:, : 4 * TRIES].double().view(-1, TRIES, 4)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    least, most = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = torch.exp(least + (most - least) * tries[..., 1])
    w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (w > 0) & (h > 0) & (w <= width) & (h <= height)
    left = (tries[..., 2] * (width - w + 1)).floor()
    top = (tries[..., 3] * (height - h + 1)).floor()
    boxes = torch.stack([left, top, left + w, top + h], -1)
    first = fits.byte().argmax(1)
    chosen = boxes[torch.arange(len(boxes)), first]
    wide, high = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    x, y = (width - wide) // 2, (height - high) // 2
    central = torch.tensor([x, y, x + wide, y + high], dtype=chosen.dtype)
    return torch.where(fits.any(1, keepdim=True), chosen, central).long()


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Each image's box, enlarged to the image's size by bilinear interpolation.

    images: (N, C, S, S) floats; boxes: (N, 4) as from ``crop_boxes``.
    """
    side = images.shape[-1]
    left, top, right, bottom = (boxes.to(images.dtype) / side).unbind(1)
    zero = torch.zeros_like(left)
    x = torch.stack([right - left, zero, left + right - 1], 1)
    y = torch.stack([zero, bottom - top, top + bottom - 1], 1)
    grid = F.affine_grid(torch.stack([x, y], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def jitter(images: Tensor, draws: Tensor) -> Tensor:
    """Brightness, contrast and colour, each times 1 +- JITTER; images (N, 3, S, S) in [0, 1].

    As PIL's ImageEnhance: an image is blended with black, with its mean grey, with its own grey.
    """
    factors = 1 + JITTER * (2 * draws[:, 4 * TRIES : 4 * TRIES + 3].to(images.dtype) - 1)
    brightness, contrast, colour = factors.view(-1, 3, 1, 1, 1).unbind(1)
    images = (images * brightness).clamp(0, 1)
    images = torch.lerp(_grey(images).mean((1, 2, 3), keepdim=True), images, contrast).clamp(0, 1)
    return torch.lerp(_grey(images), images, colour).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def mirror(images: Tensor, draws: Tensor) -> Tensor:
    """Half of the images, chosen by their draws, flipped left to right."""
    return torch.where((draws[:, -1] < 0.5).view(-1, 1, 1, 1), images.flip(-1), images)


def normalise(images: Tensor) -> Tensor:
    """Pixels in [0, 1], (N, 3, S, S), to ImageNet's mean 0 and standard deviation 1."""
    mean, std = _mean_and_std(images.device)
    return (images - mean) / std


@functools.cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """On the device, cached: a copy for each batch would wait for the device."""
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return mean, std
