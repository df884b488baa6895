"""The rotation experiment's tables and figures, from its run records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from common.errors import UserError
from common.report import (
    INTERVAL_NOTE,
    by_label,
    metric_number,
    step_costs,
    written_section,
)
from common.reporting import (
    Comparison,
    Figure,
    RunRecord,
    Section,
    Table,
    collect_metric,
    comparison_table,
    metric_against_seconds,
    published_value,
)
from rotation.config import EXPERIMENT, METHODS, PRESETS
from rotation.figures import angle_figure, digits_figure

_METRICS = {"rotated": "rotated %", "standard": "upright %", "angle_degrees": "angle °"}
_INTRO = """
LeNet learns from upright digits that a layer turns by a learned angle; the angle is learned from
validation digits that are rotated by 30°. **rotated**: accuracy on test digits rotated by 30°.
**upright**: on the same test digits turned back. **angle**: the learned angle. All at the last
epoch.
"""
ByMethod = Mapping[str, Sequence[RunRecord]]


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    unchanged = [record for record in records if not EXPERIMENT.variant(record.config)]
    by_method = EXPERIMENT.by_method(unchanged)
    tables: dict[str, Table] = {}
    figures: list[Figure] = []
    if records:
        tables["accuracy"] = _accuracy_table(by_method, preset)
        tables["cost"] = step_costs(EXPERIMENT, "Rotation: cost of one training step", unchanged)
    if len(unchanged) < len(records):
        tables["variants"] = _variant_table(records, by_method)
    learned = {m: runs for m, runs in by_method.items() if runs and m != EXPERIMENT.baseline}
    if learned:
        config = PRESETS[preset]
        # Whatever the number of candidates.
        same = (
            r
            for r in records
            if set(EXPERIMENT.differences(r.config)) <= {"estimator.num_candidates"}
        )
        figures = [
            angle_figure(learned, folder),
            metric_against_seconds(
                by_label(EXPERIMENT, same),
                "rotated",
                "accuracy on rotated digits (%)",
                -(-config.train_size // config.batch_size),
                folder,
                "seconds",
                "rotation",
            ),
        ]
        try:
            figures.append(digits_figure(learned, folder))
        except UserError as error:  # MNIST is not needed for anything else here
            print(f"figure of digits left out: {error}")
    return written_section(EXPERIMENT, _INTRO, preset, records, tables, figures, folder)


def _accuracy_table(by_method: ByMethod, preset: str) -> Table:
    planned = [c.method for c in EXPERIMENT.planned(preset) if not c.differences()]
    rows = [
        Comparison(
            label=(METHODS[method].label, name),
            published=published_value(EXPERIMENT.name, row, metric) if row else None,
            measured=collect_metric(records, metric),
            planned=planned.count(method),
            comparable=preset == "paper",
        )
        for method, records in by_method.items()
        if records or method in planned
        for row in [METHODS[method].published]
        for metric, name in _METRICS.items()
        if (method, metric) != (EXPERIMENT.baseline, "angle_degrees")
    ]
    config = PRESETS[preset]
    return comparison_table(
        "Rotation: test accuracy and learned angle",
        rows,
        label_columns=("method", "metric"),
        caption=f"After {config.epochs} epochs. The true angle is {config.degrees:g}°.",
    )


def _variant_table(records: Sequence[RunRecord], by_method: ByMethod) -> Table:
    """Choices made differently from the preset, beside the preset's on the same seeds."""
    words = [" ".join(EXPERIMENT.variant(record.config)) for record in records]
    rows = []
    for choice in dict.fromkeys(["shuffle=False", "rotate=pixels", *filter(None, words)]):
        others = [r for r, own in zip(records, words, strict=True) if own == choice]
        for method, changed in EXPERIMENT.by_method(others).items():
            seeds = {record.seed for record in changed}
            usual = [record for record in by_method[method] if record.seed in seeds]
            for metric, label in _METRICS.items():
                if changed and metric in changed[0].final:
                    cells = (metric_number(runs, metric) for runs in (usual, changed))
                    rows.append((choice, METHODS[method].label, label, *cells, str(len(seeds))))
    return Table(
        "Rotation: open choices made differently",
        pd.DataFrame(rows, columns=["choice", "method", "metric", "default", "changed", "seeds"]),
        caption="shuffle=False: training images in the order of the data set. rotate=pixels: the "
        "layer turns pixels, so that the corners become black, instead of normalised images, whose "
        "corners become mean grey.",
        notes=(INTERVAL_NOTE,),
    )
