"""Icons and emoji drawn from the SVG bodies of icon sets."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from tools.embedded_data.fewshot.pixels import CANVAS, SIDE, full_ink, quantise, shrink

MARGIN = 2
"""Of the 32 pixels of an image, on every side."""

IconSet = Mapping[str, Any]
"""A set in Iconify's JSON format: width, height, and icons by name, each with its SVG body."""


def render(icons: IconSet, name: str) -> np.ndarray:
    """One icon, centred in a square, in its colours on white; uint8 (32, 32, 3)."""
    icon = icons["icons"][name]
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    side = max(width, height) * SIDE / (SIDE - 2 * MARGIN)
    left, top = left + (width - side) / 2, top + (height - side) / 2
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{CANVAS}" height="{CANVAS}" viewBox="{left} {top} {side} {side}">'
        f"{icon['body']}</svg>"
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True)
    return shrink(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))


def icon_images(sets: Sequence[IconSet], classes: Sequence[str]) -> dict[str, Iterator[np.ndarray]]:
    """A class is an icon's name; for each its ink, set by set, (32, 32, 1)."""

    def draw(name: str) -> Iterator[np.ndarray]:
        for icons in sets:
            if name in icons["icons"]:
                # Luma in whole numbers: 0.299, 0.587, 0.114 of 256.
                luma = (render(icons, name).astype(np.int64) @ np.array([77, 150, 29])) >> 8
                yield quantise(full_ink((255 - luma).astype(np.uint8)[..., None]))

    return {name: draw(name) for name in classes}


def emoji_images(
    sets: Sequence[IconSet], folder: Path, classes: Sequence[str]
) -> dict[str, Iterator[np.ndarray]]:
    """A class is one of Unicode's subgroups of emoji; for each its images in colour, (32, 32, 3).

    folder: of package emojibase-data, which says to which subgroup an emoji belongs. The sets
    name emoji as Unicode does. All sets' drawings of an emoji come before those of the next.
    """
    groups = json.loads((folder / "meta/groups.json").read_text())["subgroups"]
    members: dict[str, list[str]] = {}
    for emoji in json.loads((folder / "en/data.json").read_text()):
        name = emoji["label"].lower().replace(":", "").replace("’", "").replace(" ", "-")
        members.setdefault(groups.get(str(emoji.get("subgroup"))), []).append(name)

    def draw(group: str) -> Iterator[np.ndarray]:
        for name in members[group]:
            for icons in sets:
                icon = icons["icons"].get(name)
                # The renderer fails on some filters, and may round them as the machine does.
                if icon is not None and "<filter" not in icon["body"]:
                    yield quantise(render(icons, name))

    return {group: draw(group) for group in classes}
