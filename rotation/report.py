"""The rotation experiment's tables and figures, from its run records."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.lines import Line2D
from torch import Tensor

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
    figure_style,
    new_figure,
    published_value,
    save_figure,
    series_styles,
    write_table,
)
from rotation.config import PRESETS, Config, planned_runs, variant
from rotation.data import load_splits
from rotation.models import rotate

NAMES = {
    "baseline": "Baseline (no rotation layer)",
    "evograd": "EvoGrad",
    "t1t2": "T1-T2 (double backward)",
    "t1t2_higher": "T1-T2 (through higher)",
    "finite_difference": "Finite difference",
}
_METRICS = {"rotated": "rotated %", "standard": "upright %", "angle_degrees": "angle °"}
_INTRO = """
LeNet learns from upright digits that a layer turns by a learned angle; the angle is learned from
validation digits that are rotated by 30°. **rotated**: accuracy on test digits rotated by 30°.
**upright**: on the same test digits turned back. **angle**: what was learned. Last epoch
throughout.
"""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    by_method = _by_method(r for r in records if not variant(r.config))
    planned = planned_runs(preset)
    tables: list[Table] = []
    figures: list[Figure] = []
    if records:
        costs = {NAMES[m]: [run.cost for run in runs] for m, runs in by_method.items()}
        tables = [
            _accuracy_table(by_method, preset),
            cost_table(
                "Rotation: cost of one training step",
                costs,
                NAMES["baseline"],
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
            figures = [_angle_figure(learned, folder)]
            try:
                figures.append(_digits_figure(learned, folder))
            except UserError as error:  # MNIST is not needed for anything else here
                print(f"figure of digits left out: {error}")
    return Section(
        title="Rotation",
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
        for metric, name in _METRICS.items():
            if method == "baseline" and metric == "angle_degrees":
                continue
            rows.append(
                Comparison(
                    label=(NAMES[method], name),
                    published=published_value("rotation", method, metric),
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


def _by_method(records: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    records = list(records)
    return {m: [r for r in records if r.method == m] for m in Config.methods}


def _variant_table(records: Sequence[RunRecord]) -> Table:
    """Choices that the paper leaves open, made differently, on the same seeds."""
    rows = []
    for name in ("unshuffled", "black corners"):
        others = _by_method(r for r in records if variant(r.config) == name)
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
                rows.append((name, NAMES[method], label, *numbers, str(len(seeds))))
    return Table(
        "Rotation: open choices made differently",
        ("choice", "method", "metric", "as above", "so", "seeds"),
        tuple(rows),
        caption="unshuffled: training images in the order of the data set. black corners: the "
        "layer turns pixels, so that black comes in from outside, instead of normalised images, "
        "where it is mean grey. ±: sample standard deviation over seeds.",
    )


def _angle_figure(by_method: dict[str, list[RunRecord]], folder: Path) -> Figure:
    """Learned angle against iteration, a panel per method, a line per seed."""
    seeds = sorted({record.seed for records in by_method.values() for record in records})
    styles = dict(zip(seeds, series_styles(len(seeds)), strict=True))
    with figure_style():
        fig, axes = new_figure(
            rows=-(-len(by_method) // 2),
            columns=min(2, len(by_method)),
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        for axis in axes.flat[len(by_method) :]:
            axis.set_visible(False)
        for axis, (method, records) in zip(axes.flat, by_method.items(), strict=False):
            for record in records:
                style = styles[record.seed] | {"marker": ""}
                axis.plot(record.traces["iteration"], record.traces["angle_degrees"], **style)
            degrees = records[0].config["degrees"]
            axis.axhline(degrees, color="#bb2222", lw=0.8, ls=":")
            axis.set(title=NAMES[method], xlabel="iteration", ylabel="angle (degrees)")
            axis.label_outer()
        lines = {f"seed {seed}": style | {"marker": ""} for seed, style in styles.items()}
        lines["true angle"] = {"color": "#bb2222", "linewidth": 0.8, "linestyle": ":"}
        handles = [Line2D([], [], label=label, **style) for label, style in lines.items()]
        fig.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
        return save_figure(
            fig,
            folder,
            "angles",
            alt="Learned angle in degrees against iteration, one line per seed, in a panel each "
            f"for {', '.join(NAMES[m] for m in by_method)}; a dotted line marks the true angle.",
            caption="The learned angle, one line per seed; the true angle is dotted.",
        )


def _digits_figure(by_method: dict[str, list[RunRecord]], folder: Path, count: int = 8) -> Figure:
    """Digits upright, as each method's learned layer turns them, and truly rotated."""
    config = Config(train_size=1, meta_size=1, test_size=count)
    target = load_splits(config, torch.device("cpu")).test.batch(torch.arange(count))[0]

    def turned(pixels: Tensor, degrees: float) -> Tensor:
        return rotate(pixels, torch.deg2rad(torch.tensor(degrees)))

    upright = turned(target, -config.degrees)
    rows = {"upright": upright}
    for method, records in by_method.items():
        if method != "t1t2_higher":  # the same number as t1t2
            angle = collect_metric(records, "angle_degrees").mean
            name = NAMES[method].split(" (")[0].replace(" ", "\n")
            rows[f"{name}\n{angle:.1f}°"] = turned(upright, angle)
    rows[f"rotated\n{config.degrees:g}°"] = target
    with figure_style():
        fig, axes = new_figure(rows=len(rows), height=0.62 * len(rows))
        for axis, (label, pixels) in zip(axes, rows.items(), strict=True):
            strip = torch.cat(list(pixels[:, 0]), dim=1)
            axis.imshow(1 - strip.numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_ylabel(label, rotation=0, ha="right", va="center")
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
        return save_figure(
            fig,
            folder,
            "digits",
            alt="Rows of the same handwritten digits: upright, turned by each method's learned "
            "angle, and rotated by the true angle; the learned rows look like the true one.",
            caption="Test digits turned by the learned layer (mean angle over seeds), between the "
            "upright and the truly rotated ones.",
        )
