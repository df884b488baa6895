"""The forest plot: what is drawn, and the same rows in words."""

from common.reporting.forest import ForestRow, forest_plot

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
    assert figure.path_png.read_bytes()[16:20] == (880).to_bytes(4)  # 4.4 inches at 200 dpi
