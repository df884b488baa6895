"""Means, spreads and tests against scipy, numpy and numbers worked out by hand."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.reporting import Measured
from common.reporting.statistics import holm, seeds_needed

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
    bare, episodes = Measured((5.0,)), Measured((5.0,), ci95_within_run=0.98)
    assert (bare.sd, bare.population_sd, bare.standard_error, bare.ci95) == (None,) * 4
    assert (episodes.sd, episodes.standard_error) == (None, pytest.approx(0.5))
    assert episodes.ci95 == 0.98
    with pytest.raises(UserError, match="not finite"):
        Measured((1.0, float("nan")))


# Differences of runs with the same seed.
WITH = np.array([71.2, 70.1, 73.4, 69.9, 72.5, 71.8])
WITHOUT = np.array([70.0, 70.6, 71.1, 69.0, 71.9, 70.4])
DIFFERENCE = Measured(tuple(WITH - WITHOUT))


def test_p_values_are_scipys():
    above = scipy.stats.ttest_rel(WITH, WITHOUT, alternative="greater").pvalue
    assert DIFFERENCE.p_above(0.0) == pytest.approx(above)
    below = scipy.stats.ttest_1samp(WITH - WITHOUT, 2.5, alternative="less").pvalue
    assert DIFFERENCE.p_below(2.5) == pytest.approx(below)
    # Equivalent at 5 % exactly if the 90 % interval lies within the margin.
    low, high = scipy.stats.ttest_1samp(WITH - WITHOUT, 0.0).confidence_interval(0.9)
    for margin in np.linspace(0.2, 3.0, 29):
        assert (DIFFERENCE.p_equivalent(margin) < 0.05) == (-margin < low and high < margin)


def test_one_pair_decides_nothing_and_no_spread_decides_all():
    one = Measured((3.0,))
    assert one.p_above(0.0) == one.p_below(9.0) == one.p_equivalent(5.0) == 1.0
    same = Measured((0.5, 0.5))
    assert (same.p_above(0.0), same.p_equivalent(1.0), same.p_above(0.5)) == (0.0, 0.0, 1.0)


def test_holm_is_that_of_the_textbook():
    # Holm's procedure by hand for m = 4: 0.005 * 4, 0.01 * 3, then the running maximum.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_the_seeds_asked_for_have_the_power():
    for sd, distance in ((1.0, 1.0), (2.0, 1.0), (0.5, 1.5)):
        n = seeds_needed(sd, distance)
        draws = np.random.default_rng(0).normal(distance, sd, (20_000, n))
        found = scipy.stats.ttest_1samp(draws, 0.0, axis=1, alternative="greater").pvalue < 0.05
        assert found.mean() >= 0.79
    assert seeds_needed(100.0, 0.1) == 1000 and seeds_needed(0.0, 1.0) == 2
