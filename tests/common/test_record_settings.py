"""Records' settings are those of their experiment, or the record is refused."""

import pytest

from common.errors import UserError
from common.experiment import load_experiment
from common.record_settings import experiment_records, settings_of
from common.reporting import read_record
from common.settings import ROOT
from rotation.config import PRESETS
from scripts.experiments import EXPERIMENTS

RECORDS = ROOT / "results" / "rotation" / "paper" / "records"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_shipped_record_has_settings_of_its_experiment(experiment):
    for preset in load_experiment(experiment).presets:
        folder = ROOT / "results" / experiment / preset / "records"
        for record in experiment_records(experiment, preset, folder):
            settings = settings_of(record).deciding()
            assert {name: settings[name] for name in record.config} == record.config


def test_settings_that_are_newer_than_the_record_are_the_presets():
    record = read_record(RECORDS / "evograd-seed1.json")
    older = {name: value for name, value in record.config.items() if name != "shuffle"}
    assert settings_of(record.model_copy(update={"config": older})).shuffle is True


@pytest.mark.parametrize(
    "change",
    [{"sigma": -1.0}, {"sigma": "0.1"}, {"sigma": None}, {"rotate": "images"}, {"epochs": 0},
     {"batch_size": 1.5}, {"antithetic": "yes"}, {"perturbation": "cauchy"}, {"unknown": 1},
     {"method": "magic"}],
)  # fmt: skip
def test_settings_that_the_experiment_does_not_accept_are_refused(change):
    record = read_record(RECORDS / "evograd-seed1.json")
    changed = record.model_copy(update={"config": record.config | change})
    with pytest.raises(UserError, match="The record of rotation, evograd, seed 1,") as caught:
        settings_of(changed)
    assert next(iter(change)) in str(caught.value).replace("-", "_")


def test_an_unknown_preset_is_refused():
    record = read_record(RECORDS / "evograd-seed1.json")
    with pytest.raises(UserError, match=f"unknown preset huge: use {', '.join(PRESETS)}"):
        settings_of(record.model_copy(update={"preset": "huge"}))
