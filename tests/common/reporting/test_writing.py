"""Records, tables, figures and reports: the same bytes again; the old files or the new ones."""

import os

import pytest

from common.reporting import (
    Section,
    Table,
    figure_style,
    new_figure,
    save_figure,
    write_record,
    write_report,
    write_table,
)


def write_figure(number, folder):
    with figure_style():
        fig, axes = new_figure()
        axes.plot([1, number])
    save_figure(fig, folder, "f", alt="A line.")


@pytest.mark.parametrize("kind", ["record", "table", "figure", "report"])
def test_an_error_while_writing_leaves_the_old_files(kind, make_record, tmp_path, monkeypatch):
    folder = tmp_path / "new"
    write = {
        "record": lambda n: write_record(make_record(seed=n), folder / "r.json"),
        "table": lambda n: write_table(Table("", (f"column {n}",), ()), folder, "t"),
        "figure": lambda n: write_figure(n, folder),
        "report": lambda n: write_report([Section(f"section {n}")], folder / "r.html", "t", {}),
    }[kind]

    def content():
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(_):
        raise OSError("disk full")

    write(1)
    before = content()
    write(1)
    assert content() == before and len(before) == {"table": 3, "figure": 2}.get(kind, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="disk full"):
            write(2)
    assert content() == before
    write(2)
    assert content().keys() == before.keys() and content() != before
