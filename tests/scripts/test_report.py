"""The report's first screen: seconds, and one's own numbers beside the shipped ones."""

from dataclasses import replace

import pytest

from scripts.report import same_numbers, seconds_figure
from tests.experiments import DECLARED, record_of

ROTATION = DECLARED["rotation"]


def record(method="evograd", seed=1, rotated=90.0, device="cpu"):
    config = replace(ROTATION.presets["smoke"], method=method, seed=seed)
    made = record_of(config, [{"rotated": rotated, "angle_degrees": 30.0}], "rotated", seconds=0.1)
    made.provenance.update(device=device)
    return made


def test_own_runs_are_compared_with_shipped_ones_of_the_same_settings():
    shipped = [record(seed=seed) for seed in (1, 2, 3)]
    own = [
        record(seed=1),
        record(seed=2, rotated=90.0 * (1 + 1e-5)),
        record(seed=3, rotated=91.0, device="cuda"),
        record(seed=4),  # not shipped
    ]
    (row,) = same_numbers({"rotation": own}, {"rotation": shipped}).rows
    assert row == ("Rotation", "3", "1", "1", "1", "device cuda instead of cpu")
    assert same_numbers({}, {"rotation": shipped}).rows == []


@pytest.mark.parametrize("methods", [("baseline", "evograd", "t1t2"), ("evograd",)])
def test_the_figure_against_seconds_has_a_panel_for_an_experiment(methods, tmp_path):
    runs = {"rotation": [record(method) for method in methods], "metaxl": []}
    figure = seconds_figure(runs, tmp_path)
    assert "panels: Rotation;" in figure.alt and "EvoGrad" in figure.alt
    assert ("baseline" in figure.alt) == ("baseline" in methods)
    assert seconds_figure({"metaxl": []}, tmp_path) is None
