"""What the site of docs/ (mkdocs.yml) adds to mkdocs: three rules for its pages."""

import re
from typing import Any

import common.hypergrad


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of docs/ become text: the site holds docs/ only. The reference is complete."""
    if page.file.src_uri == "api.md":
        named = set(re.findall(r"^::: common\.hypergrad\.(?:\w+\.)?(\w+)$", markdown, re.MULTILINE))
        if differ := named ^ set(common.hypergrad.__all__):
            raise ValueError(f"docs/api.md and __all__ of the library differ by {sorted(differ)}")
    return re.sub(r"(?<!!)\[([^]]*)\]\(\.\./[^)]*\)", r"\1", markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """In the reference, what a docstring says of an argument begins a line, its name in bold."""
    if page.file.name != "api":
        return html
    html = re.sub(r"^([a-z]\w*(?:, [a-z]\w*)*): ", r"<br><b>\1</b>: ", html, flags=re.MULTILINE)
    return re.sub(r"^<p>([a-z]\w*(?:, [a-z]\w*)*): ", r"<p><b>\1</b>: ", html, flags=re.MULTILINE)
