"""Comparison tables, and their Markdown, LaTeX and CSV under hostile text."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.reporting import (
    Comparison,
    Heading,
    Measured,
    Number,
    Published,
    Table,
    comparison_table,
    published_value,
    to_markdown,
    write_table,
)
from common.reporting.table_formats import escape_latex, escape_markdown, to_csv, to_latex
from common.reporting.tables import VerdictCell

HOSTILE = r"a|b & 50% $x$ #1 _u_ {y} ~ ^ \ < > `c` **d** [e](f) <script>"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(98.114, 0.318), "98.11 ± 0.32"),
        (Number(-1.25, digits=1), "−1.2"),
        (Number(0.4, signed=True, digits=1), "+0.4"),
        (Number(-0.4, signed=True, digits=1), "−0.4"),
        (Number(-0.001, signed=True), "0.00"),
        (Number(50.0, 1.0, mark="*", digits=0), "50 ± 1*"),
    ],
)
def test_numbers_as_read_by_people(number, text):
    assert str(number) == text


def comparison():
    published = published_value("rotation", "evograd", "rotated")
    rows = [
        Comparison("EvoGrad", published, Measured((98.0, 98.2, 99.0)), planned=5),
        Comparison("T1-T2", None, Measured((90.0,)), planned=5),
        Comparison("quick", published, Measured((98.11,)), planned=1, comparable=False),
        Comparison("quoted", Published(80.0, copied=True), None, planned=5),
    ]
    return comparison_table("Rotation", rows, label_columns=("method",), notes=("A note.",))


def test_comparison_table_cell_by_cell():
    table = comparison()
    columns = ("method", "published", "measured", "runs", "difference", "verdict")
    assert table.columns == columns
    evograd, t1t2, quoted, heading, quick = table.rows
    # The paper's sd is the population one, so is ours: sqrt(((-.4)^2 + (-.2)^2 + .6^2) / 3)
    assert [str(cell) for cell in evograd] == [
        *("EvoGrad", "98.11 ± 0.32", "98.40 ± 0.43", "3 of 5", "+0.29", "agrees")
    ]
    assert [str(cell) for cell in t1t2[1:]] == ["–", "90.00", "1 of 5", "–", "not judged"]
    assert [str(cell) for cell in quoted[1:]] == ["80.00*", "–", "0 of 5", "–", "not judged"]
    assert isinstance(heading, Heading)
    # Equal to the published value, and still not judged: it is another size.
    assert [str(cell) for cell in quick[3:]] == ["1 of 1", "0.00", "not judged"]
    assert any("population" in note for note in table.notes)
    assert any(note.startswith("*:") for note in table.notes)
    assert table.notes[-1] == "A note."


def test_like_stands_beside_like():
    values = (1.0, 2.0, 6.0)  # sd 2.65, population sd 2.16, 95 % half-width 4.303 * 2.65 / sqrt(3)
    expected = {
        "2.65": Published(3.0, 1.0, "sd", n=5),
        "2.16": Published(3.0, 1.0, "sd", n=5, population=True),
        "6.57": Published(3.0, 1.0, "ci95"),
    }
    for text, published in expected.items():
        table = comparison_table("", [Comparison("", published, Measured(values))])
        assert str(table.rows[0][2]) == f"3.00 ± {text}"
        assert str(table.rows[0][3]) == "3"
    bare = comparison_table("", [Comparison("", Published(3.0), Measured(values))])
    assert str(bare.rows[0][2]) == "3.00 ± 2.65"
    assert any("sample standard deviation" in note for note in bare.notes)


def test_several_label_columns_and_a_row_of_the_wrong_width():
    row = Comparison(("cifar10", "0.4"), None, None)
    table = comparison_table("", [row], label_columns=("data", "noise"))
    assert table.rows[0][:2] == ("cifar10", "0.4")
    with pytest.raises(ValueError, match="2 columns, but a row of 1"):
        Table("t", ("a", "b"), (("x",),))


def cells_of(line):
    """The cells of a Markdown table row, split where a reader of GitHub's Markdown splits."""
    return re.split(r"(?<!\\)\|", line.strip()[1:-1])


def test_markdown_rows_keep_their_cells_under_hostile_text():
    table = Table(
        HOSTILE,
        (HOSTILE, "n"),
        ((HOSTILE, Number(1.0)), Heading(HOSTILE), ("two\nlines", "–")),
        caption="Light `a_*b*` **b<i** *c* and 2 * 3",
        notes=(HOSTILE.replace("`c`", ""),),
    )
    text = to_markdown(table)
    assert r"Light `a_*b*` **b\<i** *c* and 2 \* 3" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert all(len(cells_of(row)) == 2 for row in rows)
    assert rows[1] == "| :--- | ---: |"
    assert "two lines" in rows[4]
    assert not re.search(r"(?<!\\)<", text)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("lft_evograd", "lft_evograd"),
        ("_u_", r"\_u\_"),
        ("a*b", r"a\*b"),
        ("[x](y)", r"\[x\](y)"),
        ("a\\b", r"a\\b"),
    ],
)
def test_markdown_escapes(text, escaped):
    assert escape_markdown(text) == escaped


def test_latex_escapes_by_the_book():
    assert escape_latex(r"50% & $1 #2 a_b {c}") == r"50\% \& \$1 \#2 a\_b \{c\}"
    assert escape_latex("\\") == r"\textbackslash{}"
    assert escape_latex("~^") == r"\textasciitilde{}\textasciicircum{}"
    assert escape_latex("σ ± 1°") == r"$\sigma$ $\pm$ 1$^\circ$"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_latex_leaves_no_special_character_and_loses_nothing(text):
    escaped = escape_latex(text)
    named = {
        "textbackslash": "\\",
        "textasciitilde": "~",
        "textasciicircum": "^",
        "textless": "<",
        "textgreater": ">",
        "textbar": "|",
        "textquotedblright": '"',
    }
    read = re.sub(
        r"\\([a-z]+)\{\}|\\([&%$#_{}])|\{([\[*])\}|([&%$#_{}~^\\\[*])",
        lambda m: (
            named[m[1]] if m[1] else m[2] or m[3] or pytest.fail(f"bare {m[4]} in {escaped!r}")
        ),
        escaped,
    )
    assert read == " ".join(text.split())


def test_latex_table_is_booktabs_with_the_right_columns():
    text = to_latex(comparison())
    assert r"\begin{tabular}{lrrlrl}" in text
    assert r"EvoGrad & $98.11 \pm 0.32$ & $98.40 \pm 0.43$ & 3 of 5 & $+0.29$ & agrees \\" in text
    assert r"quoted & $80.00${*} & -- & 0 of 5 & -- & not judged \\" in text
    assert text.count("{") == text.count("}")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert rf"\{rule}" in text
    minus = to_latex(Table("t", ("x",), ((Number(-1.0, signed=True),),)))
    assert "$-1.00$" in minus
    assert minus.isascii()


def test_captions_and_notes_have_light_markup_in_latex():
    text = to_latex(Table("A & B.", ("x",), (), "Runs `a_b` **5%** *c* and 2 * 3.", ("See *d*.",)))
    caption = r"\caption{A \& B. Runs \texttt{a\_b} \textbf{5\%} \emph{c} and 2 {*} 3.}"
    assert caption in text
    assert r"{\footnotesize See \emph{d}.}" in text


def test_csv_is_read_back_with_numbers_spreads_and_blocks():
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison()))))
    assert [row["method"] for row in rows] == ["EvoGrad", "T1-T2", "quoted", "quick"]
    assert float(rows[0]["measured"]) == 98.4
    assert float(rows[0]["measured spread"]) == pytest.approx(0.432049, abs=1e-6)
    assert rows[1]["published"] == rows[1]["published spread"] == rows[1]["difference"] == ""
    assert [bool(row["block"]) for row in rows] == [False, False, False, True]
    hostile = 'a,"b"\nc'
    table = Table("t", ("x", "y"), ((hostile, Number(-1.5)),))
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [["x", "y"], [hostile, "-1.5"]]


def test_only_columns_of_numbers_are_aligned_to_the_right():
    rows = (("a", Number(1.0), "–", VerdictCell("near")), ("b", "–", "–", VerdictCell("near")))
    table = Table("t", ("a", "b", "c", "d"), rows)
    assert [table.is_numeric(i) for i in range(4)] == [False, True, False, False]


def test_write_table_writes_three_files(tmp_path):
    paths = write_table(comparison(), tmp_path / "new", "rotation")
    assert [p.name for p in paths] == ["rotation.md", "rotation.tex", "rotation.csv"]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    assert texts == [write(comparison()) for write in (to_markdown, to_latex, to_csv)]
