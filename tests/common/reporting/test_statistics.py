"""Means, spreads and verdicts against scipy, numpy and numbers worked out by hand."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.reporting import Measured, Published, collect_metric, judge

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8)


@given(VALUES)
def test_measured_against_numpy_and_scipy(values):
    measured = Measured(tuple(values))
    assert measured.n == len(values)
    assert measured.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert measured.sd == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert measured.population_sd == pytest.approx(np.std(values), abs=1e-9)
    assert measured.standard_error == pytest.approx(scipy.stats.sem(values), abs=1e-9)
    if measured.sd > 1e-6:
        low, high = scipy.stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values)
        )
        assert measured.ci95 == pytest.approx((high - low) / 2)


def test_a_single_run_has_only_the_spread_within_it():
    bare = Measured((5.0,))
    assert (bare.sd, bare.population_sd, bare.standard_error, bare.ci95) == (None,) * 4
    episodes = Measured((5.0,), ci95_within_run=0.98)
    assert episodes.sd is None
    assert episodes.standard_error == pytest.approx(0.5)
    assert episodes.ci95 == 0.98


def test_measured_refuses_nothing_and_nan():
    with pytest.raises(ValueError, match="at least one"):
        Measured(())
    with pytest.raises(UserError, match="not finite"):
        Measured((1.0, float("nan")))


# Published 77.23 +- 6.55, population sd of 5: standard error 6.55 / 2 = 3.275.
# Measured m - 5 and m + 5: sd sqrt(50), standard error 5. Tolerance 2 sqrt(3.275^2 + 25) = 11.954.
WIDE = Published(77.23, 6.55, "sd", n=5, population=True)
# Tolerance with one run: sample sd 6.55 sqrt(5/4) = 7.3231; 2 sqrt(3.275^2 + 7.3231^2) = 16.044.
# Tolerance of two confidence intervals of 1.5: 2 sqrt(2) 1.5 / 1.96 = 2.1647.
INTERVAL = Published(47.0, 1.5, "ci95", n=1000)


@pytest.mark.parametrize(
    ("published", "tolerance", "measure"),
    [
        (WIDE, 11.954, lambda mean: Measured((mean - 5, mean + 5))),
        (WIDE, 16.044, lambda mean: Measured((mean,))),
        (INTERVAL, 2.1647, lambda mean: Measured((mean,), ci95_within_run=1.5)),
        (INTERVAL, 2.1647, lambda mean: Measured((mean,))),
        # A spread this small leaves the decision to the floor,
        (Published(98.11, 0.32, "sd", n=5), 1.0, lambda mean: Measured((mean,))),
        # and so does one that is not known, whatever the measured one.
        (Published(71.0), 1.0, lambda mean: Measured((mean - 9, mean + 9))),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_verdicts_change_at_once_and_twice_the_tolerance(published, tolerance, measure, sign):
    def verdict(share):
        return judge(published, measure(published.mean + sign * share * tolerance))

    assert verdict(0.0) == "agrees"
    assert verdict(0.999) == "agrees"
    assert verdict(1.001) == "near"
    assert verdict(1.999) == "near"
    assert verdict(2.001) == "differs"


def test_the_floor_is_in_the_unit_of_the_value():
    published = Published(28.0)
    assert judge(published, Measured((31.0,))) == "differs"
    assert judge(published, Measured((31.0,)), floor=2.0) == "near"
    assert judge(published, Measured((31.0,)), floor=5.0) == "agrees"


def test_a_tie_at_two_decimals_agrees():
    # 64.01 - 63.01 is 1.0 and a little more in binary.
    assert 64.01 - 63.01 > 1.0
    assert judge(Published(63.01), Measured((64.01,))) == "agrees"


def test_what_is_missing_is_not_judged():
    assert judge(None, Measured((1.0,))) == "not judged"
    assert judge(Published(1.0), None) == "not judged"
    assert judge(None, None) == "not judged"


@given(st.floats(0, 50), st.floats(0, 50), VALUES)
def test_farther_is_never_better(near, far, values):
    order = ["agrees", "near", "differs"]
    near, far = sorted((near, far))
    centred = np.array(values) - np.mean(values)
    verdicts = [
        judge(Published(50.0, 1.0, "sd", n=5), Measured(tuple(50.0 + d + centred)))
        for d in (near, far)
    ]
    assert order.index(verdicts[0]) <= order.index(verdicts[1])


def test_collecting_a_metric_over_seeds(make_record):
    records = [
        make_record(seed=seed, final={"accuracy": value, "ci": 0.01}, best={})
        for seed, value in ((23, 0.5), (1, 0.25))
    ]
    assert collect_metric(records, "accuracy", scale=100) == Measured((25.0, 50.0))
    assert collect_metric(records[:1], "accuracy", ci95="ci", scale=100) == Measured((50.0,), 1.0)
    assert collect_metric(records, "accuracy", ci95="ci") == Measured((0.25, 0.5))
    assert collect_metric([], "accuracy") is None


def test_collecting_best_is_not_final(make_record):
    record = make_record(best={"accuracy": {"value": 80.0, "epoch": 1}})
    assert collect_metric([record], "accuracy", source="best") == Measured((80.0,))
    assert collect_metric([record], "accuracy") == Measured((75,))


def test_collecting_refuses_missing_metrics_and_runs_counted_twice(make_record):
    with pytest.raises(UserError, match="seed 1 has no final metric 'f1'"):
        collect_metric([make_record()], "f1")
    with pytest.raises(UserError, match="no best metric 'f1'"):
        collect_metric([make_record()], "f1", source="best")
    with pytest.raises(UserError, match="Two records"):
        collect_metric([make_record(), make_record()], "accuracy")
