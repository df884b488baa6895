"""The embedded benchmark: five small domains that ship with the project.

Each domain is one file of pixels, NAME.xz; ``benchmark.json`` holds its classes, split, size and
checksum, and the packages it was made from. SHA256SUMS has the checksum of benchmark.json. Origins,
licences and the commit with the programs that made it: ATTRIBUTION.md.
"""

import functools
import hashlib
import json
import lzma
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import checked_files

FOLDER = Path(__file__).resolve().parent
SPLITS = ("base", "val", "novel")
SIDE = 32
STEP = 17
"""Pixels keep 16 levels (multiples of 17), which halves the shipped size."""


@dataclass(frozen=True)
class EmbeddedDomain:
    """images: uint8 (classes, images, 32, 32, channels), classes in the order base, val, novel."""

    name: str
    images: np.ndarray
    classes: dict[str, tuple[str, ...]]
    """Names by split."""
    checksum: str
    """SHA-256 of the bytes of ``images``."""

    def split(self, split: str) -> np.ndarray:
        """The images of one split's classes."""
        before = SPLITS[: SPLITS.index(split)]
        first = sum(len(self.classes[name]) for name in before)
        return self.images[first : first + len(self.classes[split])]


@functools.cache
def recipe() -> dict[str, Any]:
    """The content of benchmark.json. Raises UserError unless it is the file in SHA256SUMS."""
    checked_files(FOLDER, "get it again from the repository", "benchmark.json")
    return json.loads((FOLDER / "benchmark.json").read_text(encoding="utf-8"))


def shape(name: str) -> tuple[int, int, int, int, int]:
    """The shape of a domain's images."""
    domain = recipe()["domains"][name]
    classes = sum(map(len, domain["classes"].values()))
    return classes, domain["images_per_class"], SIDE, SIDE, domain["channels"]


def checksum(images: np.ndarray) -> str:
    """SHA-256 of uint8 pixels in C order."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def unpack(data: bytes, name: str) -> np.ndarray:
    """The images in a packed file. Raises ValueError if it is damaged."""
    try:
        levels = lzma.decompress(data)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"it cannot be decompressed: {error}") from None
    if len(levels) != prod(shape(name)):
        raise ValueError(f"it holds {len(levels)} pixels instead of {prod(shape(name))}")
    return np.frombuffer(levels, np.uint8).reshape(shape(name)) * np.uint8(STEP)


@functools.cache
def load(name: str, folder: Path = FOLDER) -> EmbeddedDomain:
    """A domain, verified. Raises UserError if its file is missing or not the one that shipped."""
    path, domain = folder / f"{name}.xz", recipe()["domains"][name]
    try:
        images = unpack(path.read_bytes(), name)
        found = checksum(images)
        if found != domain["sha256"]:
            raise ValueError(f"its pixels have SHA-256 {found} instead of {domain['sha256']}")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or missing ({error}): get the file again from the repository"
        ) from None
    images.flags.writeable = False
    classes = {split: tuple(domain["classes"][split]) for split in SPLITS}
    return EmbeddedDomain(name, images, classes, found)
