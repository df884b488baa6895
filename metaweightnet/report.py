"""The label-noise experiment's tables and figures, from its run records."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.reporting import (
    Comparison,
    Figure,
    Measured,
    Number,
    Published,
    RunRecord,
    Section,
    Table,
    collect_metric,
    comparison_table,
    cost_table,
    published_value,
    write_table,
)
from metaweightnet.config import EXPERIMENT, METHODS, Config, planned_runs, variant
from metaweightnet.figures import Group, draw_figures

Setting = tuple[str, str]
"""Data set, and noise with its level."""
Groups = Mapping[Setting, Group]
_PLAIN, _EXACT = METHODS[EXPERIMENT.baseline].label, METHODS["t1t2_forward"].label
_INTRO = """
A classifier learns from images of which many are labelled wrongly. A small network, the weight
net, turns each image's loss into its weight; it is learned from a few clean images.

**Plain training** weights all images alike, a **frozen random weight net** never learns,
**sign flipped** learns the opposite of what EvoGrad says: without a gap to these the
hypergradient has done nothing. Accuracy is that on the test images at the last epoch unless said
otherwise. Weights are relative: 1 is what plain training gives each image.
"""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    groups = by_setting(records)
    tables: dict[str, Table] = {}
    figures: list[Figure] = []
    if records:
        tables["accuracy"] = accuracy_table(groups, preset)
        tables["differences"] = difference_table(groups)
        tables["weights"] = _weights_table(groups)
        for dataset in dict.fromkeys(dataset for dataset, _ in groups):
            tables[f"cost-{dataset}"] = _cost_table(dataset, groups)
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


def by_setting(records: Iterable[RunRecord]) -> dict[Setting, Group]:
    """Data set and noise -> the runs by method and what they do otherwise, in METHODS' order."""
    order = list(METHODS)
    groups: dict[Setting, Group] = {}
    for record in sorted(records, key=lambda r: (order.index(r.method), variant(r.config), r.seed)):
        group = groups.setdefault(setting_of(record.config), {})
        group.setdefault(EXPERIMENT.label(record), []).append(_current(record))
    return dict(sorted(groups.items()))


def setting_of(config: Mapping) -> Setting:
    """Where a run stands in the tables, from its settings."""
    detail = config["human_labels"] if config["noise"] == "human" else config["noise_level"]
    return config["dataset"], f"{config['noise']} {detail}"


def _current(record: RunRecord) -> RunRecord:
    """Older records call the distance that the weight net has moved vnet_distance."""
    rows = [record.final, *record.epochs]
    for row in rows if "vnet_distance" in record.final else ():
        row["moved"] = row.pop("vnet_distance")
    return record


def published_accuracy(setting: Setting, method: str) -> Published | None:
    """Table 4's value; None where the paper has none (other noise, other methods)."""
    dataset, noise = setting
    kind, _, level = noise.partition(" ")
    row = METHODS[method].published
    if kind != "flip" or level not in ("0.0", "0.2", "0.4") or row is None:
        return None
    return published_value(EXPERIMENT.name, dataset, level, row)


def accuracy_table(groups: Groups, preset: str) -> Table:
    """Table 4: published beside measured. Planned cells without runs are included where their
    data set and noise has runs, at the paper's size everywhere."""
    planned: dict[Setting, list[str]] = {}
    for config in planned_runs(preset):
        planned.setdefault(setting_of(config.deciding()), []).append(_label(config))
    methods = {_label(config): config.method for config in planned_runs(preset)}
    rows = []
    for setting in sorted({*groups, *(planned if preset == "paper" else ())}):
        group, names = groups.get(setting, {}), planned.get(setting, [])
        for name in dict.fromkeys([*group, *names]):
            runs = group.get(name, [])
            unchanged = not runs or not variant(runs[0].config)
            method = runs[0].method if runs else methods[name]
            rows.append(
                Comparison(
                    label=(*setting, name),
                    published=published_accuracy(setting, method) if unchanged else None,
                    measured=collect_metric(runs, EXPERIMENT.metric),
                    planned=names.count(name) or None,
                    comparable=preset == "paper",
                )
            )
    return comparison_table(
        "Label noise: test accuracy (%)",
        rows,
        label_columns=("data", "noise", "method"),
        caption="At the last epoch (the paper's Table 4).",
        notes=(
            "Plain training stands beside the paper's baseline, T1-T2 in any way of computing it "
            "beside the paper's T1-T2 in its own pipeline.",
        ),
    )


def _label(config: Config) -> str:
    return ", ".join([METHODS[config.method].label, *variant(config.deciding())])


def difference_table(groups: Groups) -> Table:
    """Each method's accuracy minus plain training's and minus the exact hypergradient's, seed by
    seed."""
    rows = []
    for setting, group in groups.items():
        for name, runs in group.items():
            cells = []
            for reference in (_PLAIN, _EXACT):
                others = group.get(reference, []) if reference != name else []
                found = paired_difference(runs, others)
                cells.append(Number(found.mean, found.ci95, signed=True) if found else "–")
            rows.append((*setting, name, str(len(runs)), *cells))
    return Table(
        "Label noise: differences between methods, in points of accuracy",
        ("data", "noise", "method", "runs", f"− {_PLAIN.lower()}", f"− {_EXACT}"),
        tuple(rows),
        caption="Mean over seeds of the difference between runs of the same seed, which have the "
        "same data, the same wrong labels and the same start; last epoch.",
        notes=(
            "±: half-width of the 95 % confidence interval of the mean difference (Student's t).",
        ),
    )


def paired_difference(runs: Sequence[RunRecord], reference: Sequence[RunRecord]) -> Measured | None:
    """Accuracy minus that of the reference's run of the same seed; None without such pairs."""
    others = {record.seed: record.final[EXPERIMENT.metric] for record in reference}
    pairs = [(r.final[EXPERIMENT.metric], others[r.seed]) for r in runs if r.seed in others]
    return Measured(tuple(own - other for own, other in pairs)) if pairs else None


def _weights_table(groups: Groups) -> Table:
    """Last against best epoch, and whether the weight net has learned anything."""

    def cell(records: list[RunRecord], name: str, digits: int, source: str = "final"):
        if name not in getattr(records[0], source):
            return "–"
        measured = collect_metric(records, name, source)
        return Number(measured.mean, measured.sd, digits)

    columns = {"weight_right": "weight, right labels", "weight_wrong": "weight, wrong labels",
               "moved": "weight net moved"}  # fmt: skip
    rows = tuple(
        (
            *setting,
            name,
            cell(records, "accuracy", 2),
            cell(records, "accuracy", 2, "best"),
            *(cell(records, column, 3) for column in columns),
        )
        for setting, group in groups.items()
        for name, records in group.items()
    )
    return Table(
        "Label noise: last and best epoch, and what the weight net has learned",
        ("data", "noise", "method", "last %", "best %", *columns.values()),
        rows,
        caption="Best: the epoch with the highest test accuracy, an oracle choice: it needs test "
        "labels. Weights: relative, mean over the last epoch. Moved: Euclidean distance of the "
        "weight net's parameters from their start.",
        notes=("±: sample standard deviation over runs.",),
    )


def _cost_table(dataset: str, groups: Groups) -> Table:
    costs: dict[str, list[Mapping]] = {}
    for (name, _), group in groups.items():
        for label, runs in group.items() if name == dataset else ():
            costs.setdefault(label, []).extend(run.cost for run in runs)
    return cost_table(
        f"Label noise: cost of one training step ({dataset})",
        costs,
        _PLAIN,
        caption="Base step and meta step together. Peak: memory beyond what was in use before the "
        "step.",
        notes=("Measured while other runs may have shared the machine: compare ratios.",),
    )
