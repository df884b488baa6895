"""What the seeds of a method say together: intervals and paired tests.

Paired tests are Student's t on the differences d_i = value_i - reference_i of runs with the same
seed (same data, same start), with standard error s = sd / √n and n - 1 degrees of freedom.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from common.errors import UserError

LEVEL = 0.05
"""Of all tests: a 95 % interval, 5 % of wrong claims over the whole family (Holm)."""
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Measured:
    """One number per run (seed), in the unit of the published value it is compared with.

    `ci95_within_run`, where a run's metric is itself an average (over test episodes): the 95 %
    half-width of that average for a single run. It serves only while there is one run; from two
    on, the spread between runs contains it.
    """

    values: tuple[float, ...]
    ci95_within_run: float | None = None

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("Measured needs at least one value; use None for no runs")
        if not all(math.isfinite(v) for v in self.values):
            raise UserError(f"A measured value is not finite ({self.values}): repeat that run.")

    @property
    def n(self) -> int:
        """The number of runs."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean over runs."""
        return math.fsum(self.values) / self.n

    @property
    def sd(self) -> float | None:
        """Sample standard deviation, sqrt(sum (x - mean)^2 / (n - 1)); None for a single run."""
        return statistics.stdev(self.values) if self.n > 1 else None

    @property
    def population_sd(self) -> float | None:
        """Population standard deviation, sqrt(sum (x - mean)^2 / n); None for a single run.

        The paper's rotation table gives this one (numpy's default): at n = 5 it is 0.894 of `sd`.
        """
        return statistics.pstdev(self.values) if self.n > 1 else None

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean: sd / sqrt(n); for a single run its own half-width / 1.96."""
        if self.sd is not None:
            return self.sd / math.sqrt(self.n)
        return None if self.ci95_within_run is None else self.ci95_within_run / 1.96

    @property
    def ci95(self) -> float | None:
        """Half-width of the 95 % confidence interval of the mean.

        Student's t with n - 1 degrees of freedom times the standard error; for a single run the
        half-width over its own episodes, where it has one.
        """
        if self.n == 1:
            return self.ci95_within_run
        return float(stats.t.ppf(0.975, self.n - 1)) * self.standard_error

    def p_above(self, bound: float) -> float:
        """One-sided p-value of "the mean is at most ``bound``"; 1 for a single run."""
        if self.n == 1:
            return 1.0
        if self.standard_error == 0:
            return 0.0 if self.mean > bound else 1.0
        return float(stats.t.sf((self.mean - bound) / self.standard_error, self.n - 1))

    def p_below(self, bound: float) -> float:
        """One-sided p-value of "the mean is at least ``bound``"; 1 for a single run."""
        return Measured(tuple(-value for value in self.values)).p_above(-bound)

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
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0).tolist()


def seeds_needed(sd: float, distance: float, level: float = LEVEL, power: float = POWER) -> int:
    """The least number of pairs with which a one-sided t test at ``level`` finds a mean that is
    ``distance`` beyond its bound with probability ``power``, were the spread ``sd``.

    Power from the noncentral t distribution. MOST_SEEDS if more than that are needed.
    """
    if sd == 0:
        return 2
    n = np.arange(2, MOST_SEEDS)
    critical = stats.t.ppf(1 - level, n - 1)
    reached = stats.nct.sf(critical, n - 1, distance / sd * np.sqrt(n)) >= power
    return int(n[reached.argmax()]) if reached.any() else MOST_SEEDS
