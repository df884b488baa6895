"""Settings: planned runs, the paper's values, mistakes."""

from dataclasses import replace

import pytest

from common.errors import UserError
from cross_domain_fewshot.config import EXPERIMENT, PRESETS


def test_the_paper_preset_has_the_runs_of_table_3():
    """4 domains, 2 shots, 4 methods of ResNet-10 and 3 of ResNet-34; none and ft twice, and
    both_domains."""
    runs = EXPERIMENT.planned("paper")
    assert len(runs) == 4 * 2 * (4 + 3 + 2 * (2 + 1))
    assert {r.unseen for r in runs} == {"cub", "cars", "places", "plantae"}


def test_a_protocol_that_would_change_nothing_is_refused():
    with pytest.raises(UserError, match="--protocol fixed"):
        replace(PRESETS["quick"], method="none", protocol="fixed")


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
