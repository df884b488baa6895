"""The cross-lingual experiment's tables and figures, from its run records."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median

from common.reporting import (
    Comparison,
    Figure,
    Measured,
    Number,
    RunRecord,
    Section,
    Table,
    collect_metric,
    comparison_table,
    cost_table,
    published_value,
    write_table,
)
from metaxl.config import EXPERIMENT, METHODS, PAPER_TARGETS, planned_runs, variant
from metaxl.figures import Groups, draw_figures

TITLES = {
    "wikiann": "WikiAnn",
    "embedded": "embedded corpus",
    "masakhaner": "MasakhaNER",
    "conll": "CoNLL files",
}
_MISSING = "–"
_REFERENCES = {
    "joint_training": "− joint training",
    "joint_half": "− joint training on halves",
    "decay_only": "− decay only",
}
_INTRO = """
A tagger learns named entities from many sentences of a source language and 100 of a target
language. A transformation network changes the source's representations; it is learned from half
of each batch of target sentences. **Joint training** takes both languages as they are. **Joint
training on halves** trains as the methods with a transformation network do, on the other half of
each target batch, without the network: what a method gains over it is the network's. **Decay only**
moves the network by its weight decay alone. **Target only** leaves the source out.
F1 is entity-level, on test sentences of the target language, in percent.
"""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    groups = by_setting(records)
    tables: dict[str, Table] = {}
    figures: list[Figure] = []
    if preset == "paper" or any(dataset == "wikiann" for dataset, *_ in groups):
        tables["table5"] = published_table(groups, preset)
    for dataset, source in dict.fromkeys((d, s) for d, s, _ in groups):
        if dataset != "wikiann":
            tables[f"f1-{dataset}-{source}"] = language_table(groups, dataset, source)
    if records:
        tables["gains"] = gains_table(groups)
        tables["details"] = details_table(groups)
        tables["decay"] = decay_table(groups)
        tables["cost"] = cost_table(
            "Cross-lingual: cost of one training step",
            {name: [r.cost for r in runs] for name, runs in by_label(records).items()},
            METHODS[EXPERIMENT.baseline].label,
            caption="Base step and meta step together. Peak: memory beyond what was in use before "
            "the step.",
            notes=("Bytes are exact. Runs may have shared the machine: times are not comparable.",),
        )
    for stem, table in tables.items():
        write_table(table, folder, stem)
    for setting, group in groups.items():
        figures += draw_figures(setting, group, folder)
    return Section(
        title=EXPERIMENT.title,
        intro=_INTRO,
        tables=tuple(tables.values()),
        figures=tuple(figures),
        runs=len(records),
        planned_runs=len(planned_runs(preset)),
    )


def by_setting(records: Sequence[RunRecord]) -> Groups:
    """(data set, source, target) -> method's label -> its runs."""
    settings = sorted({tuple(r.config[axis] for axis in EXPERIMENT.axes) for r in records})
    return {
        setting: by_label(
            r for r in records if tuple(r.config[axis] for axis in EXPERIMENT.axes) == setting
        )
        for setting in settings
    }


def by_label(records: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Method's label -> its runs by seed, in the order of ``METHODS``."""
    order = list(METHODS)
    found: dict[str, list[RunRecord]] = {}
    for record in sorted(records, key=lambda r: (order.index(r.method), variant(r.config), r.seed)):
        found.setdefault(EXPERIMENT.label(record), []).append(record)
    return found


def published_table(groups: Groups, preset: str) -> Table:
    """Table 5: published beside measured, on WikiAnn from English."""
    planned = [(c.target, c.method) for c in planned_runs(preset) if c.dataset == "wikiann"]
    methods = {method.label: name for name, method in METHODS.items()}
    rows = []
    for target in PAPER_TARGETS:
        group = groups.get(("wikiann", "en", target), {})
        missing = [METHODS[method].label for t, method in planned if t == target]
        for label in dict.fromkeys([*group, *missing]):
            method = methods.get(label, "")
            row = METHODS[method].published if method else None
            rows.append(
                Comparison(
                    label=(target, label),
                    published=row and published_value("metaxl", row, target),
                    measured=collect_metric(group.get(label, []), EXPERIMENT.metric),
                    planned=planned.count((target, method)) or None,
                    comparable=preset == "paper",
                )
            )
    return comparison_table(
        "WikiAnn: target F1 (%)",
        rows,
        label_columns=("target", "method"),
        caption="The paper's Table 5, at the epoch with the best dev F1. The paper has one run for "
        "each language.",
    )


def language_table(groups: Groups, dataset: str, source: str) -> Table:
    """F1 by method and target language."""
    chosen = {t: group for (d, s, t), group in groups.items() if (d, s) == (dataset, source)}
    rows = []
    for name in dict.fromkeys(name for group in chosen.values() for name in group):
        cells = [collect_metric(g.get(name, []), EXPERIMENT.metric) for g in chosen.values()]
        runs = sum(len(group.get(name, [])) for group in chosen.values())
        rows.append((name, *map(_interval, cells), str(runs)))
    return Table(
        f"{TITLES[dataset][0].upper()}{TITLES[dataset][1:]}: target F1 (%), from {source}",
        ("method", *chosen, "runs"),
        tuple(rows),
        caption="At the epoch with the best dev F1.",
        notes=(
            "±: half-width of the 95 % confidence interval over seeds, by Student's t.",
            f"On the {TITLES[dataset]}, not the paper's data: not to be set beside its numbers.",
        ),
    )


def gains_table(groups: Groups) -> Table:
    """Differences in F1 from three references, over target languages."""
    rows = []
    for name in by_label(r for group in groups.values() for runs in group.values() for r in runs):
        cells = []
        for reference in _REFERENCES:
            label = METHODS[reference].label
            gains = [_gain(group.get(name, []), group.get(label, [])) for group in groups.values()]
            found = tuple(gain for gain in gains if gain is not None)
            cells.append(_interval(Measured(found), True) if found and name != label else _MISSING)
        rows.append((name, *cells, str(sum(name in group for group in groups.values()))))
    return Table(
        "Cross-lingual: differences in target F1 (points)",
        ("method", *_REFERENCES.values(), "targets"),
        tuple(rows),
        caption="Method minus reference, seed by seed: the mean over the seeds that both have, for "
        "each target language, and the mean of these over target languages.",
        notes=("±: half-width of the 95 % confidence interval over targets, by Student's t.",),
    )


def _gain(runs: Sequence[RunRecord], reference: Sequence[RunRecord]) -> float | None:
    """Mean difference in F1 over shared seeds; None without any."""
    own, other = ({r.seed: r.final[EXPERIMENT.metric] for r in rs} for rs in (runs, reference))
    differences = [own[seed] - other[seed] for seed in own.keys() & other.keys()]
    return fmean(differences) if differences else None


def _interval(measured: Measured | None, signed: bool = False) -> Number | str:
    if measured is None:
        return _MISSING
    return Number(measured.mean, measured.ci95, signed=signed)


def details_table(groups: Groups) -> Table:
    """Best dev against last epoch, F1 by type, the source language, the network's movement."""
    kinds = sorted(
        {
            metric.removeprefix("selected_f1_")
            for group in groups.values()
            for runs in group.values()
            for metric in runs[0].final
            if metric.startswith("selected_f1_")
        }
    )

    def cell(runs: list[RunRecord], metric: str, digits: int = 1) -> Number | str:
        if metric not in runs[0].final:
            return _MISSING
        measured = collect_metric(runs, metric)
        return Number(measured.mean, measured.sd, digits)

    rows = tuple(
        (
            f"{TITLES[dataset]}, {source} to {target}",
            name,
            cell(runs, "selected_f1"),
            *(cell(runs, f"selected_f1_{kind}") for kind in kinds),
            cell(runs, "test_f1"),
            cell(runs, "source_dev_f1"),
            cell(runs, "moved", 2),
        )
        for (dataset, source, target), group in groups.items()
        for name, runs in group.items()
    )
    return Table(
        "Cross-lingual: best dev epoch, entity types, last epoch",
        ("data", "method", "F1", *kinds, "F1, last epoch", "source dev F1", "network moved"),
        rows,
        caption="F1 and its parts by type: target test sentences at the epoch with the best dev "
        "F1. Source dev F1: at the last epoch, through the transformation network. Moved: "
        "Euclidean distance of the transformation network's parameters from their start.",
        notes=("±: sample standard deviation over runs.",),
    )


def decay_table(groups: Groups) -> Table:
    """What moves the transformation network: the hypergradient beside the weight decay."""
    moved = [
        (dataset, run)
        for (dataset, *_), group in groups.items()
        for runs in group.values()
        for run in runs
        if "moved" in run.final
    ]
    pooled = {
        (dataset, name): runs
        for dataset in dict.fromkeys(dataset for dataset, _ in moved)
        for name, runs in by_label(run for d, run in moved if d == dataset).items()
    }
    rows = []
    for (dataset, name), runs in pooled.items():
        # Decay alone has no hypergradient.
        hypergradient = [median(run.traces.get("hypergradient_norm", [0.0])) for run in runs]
        decay = [median(run.traces["decay_norm"]) for run in runs]
        ratios = [h / d for h, d in zip(hypergradient, decay, strict=True)]
        ends = [Measured(tuple(r.final[m] for r in runs))
                for m in ("norm_ratio", "decay_cosine")]  # fmt: skip
        rows.append(
            (
                TITLES[dataset],
                name,
                *(f"{median(values):.1e}" for values in (hypergradient, decay, ratios)),
                *(
                    Number(end.mean, end.sd, digits)
                    for end, digits in zip(ends, (3, 4), strict=True)
                ),
                str(len(runs)),
            )
        )
    return Table(
        "Cross-lingual: what moves the transformation network",
        ("data", "method", "hypergradient", "weight decay", "ratio", "norm, end / start",
         "cosine to decay", "runs"),
        tuple(rows),
        caption="Hypergradient and weight decay: Euclidean norms of the two terms that coupled "
        "decay adds, the median over the logged steps of a run, and of these over runs. Norm: of "
        "the network's parameters. Cosine: between the network's way from its start and the way "
        "that its coupled weight decay alone would have taken it.",
        notes=("±: sample standard deviation over runs, of all target languages.",),
    )  # fmt: skip
