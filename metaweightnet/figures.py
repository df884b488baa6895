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
from metaweightnet.monitor import HISTOGRAM_BINS, HISTOGRAM_MAX, LOSS_GRID

NAMES = {
    "plain": "Plain training",
    "frozen_vnet": "Frozen random weight net",
    "evograd": "EvoGrad",
    "evograd_matched": "EvoGrad, matched size",
    "anchored": "EvoGrad, one candidate at theta",
    "along_gradient": "EvoGrad along the gradient",
    "t1t2": "T1-T2 (double backward)",
    "t1t2_higher": "T1-T2 (through higher)",
    "t1t2_forward": "T1-T2 (forward mode)",
    "finite_difference": "Finite difference",
    "sign_flipped": "EvoGrad, sign flipped",
}
T1T2 = ("t1t2", "t1t2_forward", "t1t2_higher")  # one number, computed in three ways
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


def _stem(name: str, setting: tuple[str, str]) -> str:
    return "-".join((name, *setting)).replace(" ", "-")


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
            axis.set_title(name, fontsize=7.5)
            axis.set(xlabel=labels[0], ylabel=labels[1])
            axis.label_outer()
        axes.flat[0].legend(fontsize=6.5)
        return save(fig)


def _accuracy_figure(setting: tuple[str, str], group: Group, folder: Path) -> Figure:
    plain = group.get(NAMES["plain"], [])

    def draw(axis: Any, records: list[RunRecord]) -> None:
        own, reference = series_styles(2)
        if plain:
            axis.plot(
                *_mean_by_epoch(plain, "accuracy"),
                **(reference | {"marker": "", "linestyle": "-"}),
                label="plain, mean",
            )
        for record in records:
            epochs, accuracy = _mean_by_epoch([record], "accuracy")
            label = "method, by seed" if record is records[0] else None
            axis.plot(epochs, accuracy, **(own | {"marker": ""}), lw=0.9, label=label)

    return _panels(
        group,
        draw,
        ("epoch", "test accuracy (%)"),
        lambda fig: save_figure(
            fig,
            folder,
            _stem("accuracy", setting),
            alt=f"Test accuracy by epoch on {' '.join(setting)}, a panel for each of "
            f"{', '.join(group)}, one line per seed beside plain training.",
            caption=f"Test accuracy on {setting[0]}, noise {setting[1]}: each method's seeds "
            "beside the mean of plain training.",
        ),
    )


def _function_figure(setting: tuple[str, str], group: Group, folder: Path) -> Figure:
    def draw(axis: Any, records: list[RunRecord]) -> None:
        end, start = series_styles(2)
        for record in records:
            first = record is records[0]
            for name, style in (("start", start), ("end", end)):
                axis.plot(
                    LOSS_GRID.numpy(),
                    record.curves[f"weight_{name}"],
                    **(style | {"marker": ""}),
                    lw=0.9,
                    label=name if first else None,
                )
            axis.set_ylim(0, 1)

    return _panels(
        group,
        draw,
        ("loss", "V(loss)"),
        lambda fig: save_figure(
            fig,
            folder,
            _stem("weight-function", setting),
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
                axis.stairs(
                    counts / counts.sum(),
                    edges,
                    color=style["color"],
                    linestyle=style["linestyle"],
                    label=f"{name} labels",
                )
        axis.set_yscale("symlog", linthresh=0.01, linscale=0.5)
        axis.set_ylim(0, 1)

    return _panels(
        group,
        draw,
        ("relative weight", "share of samples"),
        lambda fig: save_figure(
            fig,
            folder,
            _stem("weights", setting),
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
    same = [NAMES[method] for method in T1T2 if NAMES[method] in group][1:]
    shown = {name: runs for name, runs in group.items() if name not in same}
    quantities = (("hypergradient_norm", "hypergradient norm"),
                  ("vnet_distance", "distance moved"))  # fmt: skip
    with figure_style():
        fig, axes = new_figure(columns=2)
        for axis, (metric, label) in zip(axes, quantities, strict=True):
            for style, (name, records) in zip(series_styles(len(shown)), shown.items(),
                                                strict=True):  # fmt: skip
                axis.plot(*_mean_by_epoch(records, metric), label=name, **style, markevery=0.2)
            axis.set(xlabel="epoch", ylabel=label, yscale="log")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return save_figure(
            fig,
            folder,
            _stem("movement", setting),
            alt="Norm of the hypergradient and distance of the weight net from its start by "
            f"epoch, on {' '.join(setting)}, for {', '.join(shown)}.",
            caption="Left: norm of the hypergradient that the weight net's optimiser is given, "
            "mean over the epoch. Right: how far the weight net has moved. Means over seeds "
            f"({setting[0]}, noise {setting[1]}).",
        )


def _mean_by_epoch(records: list[RunRecord], metric: str) -> tuple[list[float], np.ndarray]:
    """Epochs, and the metric's mean over runs (as many epochs as the shortest has)."""
    length = min(len(record.epochs) for record in records)
    values = [[row[metric] for row in record.epochs[:length]] for record in records]
    return [row["epoch"] for row in records[0].epochs[:length]], np.mean(values, axis=0)
