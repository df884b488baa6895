"""How the comparisons behind the paper's claims are made on records, one function for each kind."""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from common.cost_study.records import Measurement
from common.experiment import load_experiment
from common.reporting import Measured, Number, RunRecord, judge, published_value
from common.reporting.frame import frame, pairs, seed_means
from common.reporting.statistics import LEVEL, MOST_SEEDS, seeds_needed
from common.reporting.tables import MINUS, MISSING, PLUS_MINUS

Verdict = Literal["supported", "contradicted", "undecided"]
Comparison = Mapping[str, Any]
"""As in docs/claims.json."""


@dataclass(frozen=True)
class Source:
    """Records of one size. words: what tells it from others of its size (device, whose runs)."""

    size: str
    folder: str
    runs: Mapping[str, Sequence[RunRecord]]
    costs: Sequence[Measurement] = ()
    words: str = ""

    @property
    def label(self) -> str:
        return f"{self.size}, {self.words}" if self.words else self.size


class Judged(NamedTuple):
    """What a comparison gives. p: of "supported" and of "contradicted", to be corrected; None where
    no test decides. decide: how many seeds would. single: one pair of runs, no interval.
    difference: of methods, by seed."""

    measured: str = MISSING
    sample: str = "0"
    verdict: Verdict = "undecided"
    p: tuple[float, float] | None = None
    decide: str = ""
    single: bool = False
    difference: Measured | None = None


# --- comparisons of runs


def _runs(comparison: Comparison, source: Source) -> list[RunRecord]:
    """The experiment's runs at the source's size that the comparison is about; of its variant, by
    default none. Methods without an estimator are not concerned by it."""
    experiment = load_experiment(comparison["experiment"])
    wanted, variant = comparison.get("where", {}), comparison.get("variant", [])
    variants = {
        name: variant if method.estimator else [] for name, method in experiment.methods.items()
    }
    return [
        record
        for record in source.runs.get(experiment.name, ())
        if experiment.variant(record.config) == variants[record.method]
        and all(record.config.get(name) == value for name, value in wanted.items())
    ]


def _paired(comparison: Comparison, source: Source, margin: float) -> Judged | None:
    """Better, not worse, comparable: differences by seed, averaged over the experiment's axes."""
    experiment = load_experiment(comparison["experiment"])
    axes = experiment.axes
    records = _runs(comparison, source)
    settings = [experiment.settings_of(record) for record in records]
    runs = frame(records).assign(**{a: [getattr(s, a) for s in settings] for a in axes})
    against = comparison["against"]
    for name in [against] if isinstance(against, str) else against:
        both = pairs(runs, comparison["metric"], comparison["method"], name, ("seed", *axes))
        if len(both):
            break
    else:
        return None
    by_seed = seed_means(both)
    places = by_seed["size"].max()
    difference = Measured(tuple(by_seed["mean"]))
    p, distance, level = _test(comparison["kind"], difference, margin)
    methods = comparison["method"], name
    taken = [r.provenance["wall_seconds"] for r in records if r.method in methods]
    seed_hours = 2 * places * statistics.fmean(taken) / 3600
    measured = f"{difference.mean:+.2f}".replace("-", MINUS)
    if difference.ci95 is not None:
        measured += f" {PLUS_MINUS} {difference.ci95:.2f}"
    return Judged(
        measured,
        _counted(difference.n, "seed") + (f" × {places} settings" if places > 1 else ""),
        # One pair is no test, and does not count among those corrected.
        p=p if difference.n > 1 else None,
        decide=_deciding(difference, distance, level, seed_hours),
        single=difference.n == 1,
        difference=difference,
    )


def _test(
    kind: str, difference: Measured, margin: float
) -> tuple[tuple[float, float], float, float]:
    """p-values of supported and contradicted, how far the mean lies on the supporting side, and the
    level of the one-sided test that decides."""
    if kind == "better":
        # Twice one-sided, half the level for each: the verdict may fall on either side.
        above, below = (min(1.0, 2 * p) for p in (difference.p_above(0.0), difference.p_below(0.0)))
        return (above, below), abs(difference.mean), LEVEL / 2
    if kind == "not worse":
        p = difference.p_above(-margin), difference.p_below(-margin)
        return p, abs(difference.mean + margin), LEVEL
    outside = min(1.0, 2 * min(difference.p_above(margin), difference.p_below(-margin)))
    p = difference.p_equivalent(margin), outside
    return p, abs(margin - abs(difference.mean)), LEVEL


def _counted(count: float, unit: str) -> str:
    return f"{count:,.0f} {unit}{'s' * (round(count) != 1)}"


def _deciding(difference: Measured, distance: float, level: float, seed_hours: float) -> str:
    """How many seeds would decide, were mean and spread those seen, and the time of those missing
    if a seed takes ``seed_hours``."""
    if difference.n < 2:
        return "at least 2 seeds"
    needed = max(seeds_needed(difference.sd, distance, level), difference.n + 1)
    if needed >= MOST_SEEDS:
        return f"more than {MOST_SEEDS} seeds"
    hours = (needed - difference.n) * seed_hours
    more = _counted(hours, "hour") if hours >= 2 else _counted(max(60 * hours, 1), "minute")
    return f"about {_counted(needed, 'seed')} ({more} more)"


def _values(comparison: Comparison, source: Source) -> list[tuple[RunRecord, float]]:
    """The runs of the comparison's method, each with its value of the metric."""
    section, name = comparison["metric"].split(".", 1)
    runs = [r for r in _runs(comparison, source) if r.method == comparison["method"]]
    return [(run, getattr(run, section)[name]) for run in runs]


def _published(comparison: Comparison, source: Source, margin: float) -> Judged | None:
    """A method's value beside the published one; only at the paper's size."""
    values = _values(comparison, source) if source.size == "paper" else []
    if not values:
        return None
    measured = Measured(tuple(value for _, value in values))
    value = published_value(comparison["experiment"], *comparison["row"])
    verdicts: dict[str, Verdict] = {"agrees": "supported", "differs": "contradicted"}
    verdict = verdicts.get(judge(value, measured, margin), "undecided")
    return Judged(str(Number(measured.mean, measured.ci95)), _counted(measured.n, "seed"), verdict)


def _trend(comparison: Comparison, source: Source, margin: float) -> Judged | None:
    """A correlation over independent points of one run, with its interval by Fisher's z."""
    values = _values(comparison, source)
    if not values:
        return None
    run, value = values[0]
    points = run.config[comparison["points"]]
    half = 1.96 / math.sqrt(points - 3)
    low, high = (math.tanh(math.atanh(value) + side * half) for side in (-1, 1))
    measured = f"{value:.2f} ({low:.2f} to {high:.2f})"
    return Judged(measured, f"{points} points", _verdict(low > 0, high < 0))


def _verdict(supported: bool, contradicted: bool) -> Verdict:
    return "supported" if supported else "contradicted" if contradicted else "undecided"


# --- comparisons of costs


def _rows(comparison: Comparison, source: Source, x: str | None = None) -> list[Measurement] | None:
    """The measurements of method and opponent at one place; None unless both were measured.

    x: the place, by default the comparison's own.
    """
    place = comparison.get("x")
    wanted = x or (place.get(source.size) if isinstance(place, Mapping) else place)
    found = {
        m.key: m
        for m in reversed(source.costs)  # of several, the first counts
        if (m.experiment, m.x) == (comparison["experiment"], wanted) and m.outcome == "measured"
    }
    methods = comparison["method"], comparison["against"]
    return [found[m] for m in methods] if found.keys() >= {*methods} else None


def _cost(comparison: Comparison, source: Source, margin: float) -> Judged | None:
    """Time or memory of one method by another's."""
    if (rows := _rows(comparison, source)) is None:
        return None
    above, below = rows
    if comparison["quantity"] == "time":
        ratio = above.time_ratio / below.time_ratio
        (low, high), (other_low, other_high) = above.time_quartiles, below.time_quartiles
        verdict = _verdict(low > other_high, high < other_low)
    else:
        ratio = above.total_bytes / below.total_bytes
        verdict = _verdict(ratio > 1, ratio < 1)
    return Judged(f"{ratio:.2f}", f"{len(above.seconds)} rounds", verdict)


def _growth(comparison: Comparison, source: Source, margin: float) -> Judged | None:
    """What the cheaper method saves, from place to place of a figure."""
    places = {m.x for m in source.costs if m.figure == comparison["figure"]}
    time = comparison["quantity"] == "time"
    saved: list[float] = []
    for x in sorted(places):
        if rows := _rows(comparison, source, x):
            larger, smaller = (
                statistics.median(m.seconds) if time else m.total_bytes / 1e6 for m in rows
            )
            saved.append(larger - smaller)
    if len(saved) < 2:
        return None
    rising = saved[0] > 0 and all(a < b for a, b in itertools.pairwise(saved))
    text = ", ".join(f"{s:.2f}" if time else f"{s:,.0f}" for s in saved)
    count = f"{len(saved)} places"
    return Judged(f"{text} {'s' if time else 'MB'}", count, _verdict(rising, not rising))


def _constant(comparison: Comparison, source: Source, margin: float) -> Judged | None:
    """Memory of one method by another's, which is to be 1 (5 % allowed)."""
    if (rows := _rows(comparison, source)) is None:
        return None
    ratio = rows[0].peak_bytes / rows[1].peak_bytes
    return Judged(f"{ratio:.3f}", "counted", _verdict(ratio <= 1.05, ratio > 1.05))


KINDS: dict[str, Callable[[Comparison, Source, float], Judged | None]] = {
    "better": _paired, "not worse": _paired, "comparable": _paired, "published": _published,
    "trend": _trend, "cost": _cost, "growth": _growth, "constant": _constant,
}  # fmt: skip
