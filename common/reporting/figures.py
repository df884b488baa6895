"""One house style for figures, and saving them so that the same data gives the same bytes.

Figures are drawn without pyplot: nothing depends on a display, and no figure stays open behind
the caller's back.

    with figure_style():
        fig, axes = new_figure(columns=2)
        for style, (name, values) in zip(series_styles(2), series.items()):
            axes[0].plot(iterations, values, label=name, **style)
    figure = save_figure(fig, folder, "learning_curves", alt="Accuracy by epoch ...")
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Jupyter and Colab name a backend that only their own Python has.
os.environ["MPLBACKEND"] = "agg"

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure

from common.files import write_atomic
from common.reporting.records import RunRecord

TEXT_WIDTH = 5.5  # inches; the text of a NeurIPS page
PANEL_HEIGHT = 2.1  # inches

# From dark to light, at least 9 steps of CIE lightness apart, so that they differ in grey too; the
# hues (Paul Tol's "medium contrast") stay apart under red-green blindness. Each has its own line
# and marker besides.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#000000", "linestyle": "-", "marker": "o"},
    {"color": "#004488", "linestyle": (0, (5, 1.5)), "marker": "s"},
    {"color": "#994455", "linestyle": (0, (5, 1.5, 1, 1.5)), "marker": "^"},
    {"color": "#997700", "linestyle": (0, (1, 1.2)), "marker": "D"},
    {"color": "#6699CC", "linestyle": "-", "marker": "v"},
    {"color": "#EE99AA", "linestyle": (0, (3, 1.2)), "marker": "X"},
)
_HATCHES = ("", "//", "..", "xx", "\\\\", "--")
_STYLE_FILE = Path(__file__).with_name("figures.mplstyle")


@dataclass(frozen=True)
class Figure:
    """A saved figure: its files, a description for those who cannot see it, and a caption."""

    path_png: Path
    path_pdf: Path
    alt: str
    caption: str = ""


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw in the house style inside this context; the settings before it come back after it."""
    # After a reset: a user's matplotlibrc must not change the figures.
    with matplotlib.style.context(_STYLE_FILE, after_reset=True):
        yield


def bar_style(index: int) -> dict[str, Any]:
    """Colour and hatching of series `index`, as keywords for `bar`."""
    return {
        "facecolor": STYLES[index % len(STYLES)]["color"],
        "edgecolor": "white",
        "hatch": _HATCHES[index % len(_HATCHES)],
    }


def series_styles(count: int) -> list[dict[str, Any]]:
    """Colour, line and marker of each of `count` series, as keywords for `plot`.

    As far apart in lightness as there are: for 2, dark and light. After the last style they repeat,
    with white markers. For long series, add `markevery=0.1`: markers at every tenth of the axes'
    diagonal.
    """
    # Black and the palest colour come in only where they are needed.
    first, last = (1, 4) if count <= 2 else (0, 4) if count < len(STYLES) else (0, 5)
    known = min(count, len(STYLES))
    step = (last - first) / max(known - 1, 1)
    styles = [dict(STYLES[first + round(i * step)]) for i in range(known)]
    again = [STYLES[i % len(STYLES)] for i in range(known, count)]
    return styles + [style | {"markerfacecolor": "white"} for style in again]


def new_figure(
    rows: int = 1,
    columns: int = 1,
    width: float = TEXT_WIDTH,
    height: float | None = None,
    **subplots: Any,
) -> tuple[MatplotlibFigure, Any]:
    """A figure of `width` x `height` inches and its axes (an Axes, or an array of them).

    The default height is PANEL_HEIGHT per row. Further keywords go to `Figure.subplots`. Call it,
    and draw, inside `figure_style`.
    """
    fig = MatplotlibFigure(figsize=(width, height or PANEL_HEIGHT * rows), layout="constrained")
    return fig, fig.subplots(rows, columns, **subplots)


def legend_below(fig: MatplotlibFigure, axis: Any, **keywords: Any) -> None:
    """The legend of an axis's series, under the figure, which grows so that the axes keep their
    size; as many columns as its words leave room for."""
    handles, labels = axis.get_legend_handles_labels()
    if not labels:
        return
    column = 0.05 * max(map(len, labels)) + 0.6  # inches, of text in 7.5 pt and its line
    columns = min(max(1, int(fig.get_figwidth() / column)), len(labels))
    fig.set_figheight(fig.get_figheight() + 0.05 + 0.165 * -(-len(labels) // columns))
    fig.legend(handles, labels, loc="outside lower center", ncols=columns, **keywords)


def save_figure(
    fig: MatplotlibFigure, folder: str | Path, stem: str, alt: str, caption: str = ""
) -> Figure:
    """Write stem.png and stem.pdf into `folder`, each in one step.

    `alt` says in words what the figure shows and is required. The files hold no date and no
    software version, so that drawing the same data again gives the same bytes.
    """
    if not alt.strip():
        raise ValueError(f"Figure {stem!r} needs an alternative text: say what it shows.")
    png, pdf = io.BytesIO(), io.BytesIO()
    with figure_style():
        fig.savefig(png, format="png", metadata={"Software": None, "Description": alt})
        fig.savefig(
            pdf,
            format="pdf",
            metadata={"CreationDate": None, "Creator": None, "Producer": None, "Title": alt},
        )
    path_png, path_pdf = (
        write_atomic(Path(folder) / f"{stem}.{suffix}", content.getvalue())
        for suffix, content in (("png", png), ("pdf", pdf))
    )
    return Figure(path_png, path_pdf, alt, caption)


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
