"""The domains: where their images come from and how they reach the device.

"embedded": five small domains that ship with the project, 32 x 32 pixels. "paper": five domains of
photographs in a folder of the user's, read by ``folders``, as are the user's own domains. Samples
are numbered class after class.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cross_domain_fewshot import embedded
from cross_domain_fewshot.augment import crop, crop_boxes
from cross_domain_fewshot.folders import checked_images, open_image, read_lists

DOMAINS = {
    "embedded": ("sketches", "icons", "emoji", "latin", "devanagari"),
    "paper": ("miniImagenet", "cub", "cars", "places", "plantae"),
}
LETTERS = ("latin", "devanagari")
"""Never mirrored: the mirror image of a letter is a different letter, or none."""
ENLARGED = 1.15
"""For evaluation, images are resized to this times the final size, then cropped centrally."""
SMALL_SCALE, LARGE_SCALE = (0.5, 1.0), (0.08, 1.0)
"""Area of a random crop. Photographs: torchvision's default. Drawings of 32 pixels: at least half,
since a smaller part would not show what it is."""


def domains_of(benchmark: str) -> tuple[str, ...]:
    """ "paper", "embedded", or the user's own: the names of folders with commas between them. The
    first domain is that of pre-training, of the auxiliary loss and of validation."""
    return DOMAINS.get(benchmark) or tuple(benchmark.split(","))


class TensorImages:
    """Images kept on the device as uint8 (N, C, S, S), C = 1 (grey) or 3."""

    def __init__(self, images: np.ndarray, image_size: int, device: torch.device) -> None:
        """images: uint8 (..., s, s, C), resized to image_size if s differs."""
        pixels = torch.tensor(images).flatten(0, -4).permute(0, 3, 1, 2)
        if image_size != pixels.shape[-1]:
            size = (image_size, image_size)
            pixels = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
            pixels = pixels.round().clamp(0, 255).byte()
        self.pixels = pixels.contiguous().to(device)

    def read(self, index: Tensor, draws: Tensor | None) -> Tensor:
        """Samples ``index`` (N,), on the CPU: pixels in [0, 1], (N, 3, S, S), on the device;
        randomly cropped if there are ``draws`` (N, DRAWS)."""
        images = self.pixels[index.to(self.pixels.device, non_blocking=True)].float() / 255
        if draws is not None:
            boxes = crop_boxes(draws, images.shape[2], images.shape[3], SMALL_SCALE)
            images = crop(images, boxes.to(images.device, non_blocking=True))
        return images.expand(-1, 3, -1, -1)


class FileImages:
    """Image files, decoded and cropped by ``workers`` threads (0: by the caller).

    Pillow decodes and resizes without holding Python's lock, so threads suffice.
    """

    def __init__(
        self, paths: Sequence[Path], image_size: int, device: torch.device, workers: int
    ) -> None:
        self.paths, self.image_size, self.device = paths, image_size, device
        self._map = ThreadPoolExecutor(workers, "images").map if workers else map

    def read(self, index: Tensor, draws: Tensor | None) -> Tensor:
        """As ``TensorImages.read``."""
        paths = [self.paths[number] for number in index.tolist()]
        each = [None] * len(paths) if draws is None else draws.split(1)
        images = self._map(read_image, paths, itertools.repeat(self.image_size), each)
        pixels = torch.from_numpy(np.stack([*images]))
        return pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255


def read_image(path: Path, side: int, draws: Tensor | None) -> np.ndarray:
    """A file as uint8 (side, side, 3): a random crop, or the centre of the enlarged image.

    draws: (1, DRAWS) or None. Raises UserError if the file is missing or damaged.
    """
    picture = open_image(path)
    bilinear = Image.Resampling.BILINEAR
    if draws is None:
        # The authors resize to a square, whatever the image's proportions are.
        enlarged = int(side * ENLARGED)
        border = round((enlarged - side) / 2)
        picture = picture.resize((enlarged, enlarged), bilinear)
        picture = picture.crop((border, border, border + side, border + side))
    else:
        width, height = picture.size
        box = tuple(crop_boxes(draws, height, width, LARGE_SCALE)[0].tolist())
        picture = picture.crop(box).resize((side, side), bilinear)
    return np.asarray(picture)


@dataclass(frozen=True)
class DomainSplit:
    """One domain, one of base / val / novel: named classes and their images.

    class_sizes: images per class; samples are numbered class after class. mirrored: whether
    augmentation may flip images. checksum: SHA-256 of the images and their classes.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    images: TensorImages | FileImages
    mirrored: bool
    checksum: str

    def contact_sheet(self, classes: int, images: int) -> Tensor:
        """The first images of the first classes as in evaluation, as many as there are, uint8, on
        the CPU: (classes, images, 3, S, S)."""
        sizes = self.class_sizes[:classes]
        starts = torch.tensor((0, *sizes)).cumsum(0)[:-1]
        index = starts.unsqueeze(1) + torch.arange(min(images, *sizes))
        pixels = self.images.read(index.flatten(), None)
        return (pixels * 255).round().byte().cpu().unflatten(0, index.shape)


def open_domain(
    benchmark: str,
    name: str,
    split: str,
    image_size: int,
    data_dir: Path | None,
    device: torch.device,
    workers: int = 0,
) -> DomainSplit:
    """One split ("base", "val", "novel") of one domain, its images as S = ``image_size`` squares.

    data_dir: the folder of the photographs. workers: threads that read these, 0 for none. Raises
    UserError if the data are missing or damaged: every photograph is read once.
    """
    images: TensorImages | FileImages
    if benchmark == "embedded":
        domain = embedded.load(name)
        pixels, names, checksum = domain.split(split), domain.classes[split], domain.checksum
        images, sizes = TensorImages(pixels, image_size, device), (pixels.shape[1],) * len(pixels)
    else:
        classes = read_lists(data_dir, name)[split]
        names, sizes = tuple(classes), tuple(map(len, classes.values()))
        files = [file for own in classes.values() for file in own]
        images = FileImages(files, image_size, device, workers)
        checksum = checked_images(name, classes, workers)
    return DomainSplit(name, split, names, sizes, images, name not in LETTERS, checksum)
