"""Letters drawn from fonts: handwritten Latin and Devanagari, one image per font family."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.embedded_data.fewshot.pixels import CANVAS, SIDE, full_ink, quantise, shrink

MARGIN = 8
"""Of the 128 pixels of the canvas, on every side."""
INSIDE = CANVAS - 2 * MARGIN
NOT_A_CHARACTER = "\uffff"
"""No font has it: what is drawn for it is drawn for every missing letter."""


class Family:
    """A font at the size at which nine tenths of ``letters`` fit the height of the canvas.

    Letters keep their relative size and stand on one line, so that o, O and 0 differ as they do
    in writing; a letter that is too wide or too high at that size is made smaller.
    """

    def __init__(self, path: Path, letters: Sequence[str]) -> None:
        self._path = path
        boxes = [self._font(100).getbbox(letter, anchor="ls") for letter in letters]
        tenth = len(letters) // 10
        tops, bottoms = (sorted(b[i] for b in boxes) for i in (1, 3))
        top, bottom = tops[tenth], bottoms[-1 - tenth]
        self._size = 100 * INSIDE // (bottom - top)
        self._baseline = MARGIN - top * self._size // 100

    @cache  # noqa: B019 - a handful of families, which live as long as the build
    def _font(self, size: int) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(self._path, size, layout_engine=ImageFont.Layout.BASIC)

    def draw(self, letter: str) -> np.ndarray:
        """(32, 32, 1); empty if the font lacks the letter."""
        masks = (self._font(100).getmask(c) for c in (letter, NOT_A_CHARACTER))
        if len({(bytes(mask), mask.size) for mask in masks}) == 1:
            return np.zeros((SIDE, SIDE, 1), np.uint8)
        size = self._size
        left, top, right, bottom = self._font(size).getbbox(letter, anchor="ls")
        if max(right - left, bottom - top) > INSIDE:
            size = size * INSIDE // max(right - left, bottom - top)
            left, top, right, bottom = self._font(size).getbbox(letter, anchor="ls")
        lowest, highest = MARGIN - top, CANVAS - MARGIN - bottom
        at = (CANVAS - right - left) // 2, min(max(self._baseline, lowest), highest)
        canvas = Image.new("L", (CANVAS, CANVAS))
        ImageDraw.Draw(canvas).text(at, letter, 255, self._font(size), anchor="ls")
        return quantise(full_ink(shrink(np.asarray(canvas)[..., None])))


def letter_images(fonts: Sequence[Path], letters: Sequence[str]) -> dict[str, Iterator[np.ndarray]]:
    """For each letter its images, font by font."""
    families = [Family(path, letters) for path in fonts]

    def draw(letter: str) -> Iterator[np.ndarray]:
        return (family.draw(letter) for family in families)

    return {letter: draw(letter) for letter in letters}
