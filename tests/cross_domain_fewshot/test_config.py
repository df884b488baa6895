"""Settings: planned runs, the paper's values, mistakes."""

from dataclasses import replace

import pytest

from common.errors import UserError
from cross_domain_fewshot.config import EXPERIMENT, PRESETS


def test_the_paper_preset_is_the_papers():
    c = PRESETS["paper"]
    assert (c.n_way, c.n_query, c.test_query, c.image_size) == (5, 16, 15, 224)
    assert (c.epochs, c.episodes, c.pretrain_epochs, c.test_episodes) == (400, 100, 400, 1000)
    runs = EXPERIMENT.planned("paper")
    # Table 3: 4 domains, 2 shots, 4 methods of ResNet-10 and 3 of ResNet-34; none and ft twice,
    # and both_domains.
    assert len(runs) == 4 * 2 * (4 + 3 + 2 * (2 + 1))
    assert {r.unseen for r in runs} == {"cub", "cars", "places", "plantae"}


@pytest.mark.parametrize(
    ("method", "protocol"),
    [("lft_evograd", "controlled"), ("lft_t1t2", "pairs"), ("none", "fixed")],
)
def test_protocols_that_would_change_nothing_are_refused(method, protocol):
    with pytest.raises(UserError, match=f"--protocol {protocol}"):
        replace(PRESETS["quick"], method=method, protocol=protocol)


def test_the_controlled_loop_is_that_of_the_learners():
    plans = EXPERIMENT.planned("quick")
    assert [(c.method, c.protocol) for c in plans] == [
        ("none", "released"), ("none", "controlled"), ("ft", "released"), ("ft", "controlled"),
        ("lft_evograd", "released"), ("lft_t1t2", "released"),
    ]  # fmt: skip
    loops = [(c.paired, c.auxiliary) for c in plans]
    assert loops[1] == loops[3] == loops[4] == loops[5] == (True, True)
    assert loops[0] == loops[2] == (False, False)
    assert [c.trains_ft for c in plans[:4]] == [False, False, True, False]
    assert [c.meta_first for c in plans[4:]] == [False, True]
    pairs, fixed = (replace(plans[2], protocol=name) for name in ("pairs", "fixed"))
    assert (pairs.paired, pairs.auxiliary, pairs.trains_ft) == (True, False, True)
    assert (fixed.paired, fixed.auxiliary, fixed.trains_ft) == (False, False, False)
