"""The cross-lingual experiment's tables and figures, from its run records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.ticker import MaxNLocator

from common.report import (
    Group,
    as_planned,
    by_label,
    by_place,
    comparisons,
    difference,
    interval_table,
    labelled,
    measured,
    metric_number,
    number,
    panels,
    step_costs,
    table_of_runs,
    written_section,
)
from common.reporting import (
    Cell,
    Figure,
    Published,
    RunRecord,
    Section,
    Table,
    comparison_table,
    draw_runs,
    figure_style,
    legend_below,
    metric_against_seconds,
    new_figure,
    published_value,
    save_figure,
    series_styles,
)
from common.reporting.frame import seed_means
from metaxl.config import EXPERIMENT, PAPER_TARGETS

METHODS = EXPERIMENT.methods
Setting = tuple[str, str, str]
"""Data set, source and target language."""
Groups = Mapping[Setting, Group]
TITLES = {
    "wikiann": "WikiAnn",
    "embedded": "embedded corpus",
    "masakhaner": "MasakhaNER",
    "conll": "CoNLL files",
}
_REFERENCES = {
    "joint_training": "− joint training",
    "joint_half": "− joint training on halves",
    "decay_only": "− decay only",
}
_INTRO = """
A tagger learns named entities from many sentences of a source language and 100 of a target
language. A transformation network changes the source's representations; it is learned from half
of each batch of target sentences, by EvoGrad or by **T1-T2**, the exact hypergradient of one
unrolled training step. **Joint training** trains on both languages without it. **Joint training on
halves** trains as the methods with a transformation network do, on the other half of each target
batch, without the network: what a method gains over it is the network's. **Decay only** moves the
network by its weight decay alone. **Target only** leaves the source out. F1 is entity-level, on
test sentences of the target language, in percent.
"""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    groups = by_setting(records)
    tables: dict[str, Table] = {}
    if preset == "paper" or any(dataset == "wikiann" for dataset, *_ in groups):
        tables["table5"] = published_table(groups, preset)
    for dataset, source in dict.fromkeys((d, s) for d, s, _ in groups):
        if dataset != "wikiann":
            tables[f"f1-{dataset}-{source}"] = language_table(groups, dataset, source)
    if records:
        tables["summary"] = gains_table(records, planned=True)
        tables["gains"] = gains_table(records)
        tables["details"] = details_table(groups)
        tables["decay"] = decay_table(records)
        tables["cost"] = step_costs(
            EXPERIMENT,
            "Cross-lingual: cost of one training step",
            records,
            "{dataset}, {source} to {target}".format_map,
        )
    figures = [f for setting, group in groups.items() for f in _figures(setting, group, folder)]
    return written_section(EXPERIMENT, _INTRO, preset, records, tables, figures, folder)


def setting_of(config: Mapping[str, Any]) -> Setting:
    """Data set, source and target language of a run."""
    return config["dataset"], config["source"], config["target"]


def by_setting(records: Sequence[RunRecord]) -> Groups:
    """Runs by data set, source and target language, and by label."""
    return by_place(EXPERIMENT, records, setting_of)


def published_f1(config: Mapping[str, Any]) -> Published | None:
    """Table 5's value; None where the paper has none."""
    row = METHODS[config["method"]].published
    return published_value(EXPERIMENT.name, row, config["target"]) if row else None


def published_table(groups: Groups, preset: str) -> Table:
    """Table 5: published and measured, on WikiAnn from English."""
    rows = comparisons(
        EXPERIMENT,
        [(target,) for target in PAPER_TARGETS],
        {(t,): group for (d, s, t), group in groups.items() if (d, s) == ("wikiann", "en")},
        [config for config in EXPERIMENT.planned(preset) if config.dataset == "wikiann"],
        lambda config: (config["target"],),
        published_f1,
    )
    return comparison_table(
        "WikiAnn: target F1 (%)",
        rows,
        ("target", "method"),
        "The paper's Table 5, at the epoch with the best dev F1. The paper has one run for each "
        "language.",
        preset == "paper",
    )


def language_table(groups: Groups, dataset: str, source: str) -> Table:
    """F1 by method and target language."""
    chosen = {t: group for (d, s, t), group in groups.items() if (d, s) == (dataset, source)}
    rows = []
    for name in dict.fromkeys(name for group in chosen.values() for name in group):
        runs = [group.get(name, []) for group in chosen.values()]
        cells = (metric_number(own, EXPERIMENT.metric) for own in runs)
        rows.append((name, *cells, str(sum(map(len, runs)))))
    title = TITLES[dataset]
    return interval_table(
        f"{title[0].upper()}{title[1:]}: target F1 (%), from {source}",
        ("method", *chosen, "runs"),
        rows,
        "At the epoch with the best dev F1.",
        f"Data: {title}, not the paper's, so not comparable with its numbers.",
    )


def gains_table(records: Sequence[RunRecord], planned: bool = False) -> Table:
    """Differences in F1 from three references, over seeds. planned: no other settings."""
    runs, groups, rows = labelled(EXPERIMENT, records), by_label(EXPERIMENT, records), []
    for name, own in (as_planned(EXPERIMENT, groups) if planned else groups).items():
        cells = []
        for reference in _REFERENCES:
            label = METHODS[reference].label
            gains = difference(EXPERIMENT, runs, name, label, *EXPERIMENT.axes).reset_index()
            cells.append(number(measured(seed_means(gains)["mean"]), signed=True))
        rows.append((name, *cells, str(len({setting_of(run.config) for run in own}))))
    return interval_table(
        "Cross-lingual: differences in target F1 (points)",
        ("method", *_REFERENCES.values(), "targets"),
        rows,
        "Method minus reference on the same seeds and target languages: for each seed the mean "
        "over target languages, of seeds that have them all.",
    )


def details_table(groups: Groups) -> Table:
    """Best dev against last epoch, F1 by type, the source language, the network's movement."""
    prefix = f"{EXPERIMENT.metric}_"
    finals = [runs[0].final for group in groups.values() for runs in group.values()]
    kinds = sorted({m.removeprefix(prefix) for f in finals for m in f if m.startswith(prefix)})

    def final(metric: str, digits: int = 1) -> Callable[[Group, str], Cell]:
        return lambda group, name: metric_number(group[name], metric, digits)

    return table_of_runs(
        "Cross-lingual: best dev epoch, entity types, last epoch",
        ("data",),
        {(f"{TITLES[d]}, {s} to {t}",): group for (d, s, t), group in groups.items()},
        {
            "F1": final(EXPERIMENT.metric),
            **{kind: final(prefix + kind) for kind in kinds},
            "F1, last epoch": final("test_f1"),
            "source dev F1": final("source_dev_f1"),
            "network moved": final("moved", 2),
        },
        "F1 and its parts by type: target test sentences at the epoch with the best dev F1. "
        "Source dev F1: at the last epoch, through the transformation network. Moved: Euclidean "
        "distance of the transformation network's parameters from their start.",
    )


def decay_table(records: Sequence[RunRecord]) -> Table:
    """What moves the transformation network: the hypergradient or the weight decay."""
    moved = [record for record in records if "moved" in record.final]
    rows = []
    for (dataset,), group in by_place(EXPERIMENT, moved, lambda run: (run["dataset"],)).items():
        for name, runs in group.items():
            # Decay alone has no hypergradient.
            norms = [median(run.traces.get("hypergradient_norm", [0.0])) for run in runs]
            decays = [median(run.traces["decay_norm"]) for run in runs]
            ratios = [norm / decay for norm, decay in zip(norms, decays, strict=True)]
            medians = (f"{median(values):.1e}" for values in (norms, decays, ratios))
            ends = (("norm_ratio", 3), ("decay_cosine", 4))
            numbers = (metric_number(runs, metric, digits) for metric, digits in ends)
            rows.append((TITLES[dataset], name, *medians, *numbers, str(len(runs))))
    return interval_table(
        "Cross-lingual: what moves the transformation network",
        ("data", "method", "hypergradient", "weight decay", "ratio", "norm, end / start",
         "cosine to decay", "runs"),
        rows,
        "Hypergradient and weight decay: Euclidean norms of the two terms that coupled decay adds, "
        "the median over the logged steps of a run, and of these over runs. Norm: of the network's "
        "parameters. Cosine: between the network's movement from its start and its movement by "
        "coupled weight decay alone.",
        "Runs of all target languages together.",
    )  # fmt: skip


def _figures(setting: Setting, group: Group, folder: Path) -> Iterator[Figure]:
    """The figures of one target language, into ``folder``."""
    dataset, source, target = setting
    where, ending = f"{source} to {target}, {dataset}", "-".join(setting)
    if planned := as_planned(EXPERIMENT, group):
        compared = as_planned(EXPERIMENT, group, "estimator.num_candidates")
        stem, label = f"seconds-{ending}", "target test F1 (%)"
        yield _curves_figure(f"f1-{ending}", planned, where, folder)
        yield metric_against_seconds(compared, "test_f1", label, folder, stem, where)
    transformed = {n: runs for n, runs in group.items() if "pca_source_after_x" in runs[0].curves}
    if transformed:
        yield _representations_figure(f"representations-{ending}", transformed, where, folder)


def _curves_figure(stem: str, group: Group, where: str, folder: Path) -> Figure:
    """Dev and test F1 by epoch, a style per method."""
    metrics = {"dev_f1": "target dev F1 (%)", "test_f1": "target test F1 (%)"}
    with figure_style():
        fig, axes = new_figure(columns=2, sharey=True)
        for axis, (metric, label) in zip(axes, metrics.items(), strict=True):
            for style, (name, runs) in zip(series_styles(len(group)), group.items(), strict=True):
                draw_runs(axis, runs, metric, style, name)
            axis.set(xlabel="epoch", ylabel=label)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(fig, axes[0])
        alt = (
            f"F1 on dev and test sentences of the target language by epoch ({where}), one line "
            f"for each of {', '.join(group)}."
        )
        caption = (
            f"Learning curves ({where}): every run (thin), and their median. Runs with other "
            "settings than the planned ones are in the tables."
        )
        return save_figure(fig, folder, stem, alt, caption)


def _representations_figure(stem: str, group: Group, where: str, folder: Path) -> Figure:
    """Source words before and after the transformation, and target words, a panel per method."""
    dark, light = ({k: style[k] for k in ("color", "marker")} for style in series_styles(2))
    shown = {
        "source_before": ("source, before", {"color": "#EE99AA", "marker": "o"}),
        "source_after": ("source, after", dark),
        "target": ("target", light),
    }
    ways = {name: runs[0].curves["centroid_distance"] for name, runs in group.items()}
    titles = [f"{name}: {before:.2f} to {after:.2f}" for name, (before, after) in ways.items()]
    with figure_style():
        fig, axes = panels(titles)
        for axis, runs in zip(axes, group.values(), strict=True):
            curves = runs[0].curves
            for name, (label, style) in shown.items():
                points = curves[f"pca_{name}_x"], curves[f"pca_{name}_y"]
                axis.scatter(*points, s=4, linewidths=0, alpha=0.8, label=label, **style)
            axis.set(xlabel="component 1", ylabel="component 2")
            axis.tick_params(labelbottom=False, labelleft=False)
            axis.label_outer()
        legend_below(fig, axes[0], markerscale=2)
        alt = (
            "Words of source and target language in the plane of the first two principal "
            f"components ({where}), before and after the transformation network, in a panel for "
            f"each of {', '.join(group)}."
        )
        caption = (
            "What the classifier sees of source and target words, before and after the "
            f"transformation of the source ({where}, seed {next(iter(group.values()))[0].seed}): "
            "first two principal components of all points of a panel, each with its own. Numbers: "
            "distance between the means of source and target, in units of the target's spread, "
            "before and after."
        )
        return save_figure(fig, folder, stem, alt, caption)
