"""Generated parts of documents: filled exactly, and every mismatch of markers refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.reporting import check_blocks, fill_blocks

TEXT = """# Title

<!-- generated: first -->
old
<!-- end generated: first -->

between

<!-- generated: second table -->
<!-- end generated: second table -->
the end, without a newline"""

BLOCKS = {"first": "| a |\n", "second table": "new"}


def test_blocks_are_filled_and_the_rest_is_kept():
    assert (
        fill_blocks(TEXT, BLOCKS)
        == """# Title

<!-- generated: first -->

| a |

<!-- end generated: first -->

between

<!-- generated: second table -->

new

<!-- end generated: second table -->
the end, without a newline"""
    )


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
    ("text", "message"),
    [
        (TEXT.replace("first", "third"), "'third'"),
        (TEXT.replace("<!-- end generated: first -->", ""), "'first' is not ended before"),
        (TEXT.replace("<!-- end generated: second table -->", ""), "'second table' is not ended"),
        (TEXT.replace("<!-- generated: first -->", ""), "'first' ends without a beginning"),
        (TEXT.replace("end generated: first", "end generated: second"), "without a beginning"),
        (TEXT.replace("second table", "first"), "'first' occurs twice"),
        ("nothing generated here", "no place for the generated block 'first'"),
    ],
)
def test_markers_that_do_not_match_are_refused(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fill_blocks(text, BLOCKS)
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(UserError, match=r"README\.md: ") as caught:
        check_blocks(path, BLOCKS)
    assert message.replace("'", "") in str(caught.value).replace("'", "")


def test_content_that_holds_a_marker_is_refused():
    with pytest.raises(UserError, match="marker"):
        fill_blocks(TEXT, BLOCKS | {"first": "<!-- generated: x -->"})


def test_check_names_the_blocks_that_disagree(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    assert check_blocks(path, BLOCKS) == ["first", "second table"]
    path.write_text(fill_blocks(TEXT, BLOCKS))
    assert check_blocks(path, BLOCKS) == []
    assert check_blocks(path, BLOCKS | {"second table": "newer"}) == ["second table"]
    path.write_text(path.read_text().replace("| a |", "| b |"))
    assert check_blocks(path, BLOCKS) == ["first"]


def test_check_names_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"absent\.md"):
        check_blocks(tmp_path / "absent.md", BLOCKS)
