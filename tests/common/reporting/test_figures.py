"""Figures: the same bytes for the same data, fonts that can be searched, colours that carry."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from common.reporting import new_figure, save_figure
from common.reporting.figures import STYLES

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


def linear_rgb(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    low, high = channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
    return np.where(channels <= 0.04045, low, high)


def lab(rgb):
    """CIE L*a*b* of linear sRGB under D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ rgb / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_series_differ_in_grey():
    lightness = [lab(linear_rgb(style["color"]))[0] for style in STYLES]
    assert min(np.diff(lightness)) >= 9  # sorted from dark to light
    assert lightness[-1] < 75  # and visible on white


# Full protanopia and deuteranopia (Machado, Oliveira, Fernandes 2009), on linear RGB.
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]


@pytest.mark.parametrize("vision", [np.eye(3), PROTANOPIA, DEUTERANOPIA])
def test_colours_stay_apart_for_the_colour_blind(vision):
    seen = [lab(np.clip(vision @ linear_rgb(style["color"]), 0, 1)) for style in STYLES]
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(apart) > 20
