"""Figures: the same bytes for the same data; curves and the forest plot, drawn and in words."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from common.reporting import draw_runs, epoch_seconds, metric_against_seconds
from common.reporting.forest import ForestRow, forest_plot

DRAW = """
import sys
from common.reporting import bar_style, figure_style, new_figure, save_figure, series_styles

with figure_style():
    fig, axes = new_figure(columns=2)
    for i, style in enumerate(series_styles(3)):
        axes[0].plot([1, 2, 3], [i, 2 * i, i - 1], label=f"σ = {i}", **style)
        axes[1].bar([i], [i + 1.0], **bar_style(i))
    axes[0].legend()
save_figure(fig, sys.argv[1], "figure", alt="Three lines and three bars, σ ± 1.")
"""


def drawn(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["draw", str(folder)])
    exec(DRAW, {})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_drawing_again_gives_the_same_bytes_here_and_in_another_process(tmp_path, monkeypatch):
    first = drawn(tmp_path / "a", monkeypatch)
    # A user's own settings do not show.
    with matplotlib.rc_context({"font.size": 30, "pdf.fonttype": 3, "xtick.color": "red"}):
        assert drawn(tmp_path / "b", monkeypatch) == first
    pdf, png = first["figure.pdf"], first["figure.png"]
    assert not any(word in pdf for word in (b"CreationDate", b"ModDate", b"Matplotlib", b"/Type3"))
    assert b"/FontFile2" in pdf  # an embedded TrueType font, which can be searched
    assert b"Software" not in png and "Three lines and three bars, σ ± 1.".encode() in png
    environment = os.environ | {
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
        "TZ": "Asia/Tokyo",
        "SOURCE_DATE_EPOCH": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # as in Jupyter and Colab
    }
    command = [sys.executable, "-c", textwrap.dedent(DRAW), str(tmp_path / "c")]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert {p.name: p.read_bytes() for p in (tmp_path / "c").iterdir()} == first


@pytest.fixture
def runs(make_record):
    """Two runs with accuracy 50 and 75, 60 and 70; 20 and 10 seconds an epoch."""
    rows = [{"epoch": 1, "accuracy": 60.0}, {"epoch": 2, "accuracy": 70.0}]
    slow = make_record(seed=1, cost={"seconds_per_epoch": 20.0})
    return [slow, make_record(seed=2, epochs=rows, cost={"seconds_per_epoch": 10.0})]


def test_every_run_is_drawn_and_their_median(runs):
    axis = Figure().subplots()
    draw_runs(axis, runs, "accuracy", {"color": "black"}, "EvoGrad", 3.0)
    lines = [line.get_xydata().tolist() for line in axis.lines]
    assert lines == [[[3, 50], [6, 75]], [[3, 60], [6, 70]], [[3, 55], [6, 72.5]]]
    assert axis.get_legend_handles_labels()[1] == ["EvoGrad"]


def test_seconds_are_those_of_the_least_disturbed_run(runs, tmp_path):
    assert epoch_seconds(runs) == 10.0
    groups = {"EvoGrad": runs, "T1-T2": runs[:1]}
    figure = metric_against_seconds(groups, "accuracy", "accuracy (%)", tmp_path, "s", "rotation")
    assert figure.path_png.stat().st_size > 5_000 and figure.path_pdf.stat().st_size > 5_000
    assert "EvoGrad, T1-T2" in figure.alt and "rotation" in figure.caption


ROWS = [
    ForestRow("EvoGrad − T1-T2", -1.0, 1.5, 0.86, 1.3, "open"),
    ForestRow("EvoGrad − T1-T2", 0.5, verdict="open", own=True),
    ForestRow("EvoGrad − none", None, published=2.81, verdict="open"),
]


def test_rows_as_text():
    assert list(map(str, ROWS)) == [
        "EvoGrad − T1-T2: open, here −1.0 ± 1.5, paper +0.9 ± 1.3",
        "EvoGrad − T1-T2 (own runs): open, here +0.5",
        "EvoGrad − none: open, paper +2.8",
    ]


def test_the_figure_says_in_words_what_it_shows(tmp_path):
    figure = forest_plot(ROWS, tmp_path)
    assert all(str(row) in figure.alt for row in ROWS)
