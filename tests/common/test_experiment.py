"""What an experiment's declaration says, and what may be chosen from it."""

from types import SimpleNamespace

import pytest

from common.errors import UserError
from common.experiment import load_experiment
from rotation.config import EXPERIMENT


def test_the_planned_runs_are_those_of_the_preset():
    runs = EXPERIMENT.runs("paper")
    assert [r.run_name() for r in runs] == [r.run_name() for r in EXPERIMENT.planned("paper")]


def test_chosen_values_take_the_place_of_planned_ones_and_each_run_comes_once():
    runs = EXPERIMENT.runs("quick", {"method": ["t1t2"], "seed": [5, 6], "rotate": None})
    assert [(r.method, r.seed, r.rotate) for r in runs] == [
        ("t1t2", 5, "normalised"),
        ("t1t2", 6, "normalised"),
    ]
    pixels = EXPERIMENT.runs("quick", {"rotate": ["pixels"]})
    assert {r.rotate for r in pixels} == {"pixels"} and len(pixels) == len(EXPERIMENT.runs("quick"))


@pytest.mark.parametrize(
    ("preset", "chosen", "named"),
    [
        ("huge", {}, "--preset huge is unknown: use quick, smoke, paper"),
        ("quick", {"method": ["nonsense"]}, "--method nonsense is unknown"),
    ],
)
def test_what_does_not_exist_is_named(preset, chosen, named):
    with pytest.raises(UserError, match=named):
        EXPERIMENT.runs(preset, chosen)


@pytest.mark.parametrize("folder", ["common", "nonsense"])
def test_a_folder_without_an_experiment_is_named(folder):
    with pytest.raises(UserError, match=f"{folder} is no experiment"):
        load_experiment(folder)


def test_a_method_is_labelled_with_what_its_run_decides_otherwise():
    run = SimpleNamespace(method="evograd", config={"rotate": "pixels", "shuffle": False})
    assert EXPERIMENT.label(run) == "EvoGrad, black corners, unshuffled"
