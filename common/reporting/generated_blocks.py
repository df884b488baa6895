"""Text that is generated into a document written by hand, between two marker lines.

<!-- generated: NAME -->
... replaced ...
<!-- end generated: NAME -->
"""

import itertools
import re
from collections.abc import Mapping

from common.errors import UserError

_MARKER = re.compile(r"^[ \t]*<!-- (generated|end generated): (.+?) -->[ \t]*$", re.MULTILINE)
_BLOCK = re.compile(
    r"(^[ \t]*<!-- generated: ([^\n]+?) -->[ \t]*$)(.*?)"
    r"(^[ \t]*<!-- end generated: \2 -->[ \t]*$)",
    re.MULTILINE | re.DOTALL,
)


def find_blocks(text: str) -> dict[str, str]:
    """Name -> what stands between its markers, in the order of the text.

    Raises UserError when markers are repeated, nested or left open.
    """
    found = {block[2]: block[3] for block in _BLOCK.finditer(text)}
    pairs = [(kind, name) for name in found for kind in ("generated", "end generated")]
    for marker, expected in itertools.zip_longest(_MARKER.findall(text), pairs):
        if marker != expected:
            name = (marker or expected)[1]
            raise UserError(
                f"The generated block {name!r} needs one marker line before it, one after it, and "
                "none inside."
            )
    return found


def fill_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """The text with every block filled with its content; filling again changes nothing.

    Raises UserError as `find_blocks` does, when the text has other blocks than those given, and
    when a content has a marker line.
    """
    if other := sorted(find_blocks(text).keys() ^ blocks.keys()):
        raise UserError(
            f"The generated block {other[0]!r} has no content, or no place in the text."
        )
    if any(_MARKER.search(content) for content in blocks.values()):
        raise UserError("The content of a generated block holds a marker line: remove it.")
    # Markdown takes a table for one only after a blank line.
    return _BLOCK.sub(lambda block: f"{block[1]}\n\n{blocks[block[2]].strip()}\n\n{block[4]}", text)
