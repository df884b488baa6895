"""The paper's claims judged on records: what is compared, and the rule of the verdict.

The claims are data (docs/claims.json). A comparison is made once for every size that has records;
a claim's verdict is that of its comparisons at the largest size. The rule is ``RULE``.
"""

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.cost_study.records import Measurement, by_device, read_measurements
from common.experiment import load_experiment
from common.record_settings import experiment_records, settings_of
from common.reporting import (
    Heading,
    Measured,
    RunRecord,
    Section,
    Table,
    judge,
    published_value,
    write_table,
)
from common.reporting.comparisons import LEVEL, MOST_SEEDS, PairedDifference, holm, seeds_needed
from common.reporting.frame import frame, pairs
from common.reporting.tables import MINUS, MISSING, PLUS_MINUS, Number, VerdictCell

Verdict = Literal["supported", "contradicted", "undecided"]
RULE = (
    "Methods are compared on the same seeds (same data, same start): mean difference over seeds, "
    "averaged over domains, languages or data sets first, with a 95 % interval by Student's t. "
    "“Better”: the difference is above 0. “Comparable”: it lies within ±{margin:g} point (two "
    "one-sided tests); no difference seen is not enough. “Not worse”: it is above "
    "−{margin:g} point. All p-values of the page are corrected together (Holm) and must be below "
    "0.05. A trend is a correlation whose 95 % interval (Fisher’s z) lies above 0. "
    "Contradicted: the difference is below 0 as surely, or its interval lies outside the margin. "
    "Costs are judged on ratios (time: the quartiles over rounds must not overlap; memory "
    "is counted exactly), single values by the rule for published values. Everything else is "
    "undecided; the seeds that would decide are those of a test with power 80 %, were the spread "
    "that of the seeds seen. A claim has the verdict of all its comparisons at the largest size."
)
_INTRO = """
Does EvoGrad work, and what does it cost? Each claim of the paper, judged on the runs that the
project ships and on those of this report.
"""
SIZES = ("paper", "study", "quick", "small", "smoke")
"""From the largest to the smallest; small is the cost study's."""


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


@dataclass(frozen=True)
class Finding:
    """What one source says about a comparison. p: of "supported" and of "contradicted", to be
    corrected; empty where no test decides. ``verdict`` is final only after ``correct``."""

    claim: int
    comparison: Mapping[str, Any]
    source: Source | None
    measured: str = MISSING
    count: str = "0"
    verdict: Verdict = "undecided"
    p: tuple[float, float] | None = None
    decide: str = ""


def shipped_sources(results: Path, experiments: Sequence[str]) -> list[Source]:
    """What the project ships in results/, from the largest size to the smallest."""
    found = []
    for size in SIZES:
        runs = {e: experiment_records(e, size, results / e / size / "records") for e in experiments}
        if any(runs.values()):
            found.append(Source(size, f"results/EXPERIMENT/{size}/records", runs))
        costs = read_measurements(results / "benchmark" / size / "records")
        for device, group in by_device(costs).items():
            folder = f"results/benchmark/{size}/records/{device}"
            found.append(Source(size, folder, {}, group, device))
    return found


def section(path: Path, sources: Sequence[Source], folder: Path) -> Section:
    """The claims of a file judged on the sources; their tables, written into ``folder`` too."""
    claims = json.loads(path.read_text(encoding="utf-8"))
    findings = judge_claims(claims, sources)
    tables = (claims_table(claims, findings), evidence_table(claims, findings))
    for stem, table in zip(("summary", "evidence"), tables, strict=True):
        write_table(table, folder, stem)
    return Section("Claims of the paper", _INTRO, tables)


def judge_claims(claims: Mapping[str, Any], sources: Sequence[Source]) -> list[Finding]:
    """A finding for every comparison and source that has records for it, in order; where none has,
    one without a source."""
    found = []
    for index, claim in enumerate(claims["claims"]):
        for comparison in claim["comparisons"]:
            judge_one = _JUDGES[comparison["kind"]]
            made = [f for s in sources if (f := judge_one(comparison, s, claims["margin"]))]
            found += [replace(f, claim=index) for f in made] or [Finding(index, comparison, None)]
    return _corrected(found)


def _corrected(findings: Sequence[Finding]) -> list[Finding]:
    """Verdicts by the p-values of all tests together."""
    tested = [i for i, f in enumerate(findings) if f.p is not None]
    adjusted = holm([min(findings[i].p) for i in tested])
    result = list(findings)
    for i, p in zip(tested, adjusted, strict=True):
        supports = findings[i].p[0] <= findings[i].p[1]
        verdict = ("supported" if supports else "contradicted") if p < LEVEL else "undecided"
        result[i] = replace(
            findings[i],
            verdict=verdict,
            decide=findings[i].decide if verdict == "undecided" else "",
        )
    return result


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """All comparisons of a claim together, each at its largest size."""
    first: dict[str, Verdict] = {}
    for f in sorted(findings, key=lambda f: SIZES.index(f.source.size) if f.source else 99):
        first.setdefault(f.comparison["what"], f.verdict)
    if "contradicted" in first.values():
        return "contradicted"
    return "supported" if set(first.values()) == {"supported"} else "undecided"


# --- comparisons of runs


def _runs(comparison: Mapping[str, Any], source: Source) -> list[RunRecord]:
    """The experiment's runs at the source's size that the comparison is about; no variants."""
    wanted = comparison.get("where", {}).get(source.size, {})
    experiment = load_experiment(comparison["experiment"])
    return [
        record
        for record in source.runs.get(experiment.name, ())
        if not experiment.variant(record.config)
        and all(record.config.get(name) == value for name, value in wanted.items())
    ]


def _paired(comparison: Mapping[str, Any], source: Source, margin: float) -> Finding | None:
    """Better, not worse, comparable: differences by seed, averaged over the experiment's axes."""
    axes = load_experiment(comparison["experiment"]).axes
    records = _runs(comparison, source)
    # Older records lack settings that have come since: the presets' values are theirs.
    settings = [settings_of(record) for record in records]
    runs = frame(records).assign(**{a: [getattr(s, a) for s in settings] for a in axes})
    against = comparison["against"]
    for name in [against] if isinstance(against, str) else against:
        both = pairs(runs, comparison["metric"], comparison["method"], name, ("seed", *axes))
        if len(both):
            break
    else:
        return None
    counts = both.groupby("seed")["difference"].agg(["mean", "size"])
    complete = counts.loc[counts["size"] == counts["size"].max(), "mean"]
    difference = PairedDifference(tuple(complete))
    width = difference.half_width
    spread = "" if width is None else f" {PLUS_MINUS} {width:.2f}"
    places = f" × {counts['size'].max()} settings" if counts["size"].max() > 1 else ""
    p, distance = _test(comparison["kind"], difference, margin)
    tested = difference.n > 1  # one pair is no test, and does not count among those corrected
    return Finding(
        0,
        comparison,
        source,
        f"{difference.mean:+.2f}".replace("-", MINUS) + spread,
        f"{difference.n} seed{'s' * (difference.n > 1)}{places}",
        p=p if tested else None,
        # "Better" may be decided either way: half the level for each.
        decide=_seeds(difference, distance, LEVEL / (2 if comparison["kind"] == "better" else 1)),
    )


def _test(
    kind: str, difference: PairedDifference, margin: float
) -> tuple[tuple[float, float], float]:
    """p-values of supported and contradicted, and how far the mean lies on the supporting side."""
    if kind == "better":
        # Twice one-sided: the verdict may fall on either side.
        sides = difference.p_above(0.0), difference.p_below(0.0)
        return (min(1.0, 2 * sides[0]), min(1.0, 2 * sides[1])), abs(difference.mean)
    if kind == "not worse":
        worse = difference.p_below(-margin)
        return (difference.p_above(-margin), worse), abs(difference.mean + margin)
    outside = min(1.0, 2 * min(difference.p_above(margin), difference.p_below(-margin)))
    return (difference.p_equivalent(margin), outside), abs(margin - abs(difference.mean))


def _seeds(difference: PairedDifference, distance: float, level: float) -> str:
    """How many seeds would decide, were mean and spread those seen."""
    if difference.n < 2:
        return "at least 2 seeds"
    needed = seeds_needed(difference.sd, distance, level)
    if needed >= MOST_SEEDS:
        return f"more than {MOST_SEEDS} seeds"
    return f"about {max(needed, difference.n + 1)} seeds"


def _values(comparison: Mapping[str, Any], source: Source) -> list[float]:
    section, name = comparison["metric"].split(".", 1)
    return [
        getattr(r, section)[name]
        for r in _runs(comparison, source)
        if r.method == comparison["method"]
    ]


def _published(comparison: Mapping[str, Any], source: Source, margin: float) -> Finding | None:
    """A method's value beside the published one; only at the paper's size."""
    values = _values(comparison, source) if source.size == "paper" else []
    if not values:
        return None
    measured = Measured(tuple(values))
    value = published_value(comparison["experiment"], *comparison["row"])
    verdicts = {"agrees": "supported", "differs": "contradicted"}
    return Finding(
        0,
        comparison,
        source,
        str(Number(measured.mean, measured.ci95)),
        f"{measured.n} seed{'s' * (measured.n > 1)}",
        verdicts.get(judge(value, measured, margin), "undecided"),
    )


def _trend(comparison: Mapping[str, Any], source: Source, margin: float) -> Finding | None:
    """A correlation over independent points of one run, with its interval by Fisher's z."""
    runs = [r for r in _runs(comparison, source) if r.method == comparison["method"]]
    if not runs:
        return None
    section, name = comparison["metric"].split(".", 1)
    value, points = getattr(runs[0], section)[name], runs[0].config[comparison["points"]]
    half = 1.96 / math.sqrt(points - 3)
    low, high = (math.tanh(math.atanh(value) + side * half) for side in (-1, 1))
    verdict: Verdict = "supported" if low > 0 else "contradicted" if high < 0 else "undecided"
    measured = f"{value:.2f} ({low:.2f} to {high:.2f})"
    return Finding(0, comparison, source, measured, f"{points} points", verdict)


# --- comparisons of costs


def _row(
    comparison: Mapping[str, Any], source: Source, method: str, x: str | None = None
) -> Measurement | None:
    place = comparison.get("x")
    wanted = x or (place.get(source.size) if isinstance(place, Mapping) else place)
    for m in source.costs:
        if (m.point.experiment, m.point.x, m.row) == (comparison["experiment"], wanted, method):
            return m if m.outcome == "measured" else None
    return None


def _cost(comparison: Mapping[str, Any], source: Source, margin: float) -> Finding | None:
    """Time or memory of one method by another's."""
    above, below = (_row(comparison, source, comparison[n]) for n in ("method", "against"))
    if above is None or below is None:
        return None
    if comparison["quantity"] == "time":
        ratio = above.time_ratio / below.time_ratio
        apart = above.time_quartiles[0] > below.time_quartiles[1]
        reverse = above.time_quartiles[1] < below.time_quartiles[0]
    else:
        ratio = above.total_bytes / below.total_bytes
        apart, reverse = ratio > 1, ratio < 1
    verdict: Verdict = "supported" if apart else "contradicted" if reverse else "undecided"
    return Finding(0, comparison, source, f"{ratio:.2f}", f"{len(above.seconds)} rounds", verdict)


def _growth(comparison: Mapping[str, Any], source: Source, margin: float) -> Finding | None:
    """What the cheaper method saves, from place to place of a figure."""
    places = [m.point.x for m in source.costs if m.point.figure == comparison["figure"]]
    saved: list[float] = []
    for x in sorted(set(places)):
        rows = [_row(comparison, source, comparison[n], x) for n in ("method", "against")]
        if None not in rows:
            costs = [
                statistics.median(m.seconds)
                if comparison["quantity"] == "time"
                else m.total_bytes / 1e6
                for m in rows
            ]
            saved.append(costs[0] - costs[1])
    if len(saved) < 2:
        return None
    rising = all(a < b for a, b in itertools.pairwise(saved))
    unit = "s" if comparison["quantity"] == "time" else "MB"
    text = ", ".join(f"{s:.2f}" if unit == "s" else f"{s:,.0f}" for s in saved)
    verdict: Verdict = "supported" if rising and saved[0] > 0 else "contradicted"
    return Finding(0, comparison, source, f"{text} {unit}", f"{len(saved)} places", verdict)


def _constant(comparison: Mapping[str, Any], source: Source, margin: float) -> Finding | None:
    """Memory of one method by another's, which is to be 1 (5 % allowed)."""
    above, below = (_row(comparison, source, comparison[n]) for n in ("method", "against"))
    if above is None or below is None:
        return None
    ratio = above.peak_bytes / below.peak_bytes
    verdict: Verdict = "supported" if ratio <= 1.05 else "contradicted"
    return Finding(0, comparison, source, f"{ratio:.3f}", "counted", verdict)


_JUDGES = {
    "better": _paired, "not worse": _paired, "comparable": _paired, "published": _published,
    "trend": _trend, "cost": _cost, "growth": _growth, "constant": _constant,
}  # fmt: skip


# --- tables


def claims_table(claims: Mapping[str, Any], findings: Sequence[Finding]) -> Table:
    """A row per claim: its verdict, and what decides it."""
    rows = []
    for index, claim in enumerate(claims["claims"]):
        own = [f for f in findings if f.claim == index]
        ranked = sorted(own, key=lambda f: SIZES.index(f.source.size) if f.source else 99)
        best = {f.comparison["what"]: f for f in reversed(ranked)}
        texts = [
            f"{what}: {best[what].measured}"
            + (f" ({best[what].source.label}, {best[what].count})" if best[what].source else "")
            for what in dict.fromkeys(f.comparison["what"] for f in own)
        ]
        verdict = VerdictCell(verdict_of(own))
        rows.append((claim["statement"], verdict, "; ".join(texts), claim["where"]))
    return Table(
        "The paper's claims",
        ("claim", "verdict", "measured", "in the paper"),
        tuple(rows),
        caption="Differences in points with 95 % intervals, at the largest size that has records.",
    )


def evidence_table(claims: Mapping[str, Any], findings: Sequence[Finding]) -> Table:
    """Every comparison at every size: numbers, records, and what would decide."""
    rows: list[Any] = []
    for index, claim in enumerate(claims["claims"]):
        rows.append(Heading(claim["statement"]))
        for f in (f for f in findings if f.claim == index):
            where, missing = MISSING, "runs"
            if f.source is not None:
                where = f.source.folder.replace("EXPERIMENT", f.comparison["experiment"])
                missing = f.decide or MISSING
            published = f.comparison["published"]
            size = f.source.label if f.source else "no records yet"
            rows.append(
                (f.comparison["what"], VerdictCell(f.verdict), f.measured, size, f.count, published,
                 missing, where)
            )  # fmt: skip
    return Table(
        "The evidence",
        ("comparison", "verdict", "measured", "size", "from", "published", "would decide",
         "records"),
        tuple(rows),
        notes=(
            RULE.format(margin=claims["margin"]),
            "Records of runs are made by `bash scripts/reproduce.sh EXPERIMENT --preset SIZE`, "
            "those of costs by `bash scripts/benchmark.sh --size SIZE`.",
        ),
    )  # fmt: skip
