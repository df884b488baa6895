"""Generated parts of documents: filled exactly, and every mismatch of markers refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    assert find_blocks(filled) == {"first": "\n\n| a |\n\n", "second table": "\n\nnew\n\n"}


@given(st.text(), st.text())
def test_filling_twice_is_filling_once(one, two):
    blocks = {"first": one, "second table": two}
    filled = fill_blocks(TEXT, blocks)
    assert fill_blocks(filled, blocks) == filled
    assert one.strip() in filled
    assert filled.endswith("the end, without a newline")


def test_content_with_backslashes_is_taken_literally():
    assert r"\1 \g<0>" in fill_blocks(TEXT, BLOCKS | {"first": r"\1 \g<0>"})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (TEXT.replace("<!-- end generated: first -->", ""), "first"),
        (TEXT.replace("<!-- end generated: second table -->", ""), "second table"),
        (TEXT.replace("<!-- generated: first -->", ""), "first"),
        (TEXT.replace("end generated: first", "end generated: second"), "first"),
        (TEXT.replace("second table", "first"), "first"),
        (TEXT.replace("old", "<!-- generated: third -->\n<!-- end generated: third -->"), "third"),
    ],
)
def test_markers_that_do_not_match_are_refused(text, name):
    for use in (find_blocks, lambda text: fill_blocks(text, BLOCKS)):
        with pytest.raises(UserError, match=f"block '{name}' needs one marker line before it"):
            use(text)


@pytest.mark.parametrize("text", [TEXT.replace("first", "third"), "nothing generated here"])
def test_contents_and_blocks_that_are_not_the_same_are_refused(text):
    with pytest.raises(UserError, match="block 'first' has no content, or no place"):
        fill_blocks(text, BLOCKS)


def test_content_that_holds_a_marker_is_refused():
    with pytest.raises(UserError, match="marker"):
        fill_blocks(TEXT, BLOCKS | {"first": "<!-- generated: x -->"})
