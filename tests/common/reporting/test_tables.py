"""Tables as Markdown, LaTeX and CSV, under hostile text."""

import csv
import io
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown import markdown

from common.reporting import Number, Table, to_markdown, write_table
from common.reporting.tables import escape_latex, escape_markdown, to_csv, to_latex

HOSTILE = r"a|b & 50% $x$ #1 _u_ {y} ~ ^ \ < > `c` **d** [e](f) <script>"


def table(rows, *columns, **parts):
    return Table(parts.pop("title", "A & B."), pd.DataFrame(rows, columns=list(columns)), **parts)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(98.114, 0.318), "98.11 ± 0.32"),
        (Number(-1.25, digits=1), "−1.2"),
        (Number(0.4, signed=True, digits=1), "+0.4"),
        (Number(-0.001, signed=True), "0.00"),
        (Number(50.0, 1.0, mark="*", digits=0), "50 ± 1*"),
    ],
)
def test_numbers_as_read_by_people(number, text):
    assert str(number) == text


def test_markdown_shows_hostile_text_as_it_is_in_its_cells():
    made = table([(HOSTILE, Number(1.0)), ("two\nlines", "–")], HOSTILE, "n", title=HOSTILE)
    text = to_markdown(made)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # Split where a reader of GitHub's Markdown splits.
    assert [len(re.split(r"(?<!\\)\|", row.strip()[1:-1])) for row in rows] == [2] * 4
    assert rows[1] == "| :--- | ---: |" and "two lines" in rows[3]
    page = markdown(text, extensions=["tables"])
    shown = "a|b &amp; 50% $x$ #1 _u_ {y} ~ ^ \\ &lt; &gt; `c` **d** [e](f) &lt;script&gt;"
    assert page.count(shown) == 3
    assert escape_markdown("lft_evograd num_candidates=8") == "lft_evograd num_candidates=8"


def test_latex_escapes_by_the_book():
    assert escape_latex(r"50% & $1 #2 a_b {c}") == r"50\% \& \$1 \#2 a\_b \{c\}"
    assert escape_latex("\\~") == r"\textbackslash{}\textasciitilde{}"
    assert escape_latex("σ ± 1") == r"\ensuremath{\sigma} \ensuremath{\pm} 1"
    assert escape_latex("[*") == "{[}{*}"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_latex_leaves_no_special_character(text):
    known = r"\\[a-z]+\{\}|\\[&%$#_{}^]|\\ensuremath\{[<>]\}|\{[\[*]\}"
    assert not re.search(r"[&%$#_{}~^\\\[*\"]", re.sub(known, "", escape_latex(text)))


def test_a_latex_table_is_booktabs_with_blocks_and_markup():
    rows = [("", "x", Number(98.114, 0.32)), ("apart", "y", Number(-80.0, mark="*"))]
    made = table(
        rows, "block", "method", "%", caption="Runs `a_b` **5%** *c*, 2 * 3.", notes=("N.",)
    )
    text = to_latex(made)
    caption = r"\caption{A \& B. Runs \texttt{a\_b} \textbf{5\%} \emph{c}, 2 {*} 3.}"
    for part in (
        caption, r"\begin{tabular}{lr}", r"x & $98.11 \pm 0.32$ \\", r"y & $-80.00${*} \\",
        r"\multicolumn{2}{l}{\textit{apart}} \\", r"\footnotesize N.", "toprule", "bottomrule",
    ):  # fmt: skip
        assert part in text
    assert text.count("{") == text.count("}") and text.isascii()


def test_csv_is_read_back_with_numbers_spreads_and_blocks():
    rows = [("", 'a,"b"\nc', Number(1 / 3, 0.25, sd=0.5)), ("apart", "d", "–")]
    read = list(csv.DictReader(io.StringIO(to_csv(table(rows, "block", "m", "n")))))
    names = ["block", "m", "n", "n spread", "n sd"]
    assert list(read[0].items()) == list(
        zip(names, ["", 'a,"b"\nc', "0.333333", "0.25", "0.5"], strict=True)
    )
    assert list(read[1].values()) == ["apart", "d", "", "", ""]


def test_write_table_writes_three_files(tmp_path):
    made = table([("a",)], "x")
    texts = {
        p.name: p.read_text(encoding="utf-8") for p in write_table(made, tmp_path / "new", "t")
    }
    assert texts == {"t.md": to_markdown(made), "t.tex": to_latex(made), "t.csv": to_csv(made)}
