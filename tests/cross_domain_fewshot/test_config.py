"""Settings: names of runs, planned runs, the paper's values, mistakes."""

from dataclasses import replace

import pytest

from cross_domain_fewshot.config import PRESETS, planned_runs, variant


def test_runs_that_differ_have_names_of_their_own():
    base = PRESETS["quick"]
    changes = [
        {}, {"method": "ft"}, {"seed": 2}, {"unseen": "emoji"}, {"backbone": "conv4"},
        {"head": "protonet"}, {"n_way": 3}, {"n_shot": 5}, {"n_query": 2}, {"image_size": 48},
        {"order": "meta_first"}, {"common_noise": True}, {"min_class_size": 50},
        {"method": "none", "stream": "pairs", "auxiliary": "on"}, {"method": "ft", "ft": "fixed"},
        {"width": 64}, {"num_candidates": 4}, {"sigma": 0.1},
        {"auxiliary": "on", "method": "none"}, {"meta_learning_rate": 1.0}, {"pretrain_epochs": 9},
        {"antithetic": True}, {"epochs": 9}, {"benchmark": "paper", "unseen": "cub"},
    ]  # fmt: skip
    names = {replace(base, **change).validate().run_name() for change in changes}
    assert len(names) == len(changes)
    assert all("/" not in name and " " not in name for name in names)


def test_the_paper_preset_is_the_papers():
    c = PRESETS["paper"]
    assert (c.n_way, c.n_query, c.test_query, c.image_size) == (5, 16, 15, 224)
    assert (c.epochs, c.episodes, c.pretrain_epochs, c.test_episodes) == (400, 100, 400, 1000)
    assert (c.learning_rate, c.meta_learning_rate, c.meta_weight_decay) == (1e-3, 1e-3, 1e-8)
    assert (c.num_candidates, c.sigma, c.temperature) == (2, 1e-3, 0.05)
    assert (c.aux_batch_size, c.pretrain_batch_size, c.head) == (16, 16, "relationnet")
    runs = planned_runs("paper")
    # Table 3: 4 domains, 2 shots, 4 methods of ResNet-10 and 3 of ResNet-34; none and ft twice
    assert len(runs) == 4 * 2 * (4 + 3 + 2 * 2)
    assert {r.unseen for r in runs} == {"cub", "cars", "places", "plantae"}


@pytest.mark.parametrize("method", ["none", "ft", "lft_evograd", "lft_t1t2"])
def test_the_released_way_asked_for_by_name_is_the_default(method):
    """One run has one name, however its settings are spelled."""
    default = replace(PRESETS["quick"], method=method).validate()
    assert replace(default, **default.released()).validate() == default
    assert (default.chosen("stream") == "pairs") == method.startswith("lft")
    assert (default.chosen("auxiliary") == "on") == method.startswith("lft")


def test_the_controlled_loop_is_that_of_the_learners():
    plans = planned_runs("quick")
    names = [(c.method, *variant(c.deciding())) for c in plans]
    assert names == [
        ("none",), ("none", "controlled"), ("ft",), ("ft", "controlled"), ("lft_evograd",),
        ("lft_t1t2",),
    ]  # fmt: skip
    loops = [(c.chosen("stream"), c.chosen("auxiliary")) for c in plans]
    assert loops[1] == loops[3] == loops[4] == loops[5] == ("pairs", "on")
    assert loops[0] == loops[2] == ("mixed", "off")
    assert [c.ft for c in plans[2:4]] == ["trained", "fixed"]
    assert [c.chosen("order") for c in plans[4:]] == ["base_first", "meta_first"]
