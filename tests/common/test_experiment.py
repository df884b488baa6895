"""What an experiment's declaration says, and what may be chosen from it."""

from dataclasses import replace

import pytest

from common.errors import UserError
from common.experiment import load_experiment
from rotation.config import EXPERIMENT, PRESETS


def test_the_planned_runs_are_those_of_the_preset():
    runs = EXPERIMENT.runs("paper")
    assert [r.run_name() for r in runs] == [r.run_name() for r in EXPERIMENT.planned("paper")]


def test_chosen_values_take_the_place_of_planned_ones_and_each_run_comes_once():
    runs = EXPERIMENT.runs("quick", {"method": ["t1t2"], "seed": [5, 6], "rotate": None})
    assert [(r.method, r.seed, r.rotate) for r in runs] == [
        ("t1t2", 5, "normalised"),
        ("t1t2", 6, "normalised"),
    ]
    # A method that is not planned either.
    runs = EXPERIMENT.runs("quick", {"method": ["t1t2_higher"], "seed": [5]})
    assert [(r.method, r.seed) for r in runs] == [("t1t2_higher", 5)]
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
    with pytest.raises(UserError, match=f"{folder} is not an experiment"):
        load_experiment(folder)


def test_a_method_is_labelled_with_what_its_run_does_differently_from_its_preset():
    changed = replace(PRESETS["quick"], rotate="pixels", shuffle=False, num_candidates=8)
    assert EXPERIMENT.label(changed.deciding()) == "EvoGrad, black corners, unshuffled, K = 8"
    assert changed.run_name() == "evograd-seed1-pixels-unshuffled-K-=-8"
    older = {n: v for n, v in changed.deciding().items() if n not in ("shuffle", "num_candidates")}
    assert EXPERIMENT.variant(older) == ["black corners"]


@pytest.mark.parametrize("name", ["rotation", "metaweightnet", "metaxl"])
def test_numbers_of_candidates_have_folders_of_their_own(name):
    default = load_experiment(name).presets["quick"]
    assert "K" not in default.run_name()
    assert "K-=-8" in replace(default, num_candidates=8).run_name()
