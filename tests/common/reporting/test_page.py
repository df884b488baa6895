"""The report's page: everything in one file, links that lead somewhere, hostile text harmless."""

import base64
from html.parser import HTMLParser

import pandas as pd
import pytest

from common.reporting import (
    Number,
    Section,
    Table,
    figure_style,
    new_figure,
    save_figure,
    write_report,
    write_tables,
)
from common.reporting.page import versions_table

HOSTILE = 'a|b <script>alert("1")</script> & _u_ *v* [x](http://evil)'


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def values(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture
def page(tmp_path):
    with figure_style():
        fig, axis = new_figure(width=2, height=1)
        axis.plot([1, 2])
    folder, index = tmp_path / "first", tmp_path / "index.html"
    figure = save_figure(fig, folder, "f", alt=f"A line {HOSTILE}", caption="**A** line")
    rows = [("EvoGrad", Number(1.0)), (HOSTILE, Number(2.0, 0.1))]
    data = pd.DataFrame(rows, columns=["method", HOSTILE])
    tables = {"t": Table("Accuracy", data, "`c`", ("N.",))}
    write_tables(tables, folder)
    first = Section("First part", "Intro.", tables, (figure,), folder, runs=3, planned_runs=5)
    sections = [first, Section(f"Second {HOSTILE}")]
    path = write_report(sections, index, HOSTILE, [{"python": "3.11"}], "Yes.", [figure])
    return Page(path.read_text(encoding="utf-8")), tmp_path, figure


def test_the_page_loads_nothing_and_its_links_lead_somewhere(page):
    page, folder, figure = page
    names = {tag for tag, _ in page.tags}
    assert not {"script", "link", "iframe", "object", "embed"} & names
    images = page.values("src")
    assert [base64.b64decode(s.split(",")[1]) for s in images] == [figure.path_png.read_bytes()] * 2
    ids = page.values("id")
    for link in page.values("href"):
        assert link.removeprefix("#") in ids if link.startswith("#") else (folder / link).exists()
    assert len(page.values("href")) == 2 + 2 + 3  # sections; pdf twice; csv, tex, md


def test_hostile_text_is_shown_and_not_obeyed(page):
    page, _, _ = page
    text = "".join(page.text)
    # Title, heading, contents, second section, a column and a cell.
    assert text.count('<script>alert("1")</script>') == 6
    assert f"A line {HOSTILE}" in page.values("alt")
    words = " ".join(text.split())
    assert "EvoGrad 1.00" in words and "First part 3 of 5" in words


def test_versions_that_differ_are_listed_with_their_runs():
    runs = [
        {"torch": "2.13.0", "devices": ["A", "A", "B"], "cuda": None, "wall_seconds": 3600.0},
        {"torch": "2.13.0", "devices": [], "wall_seconds": 1800.0},
        {"torch": "2.11.0", "devices": [], "finished": "2021-12-06T12:00:00Z"},
    ]
    rows = dict(versions_table(runs).rows)
    assert rows["PyTorch"] == "2.13.0 (runs: 2); 2.11.0 (runs: 1)"
    assert rows["GPUs"] == "– (runs: 2); 2 × A, 1 × B (runs: 1)"
    assert rows["wall time"] == "1.5 hours in 2 runs"
    assert "CUDA" not in rows
