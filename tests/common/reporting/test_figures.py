"""Figures: the same bytes for the same data, fonts that can be searched, colours that carry."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import matplotlib
import pytest

from common.reporting import new_figure, save_figure

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


def test_a_figure_without_words_is_refused(tmp_path):
    fig, _ = new_figure()
    with pytest.raises(ValueError, match="alternative text"):
        save_figure(fig, tmp_path, "f", alt=" ")
    assert list(tmp_path.iterdir()) == []
