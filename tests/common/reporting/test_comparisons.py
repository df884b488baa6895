"""Paired comparisons against scipy, published examples and simulation."""

import numpy as np
import pytest
from scipy import stats

from common.reporting.comparisons import PairedDifference, holm, seeds_needed

VALUES = np.array([71.2, 70.1, 73.4, 69.9, 72.5, 71.8])
REFERENCE = np.array([70.0, 70.6, 71.1, 69.0, 71.9, 70.4])
DIFFERENCE = PairedDifference(tuple(VALUES - REFERENCE))


def test_mean_interval_and_p_values_are_scipys():
    test = stats.ttest_rel(VALUES, REFERENCE)
    low, high = test.confidence_interval(0.95)
    assert DIFFERENCE.mean == pytest.approx((VALUES - REFERENCE).mean())
    assert DIFFERENCE.ci95 == pytest.approx((high - low) / 2)
    above = stats.ttest_rel(VALUES, REFERENCE, alternative="greater").pvalue
    assert DIFFERENCE.p_above(0.0) == pytest.approx(above)
    below = stats.ttest_1samp(VALUES - REFERENCE, 2.5, alternative="less").pvalue
    assert DIFFERENCE.p_below(2.5) == pytest.approx(below)


def test_equivalence_is_the_worse_of_two_one_sided_tests():
    d = VALUES - REFERENCE
    above = stats.ttest_1samp(d, -2.0, alternative="greater").pvalue
    below = stats.ttest_1samp(d, 2.0, alternative="less").pvalue
    assert DIFFERENCE.p_equivalent(2.0) == pytest.approx(max(above, below))
    # Equivalent at 5 % exactly if the 90 % interval lies within the margin.
    low, high = stats.ttest_1samp(d, 0.0).confidence_interval(0.9)
    for margin in np.linspace(0.2, 3.0, 29):
        assert (DIFFERENCE.p_equivalent(margin) < 0.05) == (-margin < low and high < margin)


def test_no_difference_seen_is_not_equivalence():
    wide = PairedDifference((-5.0, 5.0, -4.0, 4.0))
    assert wide.p_above(0.0) > 0.45 and wide.p_below(0.0) > 0.45 and wide.p_equivalent(1.0) > 0.3


def test_one_pair_decides_nothing_and_no_spread_decides_all():
    one = PairedDifference((3.0,))
    assert one.ci95 is None
    assert one.p_above(0.0) == one.p_below(9.0) == one.p_equivalent(5.0) == 1.0
    same = PairedDifference((0.5, 0.5))
    assert (same.p_above(0.0), same.p_equivalent(1.0), same.p_above(0.5)) == (0.0, 0.0, 1.0)


def test_holm_is_that_of_the_textbook():
    # Holm's procedure by hand for m = 4: 0.005 * 4, 0.01 * 3, then the running maximum.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_the_seeds_asked_for_have_the_power():
    for sd, distance in ((1.0, 1.0), (2.0, 1.0), (0.5, 1.5)):
        n = seeds_needed(sd, distance)
        draws = np.random.default_rng(0).normal(distance, sd, (20_000, n))
        found = stats.ttest_1samp(draws, 0.0, axis=1, alternative="greater").pvalue < 0.05
        assert found.mean() >= 0.79
        if n > 2:
            fewer = stats.ttest_1samp(draws[:, :-1], 0.0, axis=1, alternative="greater").pvalue
            assert (fewer < 0.05).mean() < 0.81
    assert seeds_needed(100.0, 0.1) == 1000 and seeds_needed(0.0, 1.0) == 2
