"""Sketches of Quick, Draw!, as the package delivers them: 28 x 28 values from 0 to 1."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tools.embedded_data.fewshot.pixels import SIDE, quantise

NATIVE = 28


def sketch_images(folder: Path, classes: Sequence[str]) -> dict[str, Iterator[np.ndarray]]:
    """For each class its sketches in the package's order, centred in (32, 32, 1)."""

    def draw(name: str) -> Iterator[np.ndarray]:
        with gzip.open(folder / f"{name}.ndjson.gz", "rt") as lines:
            for line in lines:
                values = np.array(json.loads(line), np.float64).reshape(NATIVE, NATIVE, 1)
                yield quantise(_centred((values * 255 + 0.5).astype(np.uint8)))

    return {name: draw(name) for name in classes}


def _centred(sketch: np.ndarray) -> np.ndarray:
    """The bounding box of what is drawn, in the middle of an empty image."""
    image = np.zeros((SIDE, SIDE, 1), np.uint8)
    rows, columns = (np.flatnonzero(sketch.any(axis)) for axis in ((1, 2), (0, 2)))
    if len(rows):
        drawn = sketch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        top, left = ((SIDE - length) // 2 for length in drawn.shape[:2])
        image[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return image
