"""The study's figures: time and memory by method, and the paper's costs beside those here."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from common.cost_study.case import PublishedCost
from common.cost_study.records import Measurement
from common.cost_study.rows import BY_KEY, EVOGRAD, HIGHER, PLAIN, T1T2
from common.cost_study.tables import AS_RELEASED, Points, costs_of, machine, ratio
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
Value = Callable[[Measurement], tuple[float, float, float]]
"""Value of a measurement, and how far its quartiles are below and above."""


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
    draw = _lines if lines else _dots
    some = next(iter(points.values()))
    what = "operations" if some[0].device == "counted" else "time"
    with figure_style():
        height = 2.6 if lines else 0.8 + len(shown) * (0.1 + 0.1 * len(points))
        fig, axes = new_figure(columns=2, height=height, sharey=not lines)
        draw(axes[0], measured, shown, _time)
        draw(axes[1], measured, shown, _memory)
        for axis, label in zip(axes, (what, "peak memory"), strict=True):
            if lines:
                axis.set_ylabel(f"{label} / plain step")
            else:
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


def _dots(axis: Any, measured: Mapping, rows: Sequence[str], value: Value) -> None:
    """Rows downwards, a dot for each place, on a logarithmic axis."""
    apart = 0.8 / len(measured)
    styles = series_styles(len(measured))
    for index, ((x, found), style) in enumerate(zip(measured.items(), styles, strict=True)):
        values, errors = _values([found.get(row) for row in rows], value)
        places = np.arange(len(rows)) + (index - (len(measured) - 1) / 2) * apart
        axis.errorbar(values, places, xerr=errors, label=x, elinewidth=0.6, markersize=2.5,
                      **style | {"linestyle": "none"})  # fmt: skip
    axis.axvline(1, color="#444444", linewidth=0.6)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.5, -0.5)


def _lines(axis: Any, measured: Mapping, rows: Sequence[str], value: Value) -> None:
    """Places along the axis, a line for each row."""
    places = np.arange(len(measured))
    for style, row in zip(series_styles(len(rows)), rows, strict=True):
        heights, errors = _values([found.get(row) for found in measured.values()], value)
        axis.errorbar(places, heights, yerr=errors, label=row, elinewidth=0.6, **style)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(places, [textwrap.fill(x, 10) for x in measured],
                    **turned if len(measured) > 5 else {})  # fmt: skip
    axis.set_ylim(bottom=0)


_PUBLISHED = bar_style(0), bar_style(3)
_RELEASED = bar_style(1), bar_style(4)
_HERE = bar_style(2), bar_style(5)


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
    memory: dict[str, list[float]] = {label: [] for label in (
        "EvoGrad, published", "EvoGrad, as released", "EvoGrad, here",
        "T1-T2, published", "T1-T2, as released", "T1-T2, here",
    )}  # fmt: skip
    ways = {"as released": (AS_RELEASED[T1T2], AS_RELEASED[EVOGRAD]), "here": (T1T2, EVOGRAD)}
    kinds = {"operations": counted, "seconds": timed}
    time: dict[str, list[float]] = {"published seconds": []}
    time |= {f"{way}, {kind}": [] for way in ways for kind in kinds}
    for x in places:
        theirs = {AS_RELEASED.get(k, k): v for k, v in known.get(x, {}).items()}
        of_all = counted.get(x) or timed[x]
        for key, name in ((EVOGRAD, "EvoGrad"), (T1T2, "T1-T2")):
            gigabytes = theirs.get(AS_RELEASED[key], (np.nan,))[0]
            memory[f"{name}, published"].append(gigabytes)
            for way, row in (("as released", AS_RELEASED[key]), ("here", key)):
                in_use = costs_of(of_all, row)[1]
                memory[f"{name}, {way}"].append(in_use / 1e9 if in_use else np.nan)
        above, below = (theirs.get(key, (1, np.nan))[1] for key in ways["as released"])
        time["published seconds"].append(above / below)
        for way, rows in ways.items():
            for kind, points in kinds.items():
                time[f"{way}, {kind}"].append(ratio(points.get(x, []), *rows)[0] or np.nan)
    solid = {"hatch": ""}
    styles = (
        [style[i] for i in (0, 1) for style in (_PUBLISHED, _RELEASED, _HERE)],
        [_PUBLISHED[1], _RELEASED[1], _RELEASED[1] | solid, _HERE[1], _HERE[1] | solid],
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
            axes[0].axhline(12, color="#444444", linewidth=0.6, linestyle="--")
        axes[1].axhline(1, color="#444444", linewidth=0.6)
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


FAR = 1.5
"""Seconds by operations, both in plain steps, from which a method is far above the line."""


def counted_timed_figure(
    counted: Sequence[Measurement], timed: Sequence[Measurement], folder: Path, stem: str
) -> Figure | None:
    """A point for each method and case: operations of a step against its seconds, both in plain
    steps. None if nothing was both counted and timed."""
    place = attrgetter("figure", "x", "key")
    operations = {place(m): m.operations_ratio for m in counted if m.operations_ratio}
    points: dict[str, list[tuple[float, float]]] = {}
    far: dict[str, list[float]] = {}
    for m in timed:
        x, y = operations.get(place(m)), m.time_ratio
        if x and y and m.method != PLAIN and m.how != "compiled":
            points.setdefault(f"{m.figure}, {m.x}", []).append((x, y))
            far.setdefault(m.row.label, []).append(y / x)
    if not points:
        return None
    most = {label: max(found) for label, found in far.items()}
    over = sorted((f for f in most.items() if f[1] > FAR), key=lambda f: -f[1])
    said = ", ".join(f"{label} ({factor:.1f})" for label, factor in over) or "none"
    with figure_style():
        fig, axis = new_figure(height=3.4)
        for style, (label, found) in zip(series_styles(len(points)), points.items(), strict=True):
            axis.plot(*zip(*found, strict=True), label=label, markersize=2.5, alpha=0.8,
                      **style | {"linestyle": "none"})  # fmt: skip
        known = np.log2([value for found in points.values() for point in found for value in point])
        ends = 2 ** np.floor(known.min()), 2 ** np.ceil(known.max())
        axis.plot(ends, ends, color="#444444", linewidth=0.6)
        axis.set(xlim=ends, ylim=ends)
        for scale, set_label, of in (
            (axis.set_xscale, axis.set_xlabel, "operations"),
            (axis.set_yscale, axis.set_ylabel, "seconds"),
        ):
            scale("log", base=2)
            set_label(f"{of} of a step / plain step")
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
