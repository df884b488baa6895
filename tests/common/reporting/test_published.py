"""The paper's numbers: some typed here again from its tables, and how they are looked up."""

import math

import pytest

from common.errors import UserError
from common.reporting import Published, published_value


@pytest.mark.parametrize(
    ("keys", "mean", "spread"),
    [
        (("rotation", "evograd", "rotated"), 98.11, 0.32),
        (("cross_domain_fewshot", "5shot", "resnet10", "lft_evograd", "plantae"), 52.92, 0.57),
        (("metaweightnet", "cifar100", "0.4", "l2rw"), 50.98, 1.55),
        (("metaxl", "t1t2", "gn"), 64.11, None),
    ],
)
def test_values_are_those_of_the_paper(keys, mean, spread):
    value = published_value(*keys)
    assert (value.mean, value.spread) == (mean, spread)


def test_kinds_runs_and_copied_columns():
    rotation = published_value("rotation", "evograd", "rotated")
    assert (rotation.kind, rotation.n, rotation.population) == ("sd", 5, True)
    metaxl = published_value("metaxl", "t1t2_copied", "qu")
    assert metaxl == Published(68.67, None, None, None, copied=True)
    for keys in (("rotation", "t1t2", "rotated"), ("toy_1d", "evograd", "lambda")):
        assert published_value(*keys) is None
    with pytest.raises(UserError):
        published_value("rotation", "evograd", "roated")


def test_standard_errors():
    # The population sd of (-1, 0, 1) is sqrt(2/3), its sample sd 1, its standard error 1/sqrt(3).
    population = Published(0.0, math.sqrt(2 / 3), "sd", n=3, population=True)
    sample = Published(0.0, 1.0, "sd", n=3)
    for value in (population, sample):
        assert value.standard_error == pytest.approx(1 / math.sqrt(3))
    interval = Published(0.0, 0.98, "ci95", n=1000)
    assert interval.standard_error == pytest.approx(0.5)
    for unknown in (Published(70.0), Published(70.0, 1.0, "sd", n=None)):
        assert unknown.standard_error is None
