"""Text that is generated into a document written by hand, between two marker lines.

<!-- generated: NAME -->
... replaced ...
<!-- end generated: NAME -->
"""

import re
from collections.abc import Mapping

from common.errors import UserError

_BLOCK = re.compile(
    r"(^<!-- generated: ([^\n]+?) -->$)(.*?)(^<!-- end generated: \2 -->$)", re.M | re.S
)
_MARKER = re.compile(r"<!-- (?:end )?generated: ")


def find_blocks(text: str) -> dict[str, str]:
    """Name -> what stands between its markers. UserError for markers that are repeated, nested or
    left open."""
    found = {block[2]: block[3] for block in _BLOCK.finditer(text)}
    if len(_MARKER.findall(text)) != 2 * len(found):
        raise UserError(
            "A generated block needs one marker line before it, one after it, and none inside; "
            f"those that have them: {', '.join(found) or 'none'}."
        )
    return found


def fill_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """The text with every block filled with its content; filling again changes nothing. UserError
    as ``find_blocks``, and for a block without a content."""
    if missing := find_blocks(text).keys() - blocks.keys():
        raise UserError(f"The generated block {min(missing)!r} has no content.")
    # Markdown takes a table for one only after a blank line.
    return _BLOCK.sub(lambda block: f"{block[1]}\n\n{blocks[block[2]].strip()}\n\n{block[4]}", text)
