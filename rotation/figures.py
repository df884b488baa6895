"""The rotation experiment's figures, from its run records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.lines import Line2D
from torch import Tensor

from common.report import panels
from common.reporting import (
    Figure,
    RunRecord,
    collect_metric,
    figure_style,
    new_figure,
    save_figure,
    series_styles,
)
from rotation.config import METHODS, Config
from rotation.data import load_splits
from rotation.models import rotate

Runs = Mapping[str, Sequence[RunRecord]]
"""Runs by method."""


def angle_figure(by_method: Runs, folder: Path) -> Figure:
    """Learned angle against iteration, a panel per method, a line per seed."""
    seeds = sorted({record.seed for records in by_method.values() for record in records})
    styles = dict(zip(seeds, series_styles(len(seeds)), strict=True))
    with figure_style():
        fig, axes = panels(len(by_method), 2)
        for axis, (method, records) in zip(axes, by_method.items(), strict=True):
            for record in records:
                style = styles[record.seed] | {"marker": ""}
                axis.plot(record.traces["iteration"], record.traces["angle_degrees"], **style)
            degrees = records[0].config["degrees"]
            axis.axhline(degrees, color="#bb2222", lw=0.8, ls=":")
            axis.set(title=METHODS[method].label, xlabel="iteration", ylabel="angle (degrees)")
            axis.label_outer()
        lines = {f"seed {seed}": style | {"marker": ""} for seed, style in styles.items()}
        lines["true angle"] = {"color": "#bb2222", "linewidth": 0.8, "linestyle": ":"}
        handles = [Line2D([], [], label=label, **style) for label, style in lines.items()]
        fig.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
        return save_figure(
            fig,
            folder,
            "angles",
            alt="Learned angle in degrees against iteration, one line per seed, a panel each for "
            f"{', '.join(METHODS[m].label for m in by_method)}; a dotted line: the true angle.",
            caption="The learned angle, one line per seed; the true angle is dotted.",
        )


def digits_figure(by_method: Runs, folder: Path, count: int = 8) -> Figure:
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
            name = METHODS[method].label.split(" (")[0].replace(" ", "\n")
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
