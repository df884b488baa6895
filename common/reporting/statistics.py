"""What the seeds of a method say together, and the rule that judges it against the paper.

The rule. The difference between measured and published agrees when it is at most the larger of
a floor (1 point unless said otherwise) and two standard errors of the difference; it is near
within twice that; else it differs. See `judge` for where the standard errors come from.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from common.errors import UserError
from common.reporting.published import Published
from common.reporting.records import RunRecord

Verdict = Literal["agrees", "near", "differs", "not judged"]

VERDICT_RULE = (
    "A measured value agrees with the published one when their difference is at most the larger "
    "of 1 point and 2 standard errors of the difference; it is near within twice that, and "
    "differs beyond. The standard error combines both sides: standard deviation over runs / √n, "
    "or 95 % confidence half-width / 1.96. A single run without a spread of its own is given the "
    "published one; where a spread is unknown, 1 point decides. Runs at another size or on other "
    "data are shown apart and never judged."
)


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
        if self.standard_error is None:
            return None
        if self.n == 1:
            return self.ci95_within_run
        return float(stdtrit(self.n - 1, 0.975)) * self.standard_error


def judge(published: Published | None, measured: Measured | None, floor: float = 1.0) -> Verdict:
    """Judge a measured value against the published one.

    With d = |measured mean - published mean| and the tolerance
    t = max(floor, 2 sqrt(SE_published^2 + SE_measured^2)):
    d <= t "agrees", d <= 2 t "near", else "differs"; "not judged" where either is missing.

    SE_published is in `Published.standard_error`, SE_measured in `Measured.standard_error`. One
    run without a spread of its own is taken to scatter as the published runs do. Where one side's
    spread is unknown even so, the tolerance is the floor.
    """
    if published is None or measured is None:
        return "not judged"
    tolerance = floor
    measured_error = measured.standard_error
    if measured_error is None:
        measured_error = published.single_run_error
    if published.standard_error is not None and measured_error is not None:
        tolerance = max(floor, 2 * math.hypot(published.standard_error, measured_error))
    difference = abs(measured.mean - published.mean)
    # Values are read at two decimals: a tie must not depend on the last bit of a float.
    difference -= 1e-9
    if difference <= tolerance:
        return "agrees"
    return "near" if difference <= 2 * tolerance else "differs"


def collect_metric(
    records: Iterable[RunRecord],
    metric: str,
    source: Literal["final", "best"] = "final",
    ci95: str | None = None,
    scale: float = 1.0,
) -> Measured | None:
    """The metric of every run of one cell of a table, as Measured; None without runs.

    `source` says whether the last epoch or the best one is meant; `ci95` names the metric with
    the half-width within a run; `scale` turns the record's unit into the table's (100 for %).
    Raises UserError when a run lacks the metric or a seed occurs twice.
    """
    values: dict[int, float] = {}
    half_widths = []
    for record in records:
        run = f"{record.experiment}, {record.method}, seed {record.seed}"
        if record.seed in values:
            raise UserError(
                f"Two records of {run} meet in one table cell: "
                "move the records of one of these runs to another folder."
            )
        metrics = record.final if source == "final" else record.best
        for name in (metric,) if ci95 is None else (metric, ci95):
            if name not in (record.final if name == ci95 else metrics):
                raise UserError(f"The record of {run} has no {source} metric {name!r}: repeat it.")
        value = record.final[metric] if source == "final" else record.best[metric]["value"]
        values[record.seed] = scale * value
        if ci95 is not None:
            half_widths.append(scale * record.final[ci95])
    if not values:
        return None
    ordered = tuple(values[seed] for seed in sorted(values))
    return Measured(ordered, half_widths[0] if len(half_widths) == 1 else None)
