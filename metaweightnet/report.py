"""The label-noise experiment's tables and figures, from its run records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.reporting import (
    Comparison,
    Figure,
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
from metaweightnet.config import planned_runs, variant
from metaweightnet.figures import NAMES, T1T2, Group, draw_figures

_PUBLISHED = {"plain": "baseline_copied", "evograd": "evograd"} | dict.fromkeys(T1T2, "t1t2")
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
    tables: list[Table] = []
    figures: list[Figure] = []
    if records:
        costs: dict[str, list[Any]] = {}
        for group in groups.values():
            for name, runs in group.items():
                costs.setdefault(name, []).extend(run.cost for run in runs)
        tables = [
            accuracy_table(groups, preset),
            _weights_table(groups),
            cost_table(
                "Label noise: cost of one training step",
                costs,
                NAMES["plain"],
                caption="Base step and meta step together. Peak: memory beyond what was in use "
                "before the step.",
                notes=("Measured while other runs may have shared the machine: compare ratios.",),
            ),
        ]
        for table, stem in zip(tables, ("accuracy", "weights", "cost"), strict=True):
            write_table(table, folder, stem)
        for setting, group in groups.items():
            figures += draw_figures(setting, group, folder)
    return Section(
        title="Label noise (Meta-Weight-Net)",
        intro=_INTRO,
        tables=tuple(tables),
        figures=tuple(figures),
        runs=len(records),
        planned_runs=len(planned_runs(preset)),
    )


def by_setting(records: Sequence[RunRecord]) -> dict[tuple[str, str], Group]:
    """(data set, noise and level) -> the runs by method, in the order of ``NAMES``."""
    order = list(NAMES)
    groups: dict[tuple[str, str], Group] = {}
    for record in sorted(records, key=lambda r: (order.index(r.method), variant(r.config), r.seed)):
        config = record.config
        detail = config["human_labels"] if config["noise"] == "human" else config["noise_level"]
        setting = config["dataset"], f"{config['noise']} {detail}"
        name = ", ".join([NAMES[record.method], *variant(config)])
        groups.setdefault(setting, {}).setdefault(name, []).append(record)
    return dict(sorted(groups.items()))


def published_accuracy(setting: tuple[str, str], name: str) -> Published | None:
    """Table 4's value; None where the paper has none (other noise, other methods)."""
    method = next((method for method, title in NAMES.items() if title == name), None)
    dataset, noise = setting
    kind, _, level = noise.partition(" ")
    if kind != "flip" or level not in ("0.0", "0.2", "0.4") or method not in _PUBLISHED:
        return None
    return published_value("metaweightnet", dataset, level, _PUBLISHED[method])


def accuracy_table(groups: Mapping[tuple[str, str], Group], preset: str) -> Table:
    """Table 4: published beside measured, planned cells without runs included."""
    planned = [
        (config.dataset, f"{config.noise} {config.noise_level}", NAMES[config.method])
        for config in planned_runs(preset)
    ]
    rows = []
    for setting in sorted({*groups, *((dataset, noise) for dataset, noise, _ in planned)}):
        group = groups.get(setting, {})
        missing = [name for *where, name in planned if tuple(where) == setting]
        for name in dict.fromkeys([*group, *missing]):
            rows.append(
                Comparison(
                    label=(*setting, name),
                    published=published_accuracy(setting, name),
                    measured=collect_metric(group.get(name, []), "accuracy"),
                    planned=planned.count((*setting, name)) or None,
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


def _weights_table(groups: Mapping[tuple[str, str], Group]) -> Table:
    """Last against best epoch, and whether the weight net has learned anything."""

    def cell(records: list[RunRecord], name: str, digits: int, source: str = "final"):
        if name not in getattr(records[0], source):
            return "–"
        measured = collect_metric(records, name, source)
        return Number(measured.mean, measured.sd, digits)

    rows = tuple(
        (
            *setting,
            name,
            cell(records, "accuracy", 2),
            cell(records, "accuracy", 2, "best"),
            cell(records, "weight_right", 3),
            cell(records, "weight_wrong", 3),
            cell(records, "vnet_distance", 3),
        )
        for setting, group in groups.items()
        for name, records in group.items()
    )
    return Table(
        "Label noise: last and best epoch, and what the weight net has learned",
        (
            "data",
            "noise",
            "method",
            "last %",
            "best %",
            "weight, right labels",
            "weight, wrong labels",
            "weight net moved",
        ),
        rows,
        caption="Best: the epoch with the highest test accuracy, which nobody knows who has no "
        "test labels. Weights: relative, mean over the last epoch. Moved: Euclidean distance of "
        "the weight net's parameters from their start.",
        notes=("±: sample standard deviation over runs.",),
    )
