"""The label-noise experiment's figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.reporting import (
    Figure,
    RunRecord,
    figure_style,
    new_figure,
    save_figure,
    series_styles,
)
from metaweightnet.config import EXPERIMENT, METHODS
from metaweightnet.monitor import HISTOGRAM_BINS, HISTOGRAM_MAX, LOSS_GRID

Group = dict[str, list[RunRecord]]
"""Method (and what it does otherwise) -> its runs, on one data set with one noise."""


def draw_figures(setting: tuple[str, str], group: Group, folder: Path) -> list[Figure]:
    """The figures of one data set with one noise, into ``folder``."""
    weighted = {name: runs for name, runs in group.items() if "weight_end" in runs[0].curves}
    learned = {name: runs for name, runs in weighted.items() if "meta_loss" in runs[0].final}
    figures = [_accuracy_figure(setting, group, folder)]
    if weighted:
        figures += [
            _function_figure(setting, weighted, folder),
            _histogram_figure(setting, weighted, folder),
        ]
    if learned:
        figures.append(_movement_figure(setting, learned, folder))
    return figures


def _save(fig: Any, setting: tuple[str, str], folder: Path, stem: str, **texts: str) -> Figure:
    return save_figure(fig, folder, "-".join((stem, *setting)).replace(" ", "-"), **texts)


def _panels(
    group: Group,
    draw: Callable[[Any, list[RunRecord]], None],
    labels: tuple[str, str],
    save: Callable[[Any], Figure],
) -> Figure:
    """A panel for each method; the first has the legend."""
    columns = min(3, len(group))
    with figure_style():
        fig, axes = new_figure(
            rows=-(-len(group) // columns),
            columns=columns,
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        for axis in axes.flat[len(group) :]:
            axis.set_visible(False)
        for axis, (name, records) in zip(axes.flat, group.items(), strict=False):
            draw(axis, records)
            axis.set_title(name, fontsize=7 if len(name) < 34 else 5.5)
            axis.set(xlabel=labels[0], ylabel=labels[1])
            axis.label_outer()
        axes.flat[0].legend(fontsize=6.5)
        return save(fig)


def _accuracy_figure(setting: tuple[str, str], group: Group, folder: Path) -> Figure:
    plain = group.get(METHODS[EXPERIMENT.baseline].label, [])
    own, reference = series_styles(2)

    def draw(axis: Any, records: list[RunRecord]) -> None:
        if plain:
            style = reference | {"marker": "", "linestyle": "-"}
            axis.plot(*_mean_by_epoch(plain, "accuracy"), **style, label="plain, mean")
        for record in records:
            label = "method, by seed" if record is records[0] else None
            style = own | {"marker": ""}
            axis.plot(*_mean_by_epoch([record], "accuracy"), **style, lw=0.9, label=label)

    return _panels(
        group,
        draw,
        ("epoch", "test accuracy (%)"),
        lambda fig: _save(
            fig,
            setting,
            folder,
            "accuracy",
            alt=f"Test accuracy by epoch on {' '.join(setting)}, a panel for each of "
            f"{', '.join(group)}, one line per seed beside plain training.",
            caption=f"Test accuracy on {setting[0]}, noise {setting[1]}: each method's seeds "
            "beside the mean of plain training.",
        ),
    )


def _function_figure(setting: tuple[str, str], group: Group, folder: Path) -> Figure:
    end, start = series_styles(2)

    def draw(axis: Any, records: list[RunRecord]) -> None:
        for record in records:
            for name, style in (("start", start), ("end", end)):
                axis.plot(
                    LOSS_GRID.numpy(),
                    record.curves[f"weight_{name}"],
                    **(style | {"marker": ""}),
                    lw=0.9,
                    label=name if record is records[0] else None,
                )
        axis.set_ylim(0, 1)

    return _panels(
        group,
        draw,
        ("loss", "V(loss)"),
        lambda fig: _save(
            fig,
            setting,
            folder,
            "weight-function",
            alt=f"The weight net's output over the loss on {' '.join(setting)}, at the start and "
            f"at the end of training, in a panel for each of {', '.join(group)}.",
            caption="The weight as a function of the loss, at the start and at the end, one pair "
            f"of lines per seed ({setting[0]}, noise {setting[1]}). A batch's weights are "
            "normalised, so only ratios along a line matter.",
        ),
    )


def _histogram_figure(setting: tuple[str, str], group: Group, folder: Path) -> Figure:
    edges = np.linspace(0, HISTOGRAM_MAX, HISTOGRAM_BINS + 1)

    def draw(axis: Any, records: list[RunRecord]) -> None:
        for name, style in zip(("right", "wrong"), series_styles(2), strict=True):
            counts = np.sum([record.curves[f"histogram_{name}"] for record in records], axis=0)
            if counts.sum():
                look = {key: style[key] for key in ("color", "linestyle")}
                axis.stairs(counts / counts.sum(), edges, **look, label=f"{name} labels")
        axis.set_yscale("symlog", linthresh=0.01, linscale=0.5)
        axis.set_ylim(0, 1)

    return _panels(
        group,
        draw,
        ("relative weight", "share of samples"),
        lambda fig: _save(
            fig,
            setting,
            folder,
            "weights",
            alt="Distribution of relative weights in the last epoch, of samples with right and "
            f"with wrong labels, on {' '.join(setting)}, in a panel for each of "
            f"{', '.join(group)}.",
            caption="Relative weights of samples with right and with wrong labels in the last "
            f"epoch, all seeds together ({setting[0]}, noise {setting[1]}); the last bin holds "
            "all larger ones.",
        ),
    )


def _movement_figure(setting: tuple[str, str], group: Group, folder: Path) -> Figure:
    """Norm of the hypergradient and distance of the weight net, a line per method."""
    quantities = {"hypergradient_norm": "hypergradient norm", "moved": "distance moved"}
    with figure_style():
        fig, axes = new_figure(columns=2)
        for axis, (metric, label) in zip(axes, quantities.items(), strict=True):
            styles = series_styles(len(group))
            for style, (name, records) in zip(styles, group.items(), strict=True):
                axis.plot(*_mean_by_epoch(records, metric), label=name, **style, markevery=0.2)
            axis.set(xlabel="epoch", ylabel=label, yscale="log")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return _save(
            fig,
            setting,
            folder,
            "movement",
            alt="Norm of the hypergradient and distance of the weight net from its start by "
            f"epoch, on {' '.join(setting)}, for {', '.join(group)}.",
            caption="Left: norm of the hypergradient that the weight net's optimiser is given, "
            "mean over the epoch. Right: how far the weight net has moved. Means over seeds "
            f"({setting[0]}, noise {setting[1]}).",
        )


def _mean_by_epoch(records: list[RunRecord], metric: str) -> tuple[list[float], np.ndarray]:
    """Epochs, and the metric's mean over runs (as many epochs as the shortest has)."""
    length = min(len(record.epochs) for record in records)
    rows = [[row[metric] for row in record.epochs[:length]] for record in records]
    return [row["epoch"] for row in records[0].epochs[:length]], np.mean(rows, axis=0)
