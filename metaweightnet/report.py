"""The label-noise experiment's tables and figures, from its run records."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from common.report import (
    INTERVAL_NOTE,
    Group,
    by_place,
    comparisons,
    difference,
    labelled,
    measured,
    metric_number,
    number,
    step_costs,
    written_section,
)
from common.reporting import (
    Published,
    RunRecord,
    Section,
    Table,
    comparison_table,
    published_value,
)
from metaweightnet.config import EXPERIMENT, METHODS
from metaweightnet.figures import draw_figures

Groups = Mapping[tuple[str, str], Group]
"""Data set and noise -> label -> runs."""
_PLAIN, _EXACT = METHODS[EXPERIMENT.baseline].label, METHODS["t1t2_forward"].label
_ALIKE = 0.1
"""Relative weights that differ by less are called equal: both are 1 in plain training."""
_INTRO = """
A classifier learns from images of which many are labelled wrongly. A small network, the weight
net, turns each image's loss into its weight; it is learned from a few clean images.

**Plain training** gives all images the same weight, a **frozen random weight net** never learns,
**sign flipped** learns the opposite of EvoGrad's hypergradient: without a gap to these the
hypergradient has no effect. Accuracy is that on the test images at the last epoch unless said
otherwise. Weights are relative: plain training gives each image 1.
"""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    groups = by_setting(records)
    tables: dict[str, Table] = {}
    if records:
        tables["accuracy"] = accuracy_table(groups, preset)
        tables["differences"] = difference_table(groups)
        tables["weights"] = _weights_table(groups)
    for dataset in dict.fromkeys(dataset for dataset, _ in groups):
        title = f"Label noise: cost of one training step ({dataset})"
        own = [record for record in records if record.config["dataset"] == dataset]
        tables[f"cost-{dataset}"] = step_costs(EXPERIMENT, title, own)
    figures = [f for setting, group in groups.items() for f in draw_figures(setting, group, folder)]
    return written_section(EXPERIMENT, _INTRO, preset, records, tables, figures, folder)


def by_setting(records: Iterable[RunRecord]) -> dict[tuple[str, str], Group]:
    """Runs by data set and noise, and by label."""
    return by_place(EXPERIMENT, records, setting_of)


def setting_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """Data set, and noise with its level, of a run."""
    detail = config["human_labels"] if config["noise"] == "human" else config["noise_level"]
    return config["dataset"], f"{config['noise']} {detail}"


def published_accuracy(config: Mapping[str, Any]) -> Published | None:
    """Table 4's value; None where the paper has none (other noise, other methods)."""
    level, row = str(config["noise_level"]), METHODS[config["method"]].published
    if config["noise"] != "flip" or level not in ("0.0", "0.2", "0.4") or row is None:
        return None
    return published_value(EXPERIMENT.name, config["dataset"], level, row)


def accuracy_table(groups: Groups, preset: str) -> Table:
    """Table 4: published and measured. Planned cells without runs are included if their data set
    and noise has runs, at the paper's size always."""
    planned, judged = EXPERIMENT.planned(preset), preset == "paper"
    everywhere = {setting_of(config.result_settings()) for config in planned} if judged else set()
    places = sorted({*groups, *everywhere})
    return comparison_table(
        "Label noise: test accuracy (%)",
        comparisons(EXPERIMENT, places, groups, planned, setting_of, published_accuracy, judged),
        label_columns=("data", "noise", "method"),
        caption="At the last epoch (the paper's Table 4).",
        notes=(
            "Plain training is compared with the paper's baseline, and T1-T2, however it is "
            "computed, with T1-T2 in the paper's pipeline.",
        ),
    )


def difference_table(groups: Groups) -> Table:
    """Each method's accuracy minus plain training's and minus the exact hypergradient's, seed by
    seed."""
    rows = []
    for setting, group in groups.items():
        runs = labelled(EXPERIMENT, (record for own in group.values() for record in own))
        for name, own in group.items():
            found = (difference(EXPERIMENT, runs, name, other) for other in (_PLAIN, _EXACT))
            cells = (number(measured(values), signed=True) for values in found)
            rows.append((*setting, name, str(len(own)), *cells))
    return Table(
        "Label noise: differences between methods, in points of accuracy",
        pd.DataFrame(
            rows, columns=["data", "noise", "method", "runs", f"− {_PLAIN.lower()}", f"− {_EXACT}"]
        ),
        caption="Mean over seeds of the difference between runs of the same seed, which have the "
        "same data, the same wrong labels and the same start; last epoch.",
        notes=(INTERVAL_NOTE,),
    )


def _equal(runs: Sequence[RunRecord]) -> str:
    """How many of the runs have learned equal weights."""
    learned = [run.final for run in runs if "meta_loss" in run.final]
    alike = [f for f in learned if abs(f["weight_right"] - f["weight_wrong"]) < _ALIKE]
    return f"{len(alike)} of {len(learned)}" if learned else "–"


def _weights_table(groups: Groups) -> Table:
    """Last and best epoch, and whether the weight net has learned anything."""
    columns = {"weight_right": "weight, right labels", "weight_wrong": "weight, wrong labels",
               "moved": "weight net moved"}  # fmt: skip
    rows = tuple(
        (
            *setting,
            name,
            metric_number(runs, "accuracy"),
            metric_number(runs, "accuracy", source="best"),
            *(metric_number(runs, column, digits=3) for column in columns),
            _equal(runs),
        )
        for setting, group in groups.items()
        for name, runs in group.items()
    )
    return Table(
        "Label noise: last and best epoch, and what the weight net has learned",
        pd.DataFrame(
            rows,
            columns=[
                "data",
                "noise",
                "method",
                "last %",
                "best %",
                *columns.values(),
                "equal weights",
            ],
        ),
        caption="Best: the epoch with the highest test accuracy, an oracle choice: it needs test "
        "labels. Weights: relative, mean over the last epoch. Moved: Euclidean distance of the "
        "weight net's parameters from their start. Equal weights: runs in which the net has moved "
        f"and yet weights right and wrong labels alike in the end, to within {_ALIKE:g}.",
        notes=(INTERVAL_NOTE,),
    )
