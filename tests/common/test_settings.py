"""Settings: their ranges, what belongs to a result, and back from a record."""

import json
from dataclasses import replace

import pytest

from common.errors import UserError
from common.settings import flat
from metaweightnet.config import Config as LabelNoise
from rotation.config import EXPERIMENT, PRESETS, Config

DEFAULT = PRESETS["quick"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "--learning-rate 0: must be greater than 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: must be"),
        ({"learning_rate": 1e39}, "--learning-rate 1e+39: must be a number of float32"),
        ({"batch_size": 1.5}, "--batch-size 1.5: must be a valid integer"),
        ({"batch_size": True}, "--batch-size True: must be a valid integer"),
        ({"epochs": 2**31}, "--epochs 2147483648: must be less than 2147483648"),
        ({"train_size": 60_000}, "--train-size 60000: must be at most 50000"),
        ({"rotate": "images"}, "--rotate images: must be 'normalised' or 'pixels'"),
        ({"seed": -1}, "--seed -1: must be at least 0"),
        ({"every": 0}, "--every 0: must be at least 1"),
        ({"method": "magic"}, "--method magic is unknown: use baseline, "),
        ({"estimator.sigma": 1e-46}, "--estimator.sigma 1e-46: must be a number of float32"),
        ({"estimator.num_candidates": 1}, "--estimator.num-candidates 1: must be at least 2"),
    ],
)
def test_a_wrong_value_is_refused_in_a_sentence_that_names_the_flag(changes, message):
    with pytest.raises(UserError) as refused:
        DEFAULT.changed(changes)
    assert str(refused.value).startswith(message)


def test_result_settings_have_the_options_of_the_methods_estimator_alone():
    names = {
        "baseline": set(),
        "evograd": {"num_candidates", "sigma", "temperature"},
        "finite_difference": {"radius"},
        "neumann": {"terms"},
    }
    for method, options in names.items():
        config = replace(DEFAULT, method=method, device="cpu", threads=3, restart=True)
        found = config.result_settings()
        assert set(found["estimator"]) == options
        assert found == replace(DEFAULT, method=method).result_settings()
    estimator = DEFAULT.changed({"estimator.num_candidates": 8}).make_estimator(1e-3)
    assert (estimator.num_candidates, estimator.sigma, estimator.temperature) == (8, 1e-3, 0.05)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": "2"}, "--epochs 2"),
        ({"unknown": 1}, "--unknown 1"),
        ({"estimator": {"sigma": 1.0}}, "estimator.num_candidates is missing"),
        ({"method": "baseline"}, "does not belong to baseline"),
        ({"epochs": None}, "--epochs"),
    ],
)
def test_settings_that_are_not_a_records_are_refused(change, named):
    assert Config.from_result_settings(json.loads(json.dumps(DEFAULT.result_settings()))) == DEFAULT
    with pytest.raises(UserError, match=named):
        Config.from_result_settings(DEFAULT.result_settings() | change)


def test_every_changed_setting_gives_another_folder():
    """Nothing that decides the result is left out of a run's name."""
    for base in (DEFAULT, LabelNoise()):
        others = {"method": "t1t2", "seed": 2, "every": 3}
        for key, value in flat(base.result_settings()).items():
            if key in (*others, "preset") or isinstance(value, str | list):
                continue
            others[key] = (not value) if isinstance(value, bool) else value + type(value)(6)
        for key in ("momentum", "noise_level"):
            others |= {key: 0.25} if key in others else {}
        if isinstance(base, LabelNoise):
            others |= {"meta_size": 500, "test_size": 50, "image_size": 16, "train_size": 9}
            others |= {"milestones": (1, 2), "vnet_input": "model", "dataset": "mnist"}
        else:
            others |= {"meta_size": 9, "test_size": 9}
        names = {base.changed({key: value}).run_name() for key, value in others.items()}
        assert len({base.run_name(), *names}) == len(others) + 1
        assert all("/" not in name and " " not in name for name in names)


def test_labels_and_names_say_what_differs_from_the_plan():
    changed = DEFAULT.changed({"rotate": "pixels", "estimator.num_candidates": 8})
    settings = changed.result_settings()
    assert changed.differences() == {"rotate": "pixels", "estimator.num_candidates": 8}
    words = "estimator.num_candidates=8 rotate=pixels"
    assert EXPERIMENT.label(settings) == f"EvoGrad {words}"
    assert changed.run_name() == f"evograd-seed1-{words.replace(' ', '-')}"
