"""The study's figures: time and memory by method, and the paper's costs beside those here."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cost_study.case import RELEASED, PublishedCost
from common.cost_study.records import (
    BY_KEY,
    EVOGRAD,
    HIGHER,
    PLAIN,
    T1T2,
    Measurement,
    Points,
    costs_of,
    machine,
)
from common.reporting import (
    Figure,
    bar_style,
    figure_style,
    legend_below,
    new_figure,
    save_figure,
    series_styles,
)

# What a figure of lines shows: as many as can be told apart.
_LINES = (EVOGRAD, "evograd_forward num_candidates=2", T1T2, HIGHER, "t1t2_mixed",
          "finite_difference")  # fmt: skip
_GREY = {"color": "#444444", "linewidth": 0.6}
FAR = 1.5
"""Seconds by operations, both in plain steps, from which a method is far above the line."""


def cost_figure(figure: str, points: Points, folder: Path, stem: str) -> Figure | None:
    """Ratios to a plain step: dots of all methods for one or two places, else lines of the main
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
    some = next(iter(points.values()))
    what = "operations" if some[0].device == "counted" else "time"
    with figure_style():
        height = 2.6 if lines else 0.8 + len(shown) * (0.1 + 0.1 * len(points))
        fig, axes = new_figure(columns=2, height=height, sharey=not lines)
        for axis, label in zip(axes, (what, "peak memory"), strict=True):
            spread = _memory if label == "peak memory" else _time
            values = {
                x: np.array([spread(found[r]) if r in found else [np.nan] * 3 for r in shown])
                for x, found in measured.items()
            }
            if lines:
                _lines(axis, shown, values)
                axis.set_ylabel(f"{label} / plain step")
            else:
                _dots(axis, shown, values)
                axis.set_xlabel(f"{label} /\nplain step\n(log scale)")
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
    """The ratio, and how far its quartiles are below and above."""
    if m.time_ratio is None:
        return m.operations_ratio or np.nan, 0.0, 0.0
    low, high = m.time_quartiles
    return m.time_ratio, max(m.time_ratio - low, 0), max(high - m.time_ratio, 0)


def _memory(m: Measurement) -> tuple[float, float, float]:
    return m.memory_ratio or np.nan, 0.0, 0.0


def _dots(axis: Any, rows: Sequence[str], measured: Mapping[str, np.ndarray]) -> None:
    """Rows downwards, a dot for each place, on a logarithmic axis. measured: by place, (N, 3)."""
    apart = 0.8 / len(measured)
    styles = series_styles(len(measured))
    for index, ((x, values), style) in enumerate(zip(measured.items(), styles, strict=True)):
        places = np.arange(len(rows)) + (index - (len(measured) - 1) / 2) * apart
        axis.errorbar(values[:, 0], places, xerr=values[:, 1:].T, label=x, elinewidth=0.6,
                      markersize=2.5, **style | {"linestyle": "none"})  # fmt: skip
    axis.axvline(1, **_GREY)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.5, -0.5)


def _lines(axis: Any, rows: Sequence[str], measured: Mapping[str, np.ndarray]) -> None:
    """Places along the axis, a line for each row."""
    places, styles = np.arange(len(measured)), series_styles(len(rows))
    for style, row, values in zip(styles, rows, zip(*measured.values(), strict=True), strict=True):
        heights, below, above = np.array(values).T
        axis.errorbar(places, heights, yerr=(below, above), label=row, elinewidth=0.6, **style)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(places, [textwrap.fill(x, 10) for x in measured],
                    **turned if len(measured) > 5 else {})  # fmt: skip
    axis.set_ylim(bottom=0)


def published_figure(
    counted: Points, timed: Points, published: Sequence[PublishedCost], folder: Path, stem: str
) -> Figure | None:
    """All gigabytes in use, and the time of T1-T2 by EvoGrad's: the paper's values beside the
    steps as released and here, at every place of a figure. None without values of the paper.

    Bytes are the counted ones where there are any. Time: operations, and seconds where timed.
    """
    known = {entry.x: entry.costs for entry in published}
    places = list(dict.fromkeys([*counted, *timed]))
    if not known.keys() & set(places):
        return None
    ways = {"as released": RELEASED, "here": (EVOGRAD, T1T2)}
    memory: dict[str, list[float]] = {
        f"{name}, {way}": [] for name in ("EvoGrad", "T1-T2") for way in ("published", *ways)
    }
    kinds = {"operations": counted, "seconds": timed}
    time: dict[str, list[float]] = {"published seconds": []}
    time |= {f"{way}, {kind}": [] for way in ways for kind in kinds}
    for x in places:
        costs = known.get(x, {})
        theirs = [costs.get(own) or costs.get(released) or (np.nan, np.nan)
                  for own, released in zip(ways["here"], RELEASED, strict=True)]  # fmt: skip
        time["published seconds"].append(theirs[1][1] / theirs[0][1])
        for i, name in enumerate(("EvoGrad", "T1-T2")):
            memory[f"{name}, published"].append(theirs[i][0])
            for way, keys in ways.items():
                in_use = costs_of(counted.get(x) or timed[x], keys[i])[1]
                memory[f"{name}, {way}"].append(in_use / 1e9 if in_use else np.nan)
        for way, keys in ways.items():
            for kind, points in kinds.items():
                below, above = (costs_of(points.get(x, []), key)[0] or np.nan for key in keys)
                time[f"{way}, {kind}"].append(above / below)
    colours, solid = [bar_style(i) for i in range(6)], {"hatch": ""}
    styles = (
        colours,
        [colours[3], colours[4], colours[4] | solid, colours[5], colours[5] | solid],
    )
    with figure_style():
        fig, axes = new_figure(rows=2, height=5.0)
        for axis, bars, own in zip(axes, (memory, time), styles, strict=True):
            each = zip(bars.items(), own, strict=True)
            shown = [(*bar, style) for bar, style in each if not np.isnan(bar[1]).all()]
            wide = 0.84 / len(shown)
            for index, (label, values, style) in enumerate(shown):
                offset = (index - (len(shown) - 1) / 2) * wide
                axis.bar(np.arange(len(places)) + offset, values, wide, label=label, **style)
            axis.set_xticks(range(len(places)), [textwrap.fill(x, 12) for x in places])
            axis.grid(axis="x", visible=False)
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        axes[0].set_ylabel("GB in use")
        if np.nanmax(list(memory.values())) > 6:
            axes[0].axhline(12, linestyle="--", **_GREY)
        axes[1].axhline(1, **_GREY)
        axes[1].set_ylabel("time of T1-T2 / EvoGrad")
        where = published[0].where
        some = f"; seconds: {machine(next(iter(timed.values())))}" if timed else ""
        return save_figure(
            fig,
            folder,
            stem,
            alt=f"Gigabytes of EvoGrad and T1-T2, and the time of T1-T2 by EvoGrad's, at "
            f"{', '.join(places)}: published, as the released code takes its steps, and here.",
            caption=f"{where} of the paper ({published[0].figure}): published (Titan X, 12 GB, the "
            "dashed line where it is near), the steps as released, and those of this project. "
            f"Bytes and floating-point operations are counted{some}.",
        )


def counted_timed_figure(
    counted: Sequence[Measurement], timed: Sequence[Measurement], folder: Path, stem: str
) -> Figure | None:
    """A point for each method and case: operations of a step against its seconds, both in plain
    steps. None if nothing was both counted and timed."""
    operations = {(m.figure, m.x, m.key): m.operations_ratio for m in counted}
    points: dict[str, list[tuple[float, float]]] = {}
    most: dict[str, float] = {}
    for m in timed:
        x, y = operations.get((m.figure, m.x, m.key)), m.time_ratio
        if x and y and m.method != PLAIN and m.how != "compiled":
            points.setdefault(f"{m.figure}, {m.x}", []).append((x, y))
            most[m.row.label] = max(most.get(m.row.label, 0), y / x)
    if not points:
        return None
    over = sorted((f for f in most.items() if f[1] > FAR), key=lambda f: -f[1])
    said = ", ".join(f"{label} ({factor:.1f})" for label, factor in over) or "none"
    with figure_style():
        fig, axis = new_figure(height=3.4)
        for style, (label, found) in zip(series_styles(len(points)), points.items(), strict=True):
            axis.plot(*zip(*found, strict=True), label=label, markersize=2.5, alpha=0.8,
                      **style | {"linestyle": "none"})  # fmt: skip
        known = np.log2([value for found in points.values() for point in found for value in point])
        ends = 2 ** np.floor(known.min()), 2 ** np.ceil(known.max())
        axis.plot(ends, ends, **_GREY)
        axis.set(xlim=ends, ylim=ends)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set(
            xlabel="operations of a step / plain step", ylabel="seconds of a step / plain step"
        )
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        legend_below(fig, axis)
        return save_figure(
            fig,
            folder,
            stem,
            alt="Floating-point operations of a training step against its seconds, both in plain "
            f"steps, by method at {'; '.join(points)}; the diagonal is where both are equal.",
            caption=f"Counted against timed ({machine(timed)}): a point for each method and case; "
            f"on the line, seconds are as many plain steps as operations. More than {FAR} times "
            f"above it at some case (most): {said}. Not counted are element-wise passes, of which "
            "the second derivative of batch norm is made.",
        )
