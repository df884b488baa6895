"""The rotation experiment's tables and figures, from its run records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from common.errors import UserError
from common.report import (
    Group,
    as_planned,
    by_label,
    interval_table,
    metric_number,
    panels,
    step_costs,
    written_section,
)
from common.reporting import (
    MISSING,
    Figure,
    Number,
    Published,
    RunRecord,
    Section,
    Table,
    collect_metric,
    comparison_table,
    figure_style,
    legend_below,
    metric_against_seconds,
    new_figure,
    published_value,
    save_figure,
    series_styles,
)
from rotation.config import EXPERIMENT, PRESETS, Config
from rotation.data import load_splits
from rotation.train import rotate

METHODS = EXPERIMENT.methods
ByMethod = Mapping[str, Sequence[RunRecord]]
_METRICS = {"rotated": "rotated %", "standard": "upright %", "angle_degrees": "angle °"}
_TRUE = {"color": "#bb2222", "lw": 0.8, "ls": ":"}
_INTRO = """
LeNet learns from upright digits that a layer turns by a learned angle; the angle is learned from
validation digits that are rotated by 30°, by EvoGrad or by **T1-T2**, the exact hypergradient of
one unrolled training step. **rotated**: accuracy on test digits rotated by 30°. **upright**: on the
same test digits turned back. **angle**: the learned angle. All at the last epoch.
"""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    groups = by_label(EXPERIMENT, records)
    planned = [run for runs in as_planned(EXPERIMENT, groups).values() for run in runs]
    by_method = EXPERIMENT.by_method(planned)
    tables: dict[str, Table] = {}
    figures: list[Figure] = []
    if records:
        tables["summary"] = _summary_table(by_method)
        tables["accuracy"] = _accuracy_table(by_method, preset)
    if planned:
        tables["cost"] = step_costs(EXPERIMENT, "Rotation: cost of one training step", planned)
    if len(planned) < len(records):
        tables["variants"] = _variant_table(records, by_method)
    if learned := {m: runs for m, runs in by_method.items() if runs and METHODS[m].estimator}:
        compared = as_planned(EXPERIMENT, groups, "estimator.num_candidates")
        label = "accuracy on rotated digits (%)"
        figures = [
            _angle_figure(learned, folder),
            metric_against_seconds(compared, "rotated", label, folder, "seconds", "rotation"),
        ]
        try:
            figures.append(_digits_figure(learned, folder))
        except UserError as error:  # MNIST is not needed for anything else here
            print(f"figure of digits left out: {error}")
    return written_section(EXPERIMENT, _INTRO, preset, records, tables, figures, folder)


def _published(method: str, metric: str) -> Published | None:
    row = METHODS[method].published
    return published_value(EXPERIMENT.name, row, metric) if row else None


def _summary_table(by_method: ByMethod) -> Table:
    """The README's: a row per method, the paper's values beside the measured ones."""
    rows = []
    epochs = next(run.config["epochs"] for runs in by_method.values() for run in runs)
    for method, runs in by_method.items():
        if runs:
            cells: list[Number | str] = []
            for metric in _METRICS:
                found = _published(method, metric)
                paper = Number(found.mean, found.spread) if found else MISSING
                cells += [metric_number(runs, metric), paper]
            rows.append((METHODS[method].label, str(len(runs)), *cells))
    return interval_table(
        "Rotation: what is learned",
        ("method", "runs", *(c for name in _METRICS.values() for c in (name, f"{name}, paper"))),
        rows,
        f"After {epochs} epochs. The paper's ±: standard deviation over five runs.",
    )


def _accuracy_table(by_method: ByMethod, preset: str) -> Table:
    planned = [c.method for c in EXPERIMENT.planned(preset) if not c.differences()]
    rows = [
        (
            (METHODS[method].label, name),
            _published(method, metric),
            collect_metric(runs, metric),
            planned.count(method),
        )
        for method, runs in by_method.items()
        if runs or method in planned
        for metric, name in _METRICS.items()
        if metric != "angle_degrees" or METHODS[method].estimator
    ]
    config = PRESETS[preset]
    return comparison_table(
        "Rotation: test accuracy and learned angle",
        rows,
        ("method", "metric"),
        f"After {config.epochs} epochs. The true angle is {config.degrees:g}°.",
        preset == "paper",
    )


def _variant_table(records: Sequence[RunRecord], by_method: ByMethod) -> Table:
    """Settings other than the preset's, beside the preset's on the same seeds."""
    choices: Group = {"shuffle=False": [], "rotate=pixels": []}
    for record in records:
        choices.setdefault(" ".join(EXPERIMENT.variant(record.config)), []).append(record)
    choices.pop("", None)
    rows = []
    for choice, others in choices.items():
        for method, changed in EXPERIMENT.by_method(others).items():
            seeds = {record.seed for record in changed}
            usual = [record for record in by_method[method] if record.seed in seeds]
            for metric, label in _METRICS.items():
                if changed and metric in changed[0].final:
                    cells = (metric_number(runs, metric) for runs in (usual, changed))
                    rows.append((choice, METHODS[method].label, label, *cells, str(len(seeds))))
    return interval_table(
        "Rotation: settings other than the preset's",
        ("choice", "method", "metric", "default", "changed", "seeds"),
        rows,
        "`shuffle=False`: training images in the order of the data set. `rotate=pixels`: the layer "
        "turns pixels, so that the corners become black, instead of normalised images, whose "
        "corners become mean grey.",
    )


def _angle_figure(by_method: ByMethod, folder: Path) -> Figure:
    """Learned angle against iteration, a panel per method, a line per seed."""
    names = [METHODS[method].label for method in by_method]
    with figure_style():
        fig, axes = panels(names, columns=2, height=1.7)
        for axis, runs in zip(axes, by_method.values(), strict=True):
            for run, style in zip(runs, series_styles(len(runs)), strict=True):
                points, look = run.traces, style | {"marker": ""}
                axis.plot(
                    points["iteration"], points["angle_degrees"], **look, label=f"seed {run.seed}"
                )
            axis.axhline(runs[0].config["degrees"], **_TRUE, label="true angle")
            axis.set(xlabel="iteration", ylabel="angle (degrees)")
            axis.label_outer()
        legend_below(fig, max(axes, key=lambda axis: len(axis.lines)))
        alt = (
            "Learned angle in degrees against iteration, one line per seed, a panel each for "
            f"{', '.join(names)}; a dotted line: the true angle."
        )
        caption = "The learned angle, one line per seed; the true angle is dotted."
        return save_figure(fig, folder, "angles", alt, caption)


def _digits_figure(by_method: ByMethod, folder: Path, count: int = 8) -> Figure:
    """Digits upright, as each method's learned layer turns them, and truly rotated."""
    config = Config(train_size=1, meta_size=1, test_size=count)
    splits, _ = load_splits(config, torch.device("cpu"))
    target = splits["test"].batch(torch.arange(count)).pixels
    upright = rotate(target, torch.deg2rad(torch.tensor(-config.degrees)))
    rows = {"upright": upright}
    for method, records in by_method.items():
        if method != "t1t2_higher":  # the same number as t1t2
            angle = collect_metric(records, "angle_degrees").mean
            name = METHODS[method].label.split(" (")[0].replace(" ", "\n")
            rows[f"{name}\n{angle:.1f}°"] = rotate(upright, torch.deg2rad(torch.tensor(angle)))
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
        alt = (
            "Rows of the same handwritten digits: upright, turned by each method's learned "
            "angle, and rotated by the true angle; the learned rows look like the true one."
        )
        caption = (
            "Test digits turned by the learned layer (mean angle over seeds), between the upright "
            "and the truly rotated ones."
        )
        return save_figure(fig, folder, "digits", alt, caption)
