"""The report: one well-formed file, nothing fetched, nothing of the content taken for markup."""

import base64
import re
from html.parser import HTMLParser

import pytest

from common.errors import UserError
from common.reporting import (
    Comparison,
    Figure,
    Heading,
    Measured,
    Number,
    Published,
    Section,
    Table,
    comparison_table,
    figure_style,
    new_figure,
    save_figure,
    write_report,
)
from common.reporting.html import render_report

HOSTILE = "<script>alert('x')</script> & \"quoted\" </td></table> <img src=http://evil.example/x>"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced while it collects text, attributes and the text of cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.cells = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag in {"td", "th"}:
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def values(self, name):
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture
def figure(tmp_path):
    with figure_style():
        fig, axes = new_figure(width=2.0, height=1.0)
        axes.plot([1, 2])
    return save_figure(fig, tmp_path, "line", alt=f"A line {HOSTILE}", caption=HOSTILE)


@pytest.fixture
def sections(figure):
    rows = [
        Comparison("first", Published(90.0, 1.0, "sd", n=5), Measured((90.1, 90.3)), planned=5),
        Comparison("second", Published(90.0, copied=True), Measured((91.5,)), planned=5),
        Comparison("third", Published(90.0), Measured((95.0,)), planned=5),
        Comparison("small", Published(90.0), Measured((90.0,)), planned=1, comparable=False),
    ]
    compared = comparison_table("Accuracy", rows, label_columns=("method",))
    rough = Table(HOSTILE, (HOSTILE, "n"), ((HOSTILE, Number(-1.0)), Heading(HOSTILE)), HOSTILE)
    return [
        Section("Rotation", "One.\n\nTwo.", (compared,), (figure,), ("Note.",), 3, 5),
        Section(HOSTILE, HOSTILE, (rough,), (), (HOSTILE,), 1, 2),
        Section("Rotation", "The same title again."),
    ]


@pytest.fixture
def report(sections):
    provenance = [{"python": "3.11.7", "devices": [HOSTILE]}, {"python": "3.12.1"}]
    return render_report(sections, HOSTILE, provenance, intro=HOSTILE)


def test_the_page_is_balanced_and_needs_nothing_else(report):
    page = Page(report)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    assert all(value.startswith("#") for value in page.values("href"))
    style = report[report.index("<style>") : report.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in style


def test_every_link_of_the_contents_has_its_place(report):
    page = Page(report)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in page.values("href")} == set(ids)
    assert len(ids) == 5


def test_hostile_text_is_shown_and_not_obeyed(report):
    page = Page(report)
    text = "".join(page.text)
    # Title twice (head and heading), intro, then of the second section: contents, heading, intro,
    # note, table title, caption, column, cell, heading row; the figure's caption; the GPU's name.
    assert text.count(HOSTILE) == 14
    assert f"A line {HOSTILE}" in page.values("alt")
    assert page.tags.count("img") == 1


def test_the_picture_is_the_file(report, figure):
    (source,) = Page(report).values("src")
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    assert data == figure.path_png.read_bytes()
    assert Page(report).values("width")[0] == "264"  # 400 pixels at 0.66


def test_tables_verdicts_and_runs_are_there(report):
    page = Page(report)
    for text in ("90.20 ± 0.14", "+0.20", "agrees", "near", "differs", "2 of 5", "−1.00"):
        assert text in page.cells
    assert any(cell.strip() == "90.00*" for cell in page.cells)
    text = " ".join("".join(page.text).split())
    assert "4 of 7 planned runs are in this report" in text
    assert "3 numbers are judged" in text
    assert "3 of 5 planned runs are shown." in text
    # Contents: the three verdicts of the first section, and its row that is never judged.
    start = page.cells.index("Rotation")
    assert page.cells[start : start + 6] == ["Rotation", "3 of 5", "1", "1", "1", "1"]


def test_verdicts_differ_without_colour(report):
    signs = dict(re.findall(r'class="badge [a-z-]+" data-sign="(.)">([a-z ]+)</span>', report))
    assert sorted(signs.values()) == ["agrees", "differs", "near", "not judged"]


def test_the_end_states_rule_versions_and_devices(report):
    text = "".join(Page(report).text)
    assert "2 standard errors of the difference" in text
    assert "3.11.7 (1 run); 3.12.1 (1 run)" in text


@pytest.mark.parametrize(
    ("plain", "markup"),
    [
        ("a `x < *y*` b", "<p>a <code>x &lt; *y*</code> b</p>"),
        ("a__b *c*d", "<p>a__b <em>c</em>d</p>"),
        ("**bold** and *soft*", "<p><strong>bold</strong> and <em>soft</em></p>"),
        ("2 * 3 * 4, a*", "<p>2 * 3 * 4, a*</p>"),
        ("- one\n- **two**", "<ul><li>one</li><li><strong>two</strong></li></ul>"),
        ("one\nline\n\nnext", "<p>one line</p>\n<p>next</p>"),
    ],
)
def test_light_markup(plain, markup):
    assert markup in render_report([Section("s", plain)], "t", {})


@pytest.mark.parametrize("text", ["**a *b** c*", "*a **b* c**", "***", "`a", "**`x`**", "*a*b*"])
def test_crossed_markup_stays_balanced(text):
    Page(render_report([Section("s", text)], "t", {}))


def test_a_report_without_anything_is_still_a_page():
    page = Page(render_report([], "Empty", {}))
    assert "Empty" in page.text


def test_a_missing_figure_is_named(tmp_path):
    lost = Figure(tmp_path / "lost.png", tmp_path / "lost.pdf", "Lost.")
    with pytest.raises(UserError, match=r"lost\.png"):
        write_report([Section("s", figures=(lost,))], tmp_path / "r.html", "t", {})
    assert list(tmp_path.iterdir()) == []
