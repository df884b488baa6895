"""The label-noise experiment's figures, of one data set with one noise each."""

from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from common.report import Group, mean_by_epoch, panels
from common.reporting import (
    Figure,
    RunRecord,
    figure_style,
    metric_against_seconds,
    new_figure,
    save_figure,
    series_styles,
)
from metaweightnet.config import EXPERIMENT, METHODS
from metaweightnet.monitor import HISTOGRAM_BINS, HISTOGRAM_MAX, LOSS_GRID

_DARK, _PALE = ({**style, "marker": ""} for style in series_styles(2))


def draw_figures(setting: tuple[str, str], group: Group, folder: Path) -> list[Figure]:
    """The figures of one data set with one noise, into ``folder``."""
    weighted = {name: runs for name, runs in group.items() if "weight_end" in runs[0].curves}
    learned = {name: runs for name, runs in weighted.items() if "meta_loss" in runs[0].final}
    plain = group.get(METHODS[EXPERIMENT.baseline].label, [])

    def accuracy(axis: Any, records: list[RunRecord]) -> None:
        if plain:
            style = _PALE | {"linestyle": "-"}
            axis.plot(*mean_by_epoch(plain, "accuracy"), **style, label="plain, mean")
        for number, record in enumerate(records):
            label = None if number else "method, by seed"
            axis.plot(*mean_by_epoch([record], "accuracy"), **_DARK, lw=0.9, label=label)

    figures = [
        _panels(
            setting, group, folder, "accuracy", accuracy, ("epoch", "test accuracy (%)"),
            "Test accuracy by epoch, each method's seeds beside the mean of plain training",
        )
    ]  # fmt: skip
    if weighted:
        figures += [
            _panels(
                setting, weighted, folder, "weight-function", _functions, ("loss", "V(loss)"),
                "The weight as a function of the loss, at the start and at the end of training, "
                "one pair of lines per seed (a batch's weights are normalised, so only ratios "
                "along a line matter)",
            ),
            _panels(
                setting, weighted, folder, "weights", _histograms,
                ("relative weight", "share of samples"),
                "Relative weights of samples with right and with wrong labels in the last epoch, "
                "all seeds together (the last bin holds all larger ones)",
            ),
        ]  # fmt: skip
    if learned:
        figures.append(_movement(setting, learned, folder))
        figures.append(_against_seconds(setting, group, folder))
    return figures


def _against_seconds(setting: tuple[str, str], group: Group, folder: Path) -> Figure:
    """Of plain training, EvoGrad by the number of candidates, and the exact hypergradient."""
    config = next(iter(group.values()))[0].config
    compared = {
        name: runs
        for name, runs in group.items()
        if runs[0].method in (EXPERIMENT.baseline, "evograd", "along_gradient", "t1t2_forward")
        and "decay" not in name
    }
    return metric_against_seconds(
        compared,
        "accuracy",
        "test accuracy (%)",
        -(-config["train_size"] // config["batch_size"]),
        folder,
        "-".join(("seconds", *setting)).replace(" ", "-"),
        f"{setting[0]}, noise {setting[1]}",
    )


def _functions(axis: Any, records: list[RunRecord]) -> None:
    for number, record in enumerate(records):
        for name, style in (("start", _PALE), ("end", _DARK)):
            label = None if number else name
            curve = record.curves[f"weight_{name}"]
            axis.plot(LOSS_GRID.numpy(), curve, **style, lw=0.9, label=label)
    axis.set_ylim(-0.03, 1.03)


def _histograms(axis: Any, records: list[RunRecord]) -> None:
    edges = np.linspace(0, HISTOGRAM_MAX, HISTOGRAM_BINS + 1)
    for name, style in (("right", _DARK), ("wrong", _PALE)):
        counts = np.sum([record.curves[f"histogram_{name}"] for record in records], axis=0)
        if counts.sum():
            look = {key: style[key] for key in ("color", "linestyle")}
            axis.stairs(counts / counts.sum(), edges, **look, label=f"{name} labels")
    axis.set_yscale("symlog", linthresh=0.01, linscale=0.5)
    axis.set_ylim(0, 1)


def _panels(
    setting: tuple[str, str],
    group: Group,
    folder: Path,
    stem: str,
    draw: Callable[[Any, list[RunRecord]], None],
    labels: tuple[str, str],
    shows: str,
) -> Figure:
    """A panel for each method; the first has the legend."""
    with figure_style():
        fig, axes = panels(len(group), 3)
        for axis, (name, records) in zip(axes, group.items(), strict=True):
            draw(axis, records)
            axis.set_title(fill(name, 27), fontsize=7)
            axis.set(xlabel=labels[0], ylabel=labels[1])
            axis.label_outer()
        axes[0].legend(fontsize=6.5)
        return _save(fig, setting, folder, stem, shows, f"a panel for each of {', '.join(group)}")


def _movement(setting: tuple[str, str], group: Group, folder: Path) -> Figure:
    """Norm of the hypergradient and distance of the weight net, a line per method."""
    quantities = {"hypergradient_norm": "hypergradient norm", "moved": "distance moved"}
    with figure_style():
        fig, axes = new_figure(columns=2)
        for axis, (metric, label) in zip(axes, quantities.items(), strict=True):
            styles = series_styles(len(group))
            for style, (name, records) in zip(styles, group.items(), strict=True):
                axis.plot(*mean_by_epoch(records, metric), label=name, **style, markevery=0.2)
            axis.set(xlabel="epoch", ylabel=label, yscale="log")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        shows = (
            "Left: norm of the hypergradient that the weight net's optimiser is given, mean over "
            "the epoch. Right: distance of the weight net from its start. Means over seeds"
        )
        return _save(fig, setting, folder, "movement", shows, f"lines for {', '.join(group)}")


def _save(
    fig: Any, setting: tuple[str, str], folder: Path, stem: str, shows: str, layout: str
) -> Figure:
    name = "-".join((stem, *setting)).replace(" ", "-")
    caption = f"{shows}. {setting[0]}, noise {setting[1]}."
    return save_figure(fig, folder, name, alt=f"{caption} Drawn as {layout}.", caption=caption)
