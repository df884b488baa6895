"""The light markup of captions, notes and introductions: `code`, **bold** and *italics*.

Markup does not nest. A star with space on its inner side is a star: 2 * 3 * 4.
"""

import re
from collections.abc import Callable, Mapping

_MARKED = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|\*\*(?P<bold>[^\s*](?:[^*`]*[^\s*`])?)\*\*"
    r"|(?<!\*)\*(?P<italic>[^\s*](?:[^*`]*[^\s*`])?)\*(?!\*)"
)


def split_markup(text: str) -> list[tuple[str, str]]:
    """The text in pieces of one style each (plain, code, bold or italic), without the markup's own
    characters."""
    pieces = []
    position = 0
    for match in _MARKED.finditer(text):
        pieces.append(("plain", text[position : match.start()]))
        pieces.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    pieces.append(("plain", text[position:]))
    return [(style, piece) for style, piece in pieces if piece]


def render_markup(text: str, render: Mapping[str, Callable[[str], str]]) -> str:
    """The text in another language, each piece written by the function for its style."""
    return "".join(render[style](piece) for style, piece in split_markup(text))
