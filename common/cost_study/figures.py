"""The study's figures: time and memory by method, and the paper's ratios beside those measured."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cost_study.case import PublishedCost
from common.cost_study.methods import PLAIN
from common.cost_study.records import Measurement
from common.cost_study.tables import EVOGRAD, HIGHER, T1T2, machine, ratio
from common.reporting import (
    Figure,
    bar_style,
    figure_style,
    new_figure,
    save_figure,
    series_styles,
)

Points = Mapping[str, Sequence[Measurement]]
_PANELS = ("time / plain step", "peak memory / plain step")
# What a figure of lines shows: as many as can be told apart.
_LINES = (EVOGRAD, "EvoGrad forward, K = 2", T1T2, HIGHER, "T1T2Forward", "FiniteDifference")


def cost_figure(figure: str, points: Points, folder: Path, stem: str) -> Figure | None:
    """Ratios to a plain step: bars of all methods for one or two places, else lines of the main
    ones. None if no method was measured."""
    measured = {
        x: {m.row: m for m in found if m.outcome == "measured" and m.row != PLAIN}
        for x, found in points.items()
    }
    rows = list(dict.fromkeys(row for found in measured.values() for row in found))
    if not rows:
        return None
    lines = len(points) > 2
    shown = [row for row in _LINES if row in rows] if lines else rows
    draw = _lines if lines else _bars
    with figure_style():
        height = 2.6 if lines else 0.8 + len(shown) * (0.1 + 0.1 * len(points))
        fig, axes = new_figure(columns=2, height=height, sharey=not lines)
        draw(axes[0], measured, shown, _time)
        draw(axes[1], measured, shown, _memory)
        for axis, label in zip(axes, _PANELS, strict=True):
            (axis.set_ylabel if lines else axis.set_xlabel)(label)
        handles, labels = axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            fig.legend(handles, labels, loc="outside lower center", ncols=3)
        where = machine(next(iter(points.values())))
        return save_figure(
            fig,
            folder,
            stem,
            alt=f"Time and peak memory of a training step relative to a plain one, {figure}, at "
            f"{', '.join(points)}, for {', '.join(shown)}.",
            caption=f"{figure}, on {where}: time of a step and its peak memory, in units of a "
            "plain training step in the same process. Medians; whiskers are quartiles over rounds.",
        )


def _time(m: Measurement) -> tuple[float, float, float]:
    low, high = m.time_quartiles
    return m.time_ratio, m.time_ratio - low, high - m.time_ratio


def _memory(m: Measurement) -> tuple[float, float, float]:
    return m.memory_ratio or np.nan, 0.0, 0.0


Value = Callable[[Measurement], tuple[float, float, float]]
"""Value of a measurement, and how far its quartiles are below and above."""


def _values(
    found: Sequence[Measurement | None], value: Value
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (N,) and distances of the quartiles (2, N), not a number where nothing is."""
    table = np.array([(np.nan,) * 3 if m is None else value(m) for m in found])
    return table[:, 0], table[:, 1:].T.clip(min=0)


def _bars(axis: Any, measured: Mapping, rows: Sequence[str], value: Value) -> None:
    """Rows downwards, a bar for each place, on a logarithmic axis from 1."""
    thick = 0.8 / len(measured)
    for index, (x, found) in enumerate(measured.items()):
        widths, errors = _values([found.get(row) for row in rows], value)
        places = np.arange(len(rows)) + (index - (len(measured) - 1) / 2) * thick
        whiskers = {"elinewidth": 0.6, "capsize": 1.2}
        axis.barh(places, widths, thick, xerr=errors, error_kw=whiskers, label=x,
                  **bar_style(index + 1))  # fmt: skip
    axis.axvline(1, color="#444444", linewidth=0.6)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)


def _lines(axis: Any, measured: Mapping, rows: Sequence[str], value: Value) -> None:
    """Places along the axis, a line for each row."""
    places = np.arange(len(measured))
    for style, row in zip(series_styles(len(rows)), rows, strict=True):
        heights, errors = _values([found.get(row) for found in measured.values()], value)
        axis.errorbar(places, heights, yerr=errors, label=row, elinewidth=0.6, **style)
    axis.set_xticks(places, [textwrap.fill(x, 10) for x in measured])
    axis.set_ylim(bottom=0)


def published_figure(
    figure: str, points: Points, published: Sequence[PublishedCost], folder: Path, stem: str
) -> Figure | None:
    """T1-T2 by EvoGrad, the paper's ratio beside the measured ones; None if there are not both."""
    series: dict[str, list[tuple[float | None, float | None]]] = {
        "published": [], "T1T2, measured": [], "HigherT1T2, measured": [],
    }  # fmt: skip
    places = []
    for entry in published:
        found, (evograd, t1t2) = points.get(entry.x, []), list(entry.costs)[-2:]
        if ratio(found, t1t2, evograd)[0] is None:
            continue
        places.append(entry.x)
        (memory, seconds), (memory_below, seconds_below) = entry.costs[t1t2], entry.costs[evograd]
        series["published"].append((seconds / seconds_below, memory / memory_below))
        series["T1T2, measured"].append(ratio(found, t1t2, evograd))
        series["HigherT1T2, measured"].append(ratio(found, HIGHER, evograd))
    if not places:
        return None
    with figure_style():
        fig, axes = new_figure(columns=2)
        for panel, (axis, quantity) in enumerate(zip(axes, ("time", "memory"), strict=True)):
            for index, (name, values) in enumerate(series.items()):
                heights = [np.nan if v[panel] is None else v[panel] for v in values]
                axis.bar(np.arange(len(places)) + (index - 1) * 0.27, heights, 0.27, label=name,
                         **bar_style(index))  # fmt: skip
            axis.axhline(1, color="#444444", linewidth=0.6)
            axis.set_xticks(range(len(places)), places)
            axis.set_ylabel(f"{quantity}, T1-T2 / EvoGrad")
            axis.grid(axis="x", visible=False)
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return save_figure(
            fig,
            folder,
            stem,
            alt=f"T1-T2's time and memory divided by EvoGrad's, {figure}, at {', '.join(places)}: "
            "published and measured.",
            caption=f"{figure}: how many times EvoGrad's (K = 2) time and memory T1-T2 takes, "
            f"published (Titan X) and measured ({machine(next(iter(points.values())))}).",
        )
