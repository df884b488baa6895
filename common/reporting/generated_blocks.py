"""Text that is generated into a document written by hand, between two marker lines.

<!-- generated: NAME -->
... replaced ...
<!-- end generated: NAME -->
"""

import re
from collections.abc import Mapping
from pathlib import Path

from common.errors import UserError

_MARKER = re.compile(r"^[ \t]*<!-- (generated|end generated): (.+?) -->[ \t]*$", re.MULTILINE)


def fill_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """The text with every block filled with its content; filling again changes nothing.

    Raises UserError when the text has a block without content, content has no block, or markers
    are repeated, nested or left open.
    """
    spans = _find_blocks(text)
    _check_names(spans, blocks)
    for content in blocks.values():
        if _MARKER.search(content):
            raise UserError("The content of a generated block holds a marker line: remove it.")
    # From the end, so that the positions found stay right.
    for name, (start, end) in sorted(spans.items(), key=lambda item: -item[1][0]):
        text = text[:start] + _padded(blocks[name]) + text[end:]
    return text


def check_blocks(path: str | Path, blocks: Mapping[str, str]) -> list[str]:
    """The names of the blocks of a file that hold something else than their content, in order.

    Raises UserError, naming the file, where it is missing or `fill_blocks` would refuse it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        spans = _find_blocks(text)
        _check_names(spans, blocks)
    except OSError:
        raise UserError(f"{path} cannot be read: restore it.") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return [
        name for name, (start, end) in spans.items() if text[start:end] != _padded(blocks[name])
    ]


def _padded(content: str) -> str:
    # Markdown takes a table for one only after a blank line.
    return f"\n\n{content.strip()}\n\n"


def _find_blocks(text: str) -> dict[str, tuple[int, int]]:
    """Name -> (start, end) of what stands between its markers, in the order of the text."""
    spans: dict[str, tuple[int, int]] = {}
    opened: re.Match[str] | None = None
    for marker in _MARKER.finditer(text):
        kind, name = marker.groups()
        if kind == "generated":
            if opened is not None:
                raise UserError(f"The generated block {opened[2]!r} is not ended before {name!r}.")
            if name in spans:
                raise UserError(f"The generated block {name!r} occurs twice: remove one.")
            opened = marker
        else:
            if opened is None or opened[2] != name:
                raise UserError(f"The generated block {name!r} ends without a beginning.")
            start = marker.start()
            spans[name] = (opened.end(), start)
            opened = None
    if opened is not None:
        raise UserError(f"The generated block {opened[2]!r} is not ended: add its end marker.")
    return spans


def _check_names(spans: Mapping[str, object], blocks: Mapping[str, str]) -> None:
    unknown = [name for name in spans if name not in blocks]
    if unknown:
        raise UserError(
            f"Nothing is generated for the block {unknown[0]!r}: known are {', '.join(blocks)}."
        )
    absent = [name for name in blocks if name not in spans]
    if absent:
        raise UserError(
            f"There is no place for the generated block {absent[0]!r}: add its two marker lines."
        )
