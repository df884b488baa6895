"""Metrics by epoch and by seconds of training, a line for every run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.reporting.figures import (
    Figure,
    figure_style,
    legend_below,
    new_figure,
    save_figure,
    series_styles,
)
from common.reporting.records import RunRecord


def draw_runs(
    axis: Any,
    runs: Sequence[RunRecord],
    metric: str,
    style: Mapping[str, Any],
    label: str | None,
    seconds: float = 1.0,
) -> None:
    """``metric``, a field of the epochs: thin lines for the runs, a thick one for their median (a
    mean of runs that worked and runs that failed would describe none of them).

    seconds: the time of an epoch, for an axis of time.
    """
    for run in runs[: len(runs) * (len(runs) > 1)]:
        x = [seconds * row["epoch"] for row in run.epochs]
        axis.plot(x, [row[metric] for row in run.epochs], color=style["color"], lw=0.5, alpha=0.45)
    length = min(len(run.epochs) for run in runs)
    median = np.median([[row[metric] for row in run.epochs[:length]] for run in runs], axis=0)
    x = [seconds * row["epoch"] for row in runs[0].epochs[:length]]
    axis.plot(x, median, **{"markevery": 0.2} | dict(style), label=label)


def epoch_seconds(runs: Sequence[RunRecord]) -> float:
    """Seconds of training in an epoch: the least over the runs of each run's median, without
    evaluation. Other work on a machine only ever adds to it."""
    return min(run.cost["seconds_per_epoch"] for run in runs)


def metric_against_seconds(
    groups: Mapping[str, Sequence[RunRecord]],
    metric: str,
    label: str,
    folder: Path,
    stem: str,
    title: str,
) -> Figure:
    """``metric``, a field of the epochs, by the time of training: runs by their method's label."""
    with figure_style():
        fig, axis = new_figure(height=2.6)
        for style, (name, runs) in zip(series_styles(len(groups)), groups.items(), strict=True):
            count = f"{len(runs)} run" + "s" * (len(runs) > 1)
            draw_runs(axis, runs, metric, style, f"{name} ({count})", epoch_seconds(runs))
        axis.set(xlabel="seconds of training", ylabel=label, xlim=(0, None))
        legend_below(fig, axis)
        shows = (
            f"{label} by epoch against seconds of training, {title}: every run (thin), and their "
            "median. Seconds: epochs times the least time of an epoch among a method's runs, "
            "without evaluation (a single run may have shared the machine)"
        )
        return save_figure(
            fig, folder, stem, alt=f"{shows}. Lines for {', '.join(groups)}.", caption=f"{shows}."
        )
