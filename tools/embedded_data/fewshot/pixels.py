"""Small pixel operations of the build, in whole numbers, so that they give the same bits anywhere.

Images are uint8 (32, 32, channels). Grey ones hold ink: 0 is the background, 255 full ink.
"""

from collections.abc import Iterable

import numpy as np

from cross_domain_fewshot.embedded import SIDE, STEP

OVERSAMPLING = 4
CANVAS = SIDE * OVERSAMPLING
"""Pictures are drawn at 128 x 128 and averaged in blocks of 4 x 4."""


def shrink(canvas: np.ndarray) -> np.ndarray:
    """The rounded mean of each 4 x 4 block of uint8 (128, 128, channels)."""
    blocks = canvas.reshape(SIDE, OVERSAMPLING, SIDE, OVERSAMPLING, -1).astype(np.int64)
    count = OVERSAMPLING**2
    return ((blocks.sum((1, 3)) + count // 2) // count).astype(np.uint8)


def quantise(image: np.ndarray) -> np.ndarray:
    """Every value to the nearest multiple of 17."""
    return ((image.astype(np.int64) + STEP // 2) // STEP * STEP).astype(np.uint8)


def full_ink(image: np.ndarray) -> np.ndarray:
    """Scaled so that the strongest ink is 255; an empty image stays empty."""
    strongest = max(int(image.max()), 1)
    return (image.astype(np.int64) * 255 // strongest).astype(np.uint8)


def distinct(
    images: Iterable[np.ndarray], count: int, background: int, least: float
) -> list[np.ndarray]:
    """The first ``count`` images that are not empty and differ from all that were taken.

    Two images differ if sum |a - b| >= least * sum max(a, b), both measured from the background
    (0 or 255): 0 for equal images, 1 for disjoint ones.
    """
    taken: list[np.ndarray] = []
    marks: list[np.ndarray] = []
    for image in images:
        mark = np.abs(image.astype(np.int64) - background)
        if not mark.any():
            continue
        if all(np.abs(mark - m).sum() >= least * np.maximum(mark, m).sum() for m in marks):
            taken.append(image)
            marks.append(mark)
        if len(taken) == count:
            break
    return taken
