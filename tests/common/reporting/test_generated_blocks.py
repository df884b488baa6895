"""Generated parts of documents: filled exactly, and every mismatch of markers refused."""

import pytest

from common.errors import UserError
from common.reporting import fill_blocks, find_blocks

TEXT = """# Title

<!-- generated: first -->
old
<!-- end generated: first -->

between

<!-- generated: second table -->
<!-- end generated: second table -->
the end, without a newline"""

BLOCKS = {"first": "| a |\n", "second table": "new"}


def test_blocks_are_found_and_filled_and_the_rest_is_kept():
    assert find_blocks(TEXT) == {"first": "\nold\n", "second table": "\n"}
    filled = fill_blocks(TEXT, BLOCKS)
    expected = TEXT.replace("-->\nold\n", "-->\n\n| a |\n\n")
    assert filled == expected.replace("table -->\n<!--", "table -->\n\nnew\n\n<!--")
    assert fill_blocks(filled, BLOCKS) == filled
    assert r"\1 \g<0>" in fill_blocks(TEXT, BLOCKS | {"first": r"\1 \g<0>"})


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("<!-- end generated: first -->", ""),
        TEXT.replace("second table", "first"),
        TEXT.replace("old", "<!-- generated: third -->\n<!-- end generated: third -->"),
    ],
)
def test_markers_that_do_not_match_are_refused(text):
    with pytest.raises(UserError, match="needs one marker line before it"):
        find_blocks(text)
    with pytest.raises(UserError, match="block 'third' has no content"):
        fill_blocks(TEXT.replace("first", "third"), BLOCKS)
