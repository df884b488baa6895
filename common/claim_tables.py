"""The claims as tables and as rows of the forest plot; the paper's figures and tables, one by one.

``paper_table`` needs the records of the toy experiment and of the claims' comparisons only.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame

from common.claim_evidence import Contrast, Finding, Half, Kept
from common.claims import RULE, Judged
from common.reporting import MISSING, Number, Section, Table, published, write_tables
from common.reporting.forest import ForestRow

_INTRO = """
Does EvoGrad work, and what does it cost? Each claim of the paper, judged on the runs that the
project ships.
"""


def section(judged: Sequence[Judged], folder: Path) -> Section:
    """The claims; their table is written into ``folder`` too."""
    tables = {"claims": claims_table(judged)}
    write_tables(tables, folder)
    return Section("Claims of the paper", _INTRO, tables, folder=folder)


def sentence(judged: Sequence[Judged]) -> str:
    """How many claims have which verdict."""
    verdicts = [j.verdict for j in judged]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts)))
    return f"Of the paper's {len(verdicts)} claims: {counts}."


_WAYS = (", as released", ", here")


def summary_table(judged: Sequence[Judged]) -> Table:
    """Four short columns; a claim judged as released and here has one row."""
    found: dict[str, dict[str, Judged]] = {}
    for j in judged:
        way = next((w for w in _WAYS if j.claim.statement.endswith(w)), "")
        found.setdefault(j.claim.statement.removesuffix(way), {})[way.removeprefix(", ")] = j

    def each(ways: Mapping[str, Judged], text: Callable[[Judged], str]) -> str:
        texts = {way: text(j) for way, j in ways.items()}
        if len({*texts.values()}) == 1:
            return next(iter(texts.values()))
        return "; ".join(f"{way.split()[-1]}: {text}" for way, text in texts.items())

    def parts(j: Judged, text: Callable[[Finding], str]) -> str:
        return "; ".join(dict.fromkeys(filter(None, map(text, j.primary)))) or MISSING

    rows = [
        (
            claim.replace(": EvoGrad is ", ": ").replace(": EvoGrad ", ": "),
            each(ways, lambda j: j.word),
            each(ways, lambda j: parts(j, _published)),
            each(ways, lambda j: parts(j, _here)),
        )
        for claim, ways in found.items()
    ]
    return Table(
        "",
        DataFrame(rows, columns=["EvoGrad ...", "verdict", "paper", "here"]),
        caption="Differences in points, ± half the 95 % interval; costs: T1-T2 / EvoGrad, time and "
        "memory.",
    )


def _published(finding: Finding) -> str:
    return _short(finding, finding.published or "")


def _here(finding: Finding) -> str:
    found = finding.difference
    return _short(finding, (found.mean, found.ci95) if found else finding.measured)


def _short(finding: Finding, value: Half | str) -> str:
    if isinstance(value, str):
        return value
    return str(Number(*value, digits=1, signed=not finding.unit)).replace(" ", "") + finding.unit


def claims_table(judged: Sequence[Judged]) -> Table:
    """A row per claim: verdict, primary comparison, published, evidence elsewhere; the rule."""
    rows = []
    for j in judged:
        stated = "; ".join(filter(None, map(_published, j.primary))) or "a figure"
        p = f" (p = {j.p:.1g})" if j.p is not None and j.verdict != "open" else ""
        known = [f for f in j.elsewhere if f.measured != Finding.measured]
        rows.append(
            (
                j.claim.statement,
                j.word + p,
                "; ".join(map(_line, j.primary)),
                f"{j.claim.where}: {stated}",
                "; ".join(_line(f, f in j.against) for f in known) or MISSING,
            )
        )
    columns = ["claim", "verdict", "primary comparison", "published", "elsewhere"]
    frozen = max(j.claim.frozen for j in judged)
    dates = f"Primary comparisons and seeds: frozen on {frozen:%Y-%m-%d}."
    return Table("The paper's claims", DataFrame(rows, columns=columns), notes=(dates, *RULE))


def _line(finding: Finding, marked: bool = False) -> str:
    word = f": {finding.word}" if finding.word not in ("", "open") else ""
    how = f", {finding.how}" if finding.how else ""
    return f"{finding.what}: {finding.measured}{how}{word}{' (disagrees)' if marked else ''}"


def forest_rows(
    judged: Sequence[Judged], own: Kept | None = None, preset: str = ""
) -> list[ForestRow]:
    """A row for every difference between methods behind a claim; with own runs of a preset, theirs
    follow."""
    rows, mine = [], []
    for j in judged:
        for part, found in zip(j.claim.primary, j.primary, strict=True):
            if not isinstance(part, Contrast) or part.against is None:
                continue
            here = found.difference
            measured = (here.mean, here.ci95) if here else (None, None)
            stated = found.published if isinstance(found.published, tuple) else (None, None)
            if here or found.published:
                rows.append(ForestRow(part.title, *measured, *stated, j.verdict))
            if own and (theirs := part.own(own, preset)):
                mine.append(ForestRow(part.title, theirs.mean, theirs.ci95, own=True))
    return [*rows, *mine]


# --- the paper, figure by figure


def paper_tables(judged: Sequence[Judged], kept: Kept) -> dict[str, Table]:
    """A row for each figure and table of the paper; the values of its Tables 3 and 5."""
    by_where: dict[str, list[Finding]] = {}
    for j in judged:
        by_where.setdefault(j.claim.where, []).extend(j.primary)
    toy = kept.runs["toy_1d", "paper"][0].final
    trend = ", ".join(f"{toy[f'correlation_{k}']:.2f}" for k in (2, 10, 100))
    few, noise, lingual = (
        published(e) for e in ("cross_domain_fewshot", "metaweightnet", "metaxl")
    )
    costs = {
        "Figure 3": [few["cost_figure"][s] for s in ("1shot", "5shot")],
        "Figure 4": [noise["cost_figure"][d] for d in ("cifar10", "cifar100")],
        "Figure 6": [{m: lingual["cost_figure"][m] for m in ("evograd", "t1t2")}],
    }
    scaling = noise["scaling_figure_digitised"]
    rotation = published("rotation")["values"]["evograd"]
    cifar = noise["values"]["cifar10"]

    def measured(where: str) -> str:
        return "; ".join(_line(f) for f in by_where.get(where, ()))

    def cost(where: str) -> str:
        return "; ".join(
            f"EvoGrad {c['evograd']['memory_gb']} GB, T1-T2 {c['t1t2']['memory_gb']} GB; "
            + " and ".join(f"{next(v for k, v in c[m].items() if k != 'memory_gb'):,.0f} s"
                           for m in ("evograd", "t1t2"))
            for c in costs[where]
        )  # fmt: skip

    def size(where: str) -> str:
        """Whether what is measured is of the paper's size."""
        known = (f for f in by_where[where] if f.measured != Finding.measured)
        found = {f.at_paper or "the paper's" in f.how for f in known}
        return "in part" if len(found) > 1 else "yes" if True in found else "no: small"

    rows = [
        ("Figure 1", "a drawing of one update, no numbers", MISSING, MISSING, MISSING),
        ("Figure 2", "the trend is right with 2 candidates, noise falls with 10 and 100",
         f"correlation with the exact one, K = 2, 10, 100: {trend}", "yes", "results/toy_1d/paper"),
        ("Figure 3", cost("Figure 3"), measured("Figure 3"), size("Figure 3"),
         "results/benchmark/paper/figure-3.png"),
        ("Figure 4", cost("Figure 4"), measured("Figure 4"), size("Figure 4"),
         "results/benchmark/paper/figure-4.png"),
        ("Figure 5", "GB by width, EvoGrad: " + ", ".join(map(str, scaling["memory_gb"]["evograd"]))
         + "; T1-T2: " + ", ".join(map(str, scaling["memory_gb"]["t1t2"])),
         measured("Figure 5"), size("Figure 5"), "results/benchmark/paper/figure-5.png"),
        ("Figure 6", cost("Figure 6"), measured("Figure 6"), size("Figure 6"),
         "results/benchmark/paper/figure-6.png"),
        ("Table 1", "no numbers that this project has", MISSING, MISSING, MISSING),
        ("Table 2", "time O(PH) and O(KP + H), memory O(P + H)", measured("Table 2"), "yes",
         "results/benchmark/small"),
        ("section 4.2",
         f"rotated {rotation['rotated'][0]} %, angle {rotation['angle_degrees'][0]}°",
         measured("section 4.2"), "yes", "results/rotation/paper"),
        ("Table 3", "below", measured("Table 3"), size("Table 3"),
         "results/cross_domain_fewshot/study"),
        ("Table 4", "; ".join(
            f"{name} " + ", ".join(str(cifar[level][m][0]) for level in cifar)
            for name, m in (("CIFAR-10 with 0, 20, 40 %: EvoGrad", "evograd"), ("T1-T2", "t1t2"),
                            ("quoted baseline", "baseline_copied"))),
         measured("Table 4"), size("Table 4"), "results/metaweightnet/study"),
        ("Table 5", "below", measured("Table 5"), size("Table 5"), "results/metaxl/study"),
    ]  # fmt: skip
    columns = ["in the paper", "published", "here", "same size", "where"]
    tables = {"paper": Table("The paper, figure by figure", DataFrame(rows, columns=columns))}
    tables["table-3"] = _table_3(few["values"])
    tables["table-5"] = _table_5(lingual["values"])
    return tables


def _table_3(values: Mapping[str, Any]) -> Table:
    rows = [
        {"block": f"{shots[0]}-shot, {backbone.replace('resnet', 'ResNet-')}", "method": method}
        | {domain: Number(*value) for domain, value in cells.items()}
        for shots, backbones in values.items()
        for backbone, methods in backbones.items()
        for method, cells in methods.items()
    ]
    return Table(
        "The paper's Table 3", DataFrame(rows),
        caption="Accuracy (%), ± half the 95 % interval over test episodes. _copied: quoted by the "
        "paper from another.",
    )  # fmt: skip


def _table_5(values: Mapping[str, Any]) -> Table:
    rows = [
        {"method": method} | {language: Number(value) for language, value in cells.items()}
        for method, cells in values.items()
    ]
    caption = "F1 (%), one run per language. _copied: quoted by the paper from another."
    return Table("The paper's Table 5", DataFrame(rows), caption=caption)
