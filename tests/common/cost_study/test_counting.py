"""Counted on shapes alone is what a real step takes, to the byte."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from common.cost_study.case import CostCase
from common.cost_study.measuring import BY_VALUES, CaseMeter, FakeCase
from common.cost_study.records import BY_KEY, rows_of
from common.hypergrad.compare import Rounds
from cross_domain_fewshot import studies as few_shot
from metaweightnet import studies as label_noise
from metaxl import studies as metaxl
from rotation import studies as rotation

CPU = torch.device("cpu")
FEW_SHOT = few_shot.Config(width=4, image_size=64, n_query=2, aux_batch_size=4)
CASES = {
    "rotation": (rotation, rotation.build),
    "cross_domain_fewshot": (few_shot, partial(few_shot.build, FEW_SHOT)),
    "metaweightnet": (
        label_noise,
        partial(label_noise.build, label_noise.Config("evograd", depth=8, batch_size=8)),
    ),
    "metaxl": (metaxl, partial(metaxl.build, metaxl.Shape(2, 50, 4, 16, 64), "eager")),
}


def small_case(name: str) -> CostCase:
    """The first of the paper's cases, on a small network; all methods of one of them."""
    room, build = CASES[name]
    return replace(room.cases("paper")[0], build=build, all_methods=name == "metaweightnet")


@pytest.mark.parametrize("name", CASES)
def test_counted_bytes_are_real_ones(name):
    case, compared = small_case(name), set()
    real, fake = CaseMeter(case.build(CPU), CPU), FakeCase(case)
    for row in rows_of(case):
        if row.options.get("num_candidates", 2) > 2:
            continue
        try:
            found = real.measure(row, Rounds(0, 1, 1))
        except ValueError:  # refused by the estimator, here and there
            with pytest.raises(ValueError):
                fake.count(row)
            continue
        counted = fake.count(row)
        if row.method in BY_VALUES or found["outcome"] == "does not apply":
            assert counted["outcome"] == "does not apply"
            continue
        compared.add(row.key)
        for what in ("peak_bytes", "plain_peak_bytes", "parameters", "hyperparameters"):
            assert counted[what] == found[what], (row.key, what)
        assert counted["operations"] > 0
    assert {"plain", "evograd num_candidates=2", "t1t2", *case.own} <= compared


def test_rows_can_be_counted_in_any_order():
    """T1-T2's step as released adds to gradients that no step before it may have left."""
    case = small_case("cross_domain_fewshot")
    rows = [BY_KEY[key] for key in ("t1t2", *case.own)]

    def counted(rows):
        fake = FakeCase(case)
        found = {row.key: fake.count(row) for row in rows}
        return {key: (f["peak_bytes"], f["operations"]) for key, f in found.items()}

    assert counted(reversed(rows)) == counted(rows)
