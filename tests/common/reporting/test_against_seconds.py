"""Metrics against training time: seconds counted from steps, what is drawn."""

import pytest

from common.reporting import metric_against_seconds
from common.reporting.against_seconds import training_seconds


def test_seconds_are_steps_times_the_least_step(make_record):
    cost = {"seconds_low": 0.1, "seconds_high": 0.9, "peak_bytes": 1}
    runs = [
        make_record(seed=seed, cost={"seconds": seconds, **cost})
        for seed, seconds in ((1, 0.2), (2, 0.5), (3, 0.3))
    ]
    assert training_seconds(runs, 40) == pytest.approx([40 * 0.2, 80 * 0.2])


def test_the_figure_names_its_lines_and_their_seeds(make_record, tmp_path):
    groups = {"EvoGrad": [make_record(seed=s) for s in (1, 2)], "T1-T2": [make_record()]}
    figure = metric_against_seconds(
        groups, "accuracy", "accuracy (%)", 40, tmp_path, "seconds", "rotation"
    )
    assert figure.path_png.stat().st_size > 5_000
    assert "EvoGrad, T1-T2" in figure.alt and "rotation" in figure.caption
    assert figure.path_pdf.stat().st_size > 5_000
