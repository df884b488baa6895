"""Paired comparisons over seeds: interval, equivalence, correction for many, seeds to decide.

All by Student's t on the differences d_i = value_i - reference_i of runs with the same seed (same
data, same start), with standard error s = sd / √n and n - 1 degrees of freedom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from common.reporting.statistics import Measured

LEVEL = 0.05
"""Of all tests: a 95 % interval, 5 % of wrong verdicts over the whole family (Holm)."""
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class PairedDifference(Measured):
    """Differences of pairs, one value each. A single one has no interval, and p-values of 1."""

    def p_above(self, bound: float) -> float:
        """One-sided p-value of "the mean is at most ``bound``"."""
        if self.standard_error is None:
            return 1.0
        if self.standard_error == 0:
            return 0.0 if self.mean > bound else 1.0
        return float(stats.t.sf((self.mean - bound) / self.standard_error, self.n - 1))

    def p_below(self, bound: float) -> float:
        """One-sided p-value of "the mean is at least ``bound``"."""
        return PairedDifference(tuple(-d for d in self.values)).p_above(-bound)

    def p_equivalent(self, margin: float) -> float:
        """Of the two one-sided tests: small if the mean lies within ±``margin`` for sure.

        Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15 (1987): the larger of the p-values
        of "the mean is at most -margin" and "the mean is at least margin".
        """
        return max(self.p_above(-margin), self.p_below(margin))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: those below 0.05 hold together at that level.

    Holm, Scandinavian Journal of Statistics 6 (1979): with p sorted, the largest of (m - j) p_(j)
    up to each, at most 1.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_needed(sd: float, distance: float, level: float = LEVEL, power: float = POWER) -> int:
    """The least number of pairs with which a one-sided t test at ``level`` finds a mean that is
    ``distance`` beyond its bound with probability ``power``, were the spread ``sd``.

    Power from the noncentral t distribution. MOST_SEEDS if more than that are needed.
    """
    if sd == 0:
        return 2
    for n in range(2, MOST_SEEDS):
        critical = stats.t.ppf(1 - level, n - 1)
        if stats.nct.sf(critical, n - 1, distance / sd * math.sqrt(n)) >= power:
            return n
    return MOST_SEEDS
