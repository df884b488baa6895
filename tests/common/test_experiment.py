"""What an experiment's declaration says, and what may be chosen from it."""

import pytest

from common.errors import UserError
from common.experiment import load_experiment
from common.settings import ROOT
from rotation.config import EXPERIMENT
from scripts.experiments import EXPERIMENTS


def test_chosen_values_take_the_place_of_planned_ones_and_each_run_comes_once():
    runs = EXPERIMENT.runs("quick", {"method": ["t1t2"], "seed": [5, 6]})
    assert [(r.method, r.seed) for r in runs] == [("t1t2", 5), ("t1t2", 6)]
    # A method that is not planned either.
    runs = EXPERIMENT.runs("quick", {"method": ["t1t2_higher"], "seed": [5]})
    assert [(r.method, r.seed) for r in runs] == [("t1t2_higher", 5)]
    pixels = EXPERIMENT.runs("quick", changes={"rotate": "pixels", "estimator.sigma": 0.1})
    assert {(r.rotate, r.estimator.sigma) for r in pixels} == {("pixels", 0.1)}
    assert len(pixels) == len(EXPERIMENT.runs("quick"))


@pytest.mark.parametrize("folder", ["common", "nonsense"])
def test_a_folder_without_an_experiment_is_named(folder):
    with pytest.raises(UserError, match=f"{folder} is not an experiment"):
        load_experiment(folder)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_shipped_record_has_settings_of_its_experiment_and_its_name(name):
    experiment = load_experiment(name)
    for preset in experiment.presets:
        folder = ROOT / "results" / name / preset / "records"
        records = experiment.records(preset, folder)
        names = sorted(f"{experiment.run_name(record.config)}.json" for record in records)
        assert names == sorted(path.name for path in folder.glob("*.json"))
