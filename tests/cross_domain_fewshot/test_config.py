"""Settings: names of runs, planned runs, the paper's values, mistakes."""

from dataclasses import replace

import pytest

from common.errors import UserError
from cross_domain_fewshot.config import PRESETS, planned_runs


def test_runs_that_differ_have_names_of_their_own():
    base = PRESETS["quick"]
    changes = [
        {}, {"method": "ft"}, {"seed": 2}, {"unseen": "emoji"}, {"backbone": "conv4"},
        {"head": "protonet"}, {"n_way": 3}, {"n_shot": 5}, {"n_query": 2}, {"image_size": 48},
        {"order": "meta_first"}, {"width": 64}, {"num_candidates": 4}, {"sigma": 0.1},
        {"aux_batch_size": 0}, {"meta_learning_rate": 1.0}, {"pretrain_epochs": 9},
        {"antithetic": True}, {"epochs": 9}, {"benchmark": "paper", "unseen": "cub"},
    ]  # fmt: skip
    names = {replace(base, **change).validate().run_name() for change in changes}
    assert len(names) == len(changes)
    assert all("/" not in name and " " not in name for name in names)


@pytest.mark.parametrize("preset", PRESETS)
def test_planned_runs_are_valid_and_have_folders_of_their_own(preset):
    runs = planned_runs(preset)
    assert all(config.validate() for config in runs)
    assert len({config.directory() for config in runs}) == len(runs)


def test_the_paper_preset_is_the_papers():
    c = PRESETS["paper"]
    assert (c.n_way, c.n_query, c.test_query, c.image_size) == (5, 16, 15, 224)
    assert (c.epochs, c.episodes, c.pretrain_epochs, c.test_episodes) == (400, 100, 400, 1000)
    assert (c.learning_rate, c.meta_learning_rate, c.meta_weight_decay) == (1e-3, 1e-3, 1e-8)
    assert (c.num_candidates, c.sigma, c.temperature) == (2, 1e-3, 0.05)
    assert (c.aux_batch_size, c.pretrain_batch_size, c.head) == (16, 16, "relationnet")
    runs = planned_runs("paper")
    # Table 3: 4 domains, 2 shots, 4 methods of ResNet-10 and 3 of ResNet-34
    assert len(runs) == 4 * 2 * (4 + 3)
    assert {r.unseen for r in runs} == {"cub", "cars", "places", "plantae"}


@pytest.mark.parametrize(
    ("changes", "flag"),
    [({"unseen": "sketches"}, "--unseen sketches"), ({"unseen": "cub"}, "--unseen cub"),
     ({"n_way": 1}, "--n-way 1"), ({"n_query": 0}, "--n-query 0"), ({"sigma": 0.0}, "--sigma"),
     ({"aux_batch_size": -1}, "--aux-batch-size -1"), ({"method": "magic"}, "--method magic")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(changes, flag):
    with pytest.raises(UserError, match=flag):
        replace(PRESETS["quick"], **changes).validate()
