"""Curves: every run and the median, seconds of the least disturbed run."""

import pytest
from matplotlib.figure import Figure

from common.reporting import curves, metric_against_seconds


@pytest.fixture
def runs(make_record):
    """Two runs with accuracy 50 and 75, 60 and 70; 20 and 10 seconds an epoch."""
    rows = [{"epoch": 1, "accuracy": 60.0}, {"epoch": 2, "accuracy": 70.0}]
    slow = make_record(seed=1, cost={"seconds_per_epoch": 20.0})
    return [slow, make_record(seed=2, epochs=rows, cost={"seconds_per_epoch": 10.0})]


def test_every_run_is_drawn_and_their_median(runs):
    axis = Figure().subplots()
    curves.draw_runs(axis, runs, "accuracy", {"color": "black"}, "EvoGrad", 3.0)
    lines = [line.get_xydata().tolist() for line in axis.lines]
    assert lines == [[[3, 50], [6, 75]], [[3, 60], [6, 70]], [[3, 55], [6, 72.5]]]
    assert axis.get_legend_handles_labels()[1] == ["EvoGrad"]


def test_seconds_are_those_of_the_least_disturbed_run(runs, tmp_path):
    assert curves.epoch_seconds(runs) == 10.0
    groups = {"EvoGrad": runs, "T1-T2": runs[:1]}
    figure = metric_against_seconds(groups, "accuracy", "accuracy (%)", tmp_path, "s", "rotation")
    assert figure.path_png.stat().st_size > 5_000 and figure.path_pdf.stat().st_size > 5_000
    assert "EvoGrad, T1-T2" in figure.alt and "rotation" in figure.caption
