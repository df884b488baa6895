"""The rotation experiment's tables and figures, from its run records."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.errors import UserError
from common.reporting import (
    Comparison,
    Figure,
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
from rotation.config import EXPERIMENT, METHODS, PRESETS, planned_runs, variant
from rotation.figures import angle_figure, digits_figure

_METRICS = {"rotated": "rotated %", "standard": "upright %", "angle_degrees": "angle °"}
_INTRO = """
LeNet learns from upright digits that a layer turns by a learned angle; the angle is learned from
validation digits that are rotated by 30°. **rotated**: accuracy on test digits rotated by 30°.
**upright**: on the same test digits turned back. **angle**: what was learned. Last epoch
throughout.
"""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    by_method = EXPERIMENT.by_method(r for r in records if not variant(r.config))
    planned = planned_runs(preset)
    tables: list[Table] = []
    figures: list[Figure] = []
    if records:
        costs = {METHODS[m].label: [r.cost for r in runs] for m, runs in by_method.items()}
        tables = [
            _accuracy_table(by_method, preset),
            cost_table(
                "Rotation: cost of one training step",
                costs,
                METHODS[EXPERIMENT.baseline].label,
                caption="Base step and meta step together. Peak: memory beyond what was in use "
                "before the step.",
                notes=("Measured while other runs may have shared the machine: compare ratios.",),
            ),
        ]
        if any(variant(record.config) for record in records):
            tables.append(_variant_table(records))
        for table, stem in zip(tables, ("accuracy", "cost", "variants"), strict=False):
            write_table(table, folder, stem)
        learned = {m: rs for m, rs in by_method.items() if rs and m != "baseline"}
        if learned:
            figures = [angle_figure(learned, folder)]
            try:
                figures.append(digits_figure(learned, folder))
            except UserError as error:  # MNIST is not needed for anything else here
                print(f"figure of digits left out: {error}")
    return Section(
        title=EXPERIMENT.title,
        intro=_INTRO,
        tables=tuple(tables),
        figures=tuple(figures),
        runs=len(records),
        planned_runs=len(planned),
    )


def _accuracy_table(by_method: dict[str, list[RunRecord]], preset: str) -> Table:
    planned = [c.method for c in planned_runs(preset) if not variant(asdict(c))]
    rows = []
    for method, records in by_method.items():
        if not records and method not in planned:
            continue
        row = METHODS[method].published
        for metric, name in _METRICS.items():
            if method == "baseline" and metric == "angle_degrees":
                continue
            rows.append(
                Comparison(
                    label=(METHODS[method].label, name),
                    published=row and published_value(EXPERIMENT.name, row, metric),
                    measured=collect_metric(records, metric),
                    planned=planned.count(method),
                    comparable=preset == "paper",
                )
            )
    epochs = PRESETS[preset].epochs
    return comparison_table(
        "Rotation: test accuracy and learned angle",
        rows,
        label_columns=("method", "metric"),
        caption=f"After {epochs} epochs. The true angle is {PRESETS[preset].degrees:g}°.",
    )


def _variant_table(records: Sequence[RunRecord]) -> Table:
    """Choices that the paper leaves open, made differently, on the same seeds."""
    rows = []
    for name in ("unshuffled", "black corners"):
        others = EXPERIMENT.by_method(r for r in records if variant(r.config) == [name])
        for method, changed in others.items():
            seeds = {record.seed for record in changed}
            usual = [
                r
                for r in records
                if r.method == method and r.seed in seeds and not variant(r.config)
            ]
            for metric, label in _METRICS.items():
                if not changed or metric not in changed[0].final:
                    continue
                cells = [collect_metric(runs, metric) for runs in (usual, changed)]
                numbers = [Number(c.mean, c.sd) if c else "–" for c in cells]
                rows.append((name, METHODS[method].label, label, *numbers, str(len(seeds))))
    return Table(
        "Rotation: open choices made differently",
        ("choice", "method", "metric", "default", "changed", "seeds"),
        tuple(rows),
        caption="unshuffled: training images in the order of the data set. black corners: the "
        "layer turns pixels, so that black comes in from outside, instead of normalised images, "
        "where it is mean grey. ±: sample standard deviation over seeds.",
    )
