"""The embedded benchmark: five small domains that ship with the project.

Each domain is one file of pixels, NAME.xz; ``benchmark.json`` holds its classes, split, size and
checksum, and the packages it was made from. SHA256SUMS has the checksum of benchmark.json. Origins,
licences and the commit with the programs that made it: ATTRIBUTION.md.
"""

import functools
import hashlib
import json
import lzma
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.errors import UserError
from common.files import checked_files

FOLDER = Path(__file__).resolve().parent
SPLITS = ("base", "val", "novel")
SIDE = 32
STEP = 17
"""Pixels keep 16 levels (multiples of 17), which halves the shipped size."""


class EmbeddedDomain(NamedTuple):
    """images: uint8 (classes, images, 32, 32, channels), classes in the order base, val, novel.
    classes: names by split. checksum: SHA-256 of the bytes of ``images``."""

    images: np.ndarray
    classes: dict[str, tuple[str, ...]]
    checksum: str

    def split(self, split: str) -> np.ndarray:
        """The images of one split's classes."""
        ends = np.cumsum([len(self.classes[name]) for name in SPLITS[:-1]])
        return dict(zip(SPLITS, np.split(self.images, ends), strict=True))[split]


@functools.cache
def recipe() -> dict[str, Any]:
    """The content of benchmark.json. Raises UserError unless it is the file in SHA256SUMS."""
    checked_files(FOLDER, "get it again from the repository", "benchmark.json")
    return json.loads((FOLDER / "benchmark.json").read_text(encoding="utf-8"))


@functools.cache
def load(name: str, folder: Path = FOLDER) -> EmbeddedDomain:
    """A domain, verified. Raises UserError if its file is missing or not the one that shipped."""
    path, domain = folder / f"{name}.xz", recipe()["domains"][name]
    try:
        pixels = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8) * np.uint8(STEP)
        found = hashlib.sha256(pixels.tobytes()).hexdigest()
        if found != domain["sha256"]:
            raise ValueError(f"its pixels have SHA-256 {found} instead of {domain['sha256']}")
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise UserError(
            f"{path} is damaged or missing ({error}): get the file again from the repository"
        ) from None
    images = pixels.reshape(-1, domain["images_per_class"], SIDE, SIDE, domain["channels"])
    images.flags.writeable = False
    return EmbeddedDomain(images, {s: tuple(domain["classes"][s]) for s in SPLITS}, found)
