"""The study's figures: time and memory by method, and the paper's costs beside those here."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cost_study.case import PublishedCost
from common.cost_study.records import Measurement
from common.cost_study.rows import BY_KEY, EVOGRAD, HIGHER, PLAIN, T1T2
from common.cost_study.tables import AS_RELEASED, Points, costs_of, machine
from common.reporting import (
    Figure,
    bar_style,
    figure_style,
    new_figure,
    save_figure,
    series_styles,
)

# What a figure of lines shows: as many as can be told apart.
_LINES = (EVOGRAD, "evograd_forward num_candidates=2", T1T2, HIGHER, "t1t2_mixed",
          "finite_difference")  # fmt: skip
Value = Callable[[Measurement], tuple[float, float, float]]
"""Value of a measurement, and how far its quartiles are below and above."""


def cost_figure(figure: str, points: Points, folder: Path, stem: str) -> Figure | None:
    """Ratios to a plain step: bars of all methods for one or two places, else lines of the main
    ones. None if no method was measured."""
    measured = {
        x: {m.row.label: m for m in found if m.known and m.key != PLAIN}
        for x, found in points.items()
    }
    rows = list(dict.fromkeys(row for found in measured.values() for row in found))
    if not rows:
        return None
    lines = len(points) > 2
    shown = [BY_KEY[k].label for k in _LINES if BY_KEY[k].label in rows] if lines else rows
    draw = _lines if lines else _bars
    some = next(iter(points.values()))
    what = "operations" if some[0].device == "counted" else "time"
    with figure_style():
        height = 2.6 if lines else 0.8 + len(shown) * (0.1 + 0.1 * len(points))
        fig, axes = new_figure(columns=2, height=height, sharey=not lines)
        draw(axes[0], measured, shown, _time)
        draw(axes[1], measured, shown, _memory)
        for axis, label in zip(axes, (what, "peak memory"), strict=True):
            (axis.set_ylabel if lines else axis.set_xlabel)(f"{label} / plain step")
        handles, labels = axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            fig.legend(handles, labels, loc="outside lower center", ncols=3)
        return save_figure(
            fig,
            folder,
            stem,
            alt=f"{what.capitalize()} and peak memory of a training step relative to a plain one, "
            f"{figure}, at {', '.join(points)}, for {', '.join(shown)}.",
            caption=f"{figure} ({machine(some)}): {what} of a step and its peak memory, in units "
            "of a plain training step. Of times: medians; whiskers are quartiles over rounds.",
        )


def _time(m: Measurement) -> tuple[float, float, float]:
    if m.time_ratio is None:
        return m.operations_ratio or np.nan, 0.0, 0.0
    low, high = m.time_quartiles or (m.time_ratio, m.time_ratio)
    return m.time_ratio, m.time_ratio - low, high - m.time_ratio


def _memory(m: Measurement) -> tuple[float, float, float]:
    return m.memory_ratio or np.nan, 0.0, 0.0


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
    """Gigabytes, and time relative to EvoGrad's, the paper's beside ours; None without any.

    At every place of the figure, also those of which the paper gives no number.
    """
    known = {entry.x: entry.costs for entry in published}
    if not known.keys() & points.keys():
        return None
    bars: dict[str, list[tuple[float, float]]] = {}
    for x, found in points.items():
        theirs = {AS_RELEASED.get(k, k): v for k, v in known.get(x, {}).items()}
        for key in (EVOGRAD, T1T2):
            released = AS_RELEASED[key]
            name = BY_KEY[released].label.split(",")[0]
            gigabytes, seconds = theirs.get(released, (np.nan, np.nan))
            unit = theirs.get(AS_RELEASED[EVOGRAD], (np.nan, np.nan))[1]
            bars.setdefault(f"{name}, published", []).append((gigabytes, seconds / unit))
            for label, shown in ((f"{name}, as released", released), (f"{name}, here", key)):
                time, memory = costs_of(found, shown)
                base, _ = costs_of(found, AS_RELEASED[EVOGRAD] if shown == released else EVOGRAD)
                value = time / base if time and base else np.nan
                bars.setdefault(label, []).append((memory / 1e9 if memory else np.nan, value))
    with figure_style():
        shape = {"rows": 2, "sharex": True} if len(points) > 3 else {"columns": 2}
        fig, axes = new_figure(**shape)
        places, wide = np.arange(len(points)), 0.84 / len(bars)
        for panel, axis in enumerate(axes):
            for index, (label, values) in enumerate(bars.items()):
                axis.bar(places + (index - (len(bars) - 1) / 2) * wide, [v[panel] for v in values],
                         wide, label=label, **bar_style(index))  # fmt: skip
            axis.set_xticks(places, [textwrap.fill(x, 12) for x in points])
            axis.grid(axis="x", visible=False)
        axes[0].set_ylabel("GB in use")
        if max(v[0] for values in bars.values() for v in values) > 6:
            axes[0].axhline(12, color="#444444", linewidth=0.6, linestyle="--")
        axes[1].set_ylabel("time / EvoGrad's")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return save_figure(
            fig,
            folder,
            stem,
            alt=f"Gigabytes and time of EvoGrad and T1-T2, {figure}, at {', '.join(points)}: "
            "published, as the released code takes its steps, and here.",
            caption=f"{figure}: memory in use and time relative to EvoGrad's, published (Titan X, "
            f"12 GB, the dashed line) and here ({machine(next(iter(points.values())))}; where "
            "steps are counted, time is floating-point operations).",
        )
