"""The answer in one figure: what was measured beside what was published, a row for each claim."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.reporting.figures import STYLES, Figure, figure_style, new_figure, save_figure
from common.reporting.tables import Number

_WIDTH = 4.4  # inches: still readable on a telephone
_MEASURED, _PUBLISHED = STYLES[1]["color"], STYLES[3]["color"]


@dataclass(frozen=True)
class ForestRow:
    """A difference between two methods, in points: measured and published, each with half its 95 %
    interval where known.

    verdict: a word. own: of the reader's own runs, an open mark; such a row shares the place of the
    row with its label.
    """

    label: str
    difference: float | None
    interval: float | None = None
    published: float | None = None
    published_interval: float | None = None
    verdict: str = ""
    own: bool = False

    def __str__(self) -> str:
        """As a line of text."""
        words = [f"{self.label}{' (own runs)' * self.own}{': ' * bool(self.verdict)}{self.verdict}"]
        for name, value, interval in (
            ("here", self.difference, self.interval),
            ("paper", self.published, self.published_interval),
        ):
            if value is not None:
                words.append(f"{name} {Number(value, interval, 1, signed=True)}")
        return ", ".join(words)


def forest_plot(rows: Sequence[ForestRow], folder: Path, stem: str = "forest") -> Figure:
    """Draws the rows from top to bottom, each under its label and verdict."""
    places = {label: -place for place, label in enumerate(dict.fromkeys(r.label for r in rows))}
    shipped = [row for row in rows if not row.own]
    with figure_style():
        fig, axis = new_figure(width=_WIDTH, height=0.75 + 0.4 * len(places))
        axis.axvline(0, color="#444444", lw=0.8)
        for row in rows:
            place = places[row.label]
            style: dict[str, Any] = {"color": _MEASURED, "marker": "o", "label": "measured"}
            if row.own:
                style |= {"markerfacecolor": "white", "label": "own runs"}
            _mark(axis, row.difference, row.interval, place - 0.14 - 0.2 * row.own, style)
            style = {"color": _PUBLISHED, "marker": "D", "markerfacecolor": "white"}
            style |= {"label": "published"}
            _mark(axis, row.published, row.published_interval, place + 0.06, style)
        left = axis.get_yaxis_transform()
        for row in shipped or rows:
            text = textwrap.shorten(row.label, 75, placeholder=" ...")
            height = places[row.label] + 0.33
            style = {"transform": left, "size": 7, "va": "center"}
            style |= {"bbox": {"color": "white", "pad": 0.8}}
            axis.text(0.0, height, text, **style)
            axis.text(1.0, height, row.verdict, **style, weight="bold", ha="right")
        axis.set(yticks=[], ylim=(-len(places) + 0.5, 0.55), xlabel="difference (points)")
        axis.spines.left.set_visible(False)
        axis.margins(x=0.04)
        handles, labels = axis.get_legend_handles_labels()
        known = dict(zip(labels, handles, strict=True))
        fig.legend(known.values(), known.keys(), loc="outside lower center", ncols=3)
        shows = (
            "Differences between methods, measured and published, with 95 % intervals where known; "
            "a row for each claim, with its verdict"
        )
        lines = "; ".join(map(str, rows))
        return save_figure(fig, folder, stem, alt=f"{shows}. {lines}.", caption=f"{shows}.")


def _mark(
    axis: Any, value: float | None, interval: float | None, place: float, style: dict[str, Any]
) -> None:
    if value is not None:
        axis.errorbar(value, place, xerr=interval, linestyle="none", elinewidth=1.1, **style)
