"""The paper's claims judged on records: what is compared, and the rule of the verdict.

The claims are data (docs/claims.json). A comparison is made once for every size that has records;
a claim's verdict is that of its comparisons at the largest size. The rule is ``RULE``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pandas import DataFrame

from common.claim_evidence import KINDS, Comparison, Judged, Source, Verdict
from common.cost_study.records import by_device, read_measurements
from common.experiment import load_experiment
from common.reporting import MISSING, Section, Table, write_tables
from common.reporting.forest import ForestRow
from common.reporting.statistics import LEVEL, holm

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
    "undecided; the seeds that would decide are those of a single test, not corrected, with power "
    "80 %, were the spread that of the seeds seen. Their time is that of the runs still missing, "
    "one after the other, each as long as those seen. A claim has the verdict of all its "
    "comparisons at the largest size; one pair of runs gives way to a smaller size with more."
)
_INTRO = """
Does EvoGrad work, and what does it cost? Each claim of the paper, judged on the runs that the
project ships and on those of this report.
"""
SIZES = ("paper", "study", "quick", "small", "smoke")
"""From the largest to the smallest; small is the cost study's."""


@dataclass(frozen=True)
class Finding:
    """What one source says about a comparison of a claim; None: no source has records for it."""

    claim: int
    comparison: Comparison
    source: Source | None
    judged: Judged


def shipped_sources(results: Path, experiments: Sequence[str]) -> list[Source]:
    """What the project ships in results/, from the largest size to the smallest."""
    found = []
    for size in SIZES:
        runs = {
            e: load_experiment(e).records(size, results / e / size / "records") for e in experiments
        }
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
    tables = {
        "summary": claims_table(claims, findings),
        "evidence": evidence_table(claims, findings),
    }
    write_tables(tables, folder)
    return Section("Claims of the paper", _INTRO, tables, folder=folder)


def answer(path: Path, sources: Sequence[Source], own: str) -> tuple[str, list[ForestRow]]:
    """One sentence on the claims of a file, and a row for every difference between methods at its
    largest size; rows of the source whose words are ``own`` follow."""
    claims = json.loads(path.read_text(encoding="utf-8"))
    findings = judge_claims(claims, sources)
    verdicts = [
        verdict_of([f for f in findings if f.claim == index])
        for index in range(len(claims["claims"]))
    ]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts)))
    sentence = f"Of the paper's {len(verdicts)} claims, as far as the runs go: {counts}."
    best = _largest([f for f in findings if f.source is None or f.source.words != own])
    rows = []
    for f in [*best.values(), *(f for f in findings if f.source and f.source.words == own)]:
        if f.judged.difference is not None and "variant" not in f.comparison:
            title = load_experiment(f.comparison["experiment"]).title.split(" (")[0]
            stated = re.match(r"[+−]\d+\.\d+", f.comparison["published"])
            mine = f.source.words == own
            rows.append(
                ForestRow(
                    f"{title}: {f.comparison['what']}",
                    f.judged.difference.mean,
                    f.judged.difference.ci95,
                    float(stated[0].replace("−", "-")) if stated and not mine else None,
                    verdict=f.judged.verdict,
                    own=mine,
                )
            )
    return sentence, rows


def judge_claims(claims: Mapping[str, Any], sources: Sequence[Source]) -> list[Finding]:
    """A finding for every comparison and source that has records for it, in order; where none has,
    one without a source."""
    found = []
    for index, claim in enumerate(claims["claims"]):
        for comparison in claim["comparisons"]:
            kind = KINDS[comparison["kind"]]
            made = [
                Finding(index, comparison, source, judged)
                for source in sources
                if (judged := kind(comparison, source, claims["margin"])) is not None
            ]
            found += made or [Finding(index, comparison, None, Judged())]
    return _corrected(found)


def _corrected(findings: Sequence[Finding]) -> list[Finding]:
    """Verdicts by the p-values of all tests together."""
    adjusted = iter(holm([min(f.judged.p) for f in findings if f.judged.p is not None]))
    result = []
    for finding in findings:
        judged = finding.judged
        if judged.p is not None and next(adjusted) < LEVEL:
            verdict: Verdict = "supported" if judged.p[0] <= judged.p[1] else "contradicted"
            judged = judged._replace(verdict=verdict, decide="")
        result.append(replace(finding, judged=judged))
    return result


def _largest(findings: Sequence[Finding]) -> dict[str, Finding]:
    """Each comparison by its words, at the largest size that has records; one pair of runs, which
    has no interval, gives way to any size that has more."""
    first: dict[str, Finding] = {}
    by_size = sorted(findings, key=lambda f: SIZES.index(f.source.size) if f.source else 99)
    for f in sorted(by_size, key=lambda f: f.judged.single):
        first.setdefault(f.comparison["what"], f)
    return first


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """All comparisons of a claim together, each at its largest size."""
    verdicts = {f.judged.verdict for f in _largest(findings).values()}
    if "contradicted" in verdicts:
        return "contradicted"
    return "supported" if verdicts == {"supported"} else "undecided"


def claims_table(claims: Mapping[str, Any], findings: Sequence[Finding]) -> Table:
    """A row per claim: its verdict, and what decides it."""
    rows = []
    for index, claim in enumerate(claims["claims"]):
        own = [f for f in findings if f.claim == index]
        best = _largest(own)
        texts = []
        for what in dict.fromkeys(f.comparison["what"] for f in own):
            judged, source = best[what].judged, best[what].source
            where = f" ({source.label}, {judged.sample})" if source else ""
            texts.append(f"{what}: {judged.measured}{where}")
        rows.append((claim["statement"], verdict_of(own), "; ".join(texts), claim["where"]))
    return Table(
        "The paper's claims",
        DataFrame(rows, columns=["claim", "verdict", "measured", "in the paper"]),
        caption="Differences in points with 95 % intervals, at the largest size that has records; "
        "one pair of runs gives way to a smaller size with more.",
    )


def evidence_table(claims: Mapping[str, Any], findings: Sequence[Finding]) -> Table:
    """Every comparison at every size: numbers, records, and what would decide."""
    rows: list[Any] = []
    for index, claim in enumerate(claims["claims"]):
        for f in (f for f in findings if f.claim == index):
            comparison, source, judged = f.comparison, f.source, f.judged
            size, decide, where = "no records yet", "runs", MISSING
            if source is not None:
                size, decide = source.label, judged.decide or MISSING
                where = source.folder.replace("EXPERIMENT", comparison["experiment"])
            what, published = comparison["what"], comparison["published"]
            found = (claim["statement"], what, judged.verdict, judged.measured, size, judged.sample)
            rows.append((*found, published, decide, where))
    columns = ["block", "comparison", "verdict", "measured", "size", "from", "published",
               "would decide", "records"]  # fmt: skip
    return Table(
        "The evidence",
        DataFrame(rows, columns=columns),
        notes=(
            RULE.format(margin=claims["margin"]),
            "Records of runs are made by `bash scripts/reproduce.sh EXPERIMENT --preset SIZE`, "
            "those of costs by `bash scripts/benchmark.sh --size SIZE`.",
        ),
    )  # fmt: skip
