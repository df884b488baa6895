"""The illustration's two figures and a table, from its record."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.report import written_section
from common.reporting import (
    Cell,
    Figure,
    Number,
    RunRecord,
    Section,
    Table,
    figure_style,
    new_figure,
    save_figure,
    series_styles,
)
from toy_1d.config import EXPERIMENT

_INTRO = """
Inner loss (x − 1)² + λx², outer loss (x − ½)². EvoGrad's estimate of the hypergradient beside the
exact one, and the paths that either leads along. The paper shows these as figures without
numbers: its claim is that the trend matches even with two candidates and that noise falls as
candidates are added.
"""
_EXACT = {"color": "#bb2222", "ls": (0, (4, 2))}
_EVOGRAD = {"color": "#004488", "ls": (0, (1.5, 1)), "marker": "o"}


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the table into ``folder``."""
    tables, figures = {}, []
    for record in records[:1]:
        tables["estimates"] = _table(record)
        figures = [_estimates(record, folder), _trajectories(record, folder)]
    return written_section(EXPERIMENT, _INTRO, preset, records, tables, figures, folder)


def _table(record: RunRecord) -> Table:
    counts = record.config["candidates"]
    data: dict[str, list[Cell]] = {"candidates K": [str(count) for count in counts]}
    for title, name in (
        ("correlation with exact", "correlation"),
        ("bias (RMS)", "bias"),
        ("sd of one estimate", "sd"),
    ):
        data[title] = [Number(record.final[f"{name}_{k}"], digits=3) for k in counts]
    return Table(
        "EvoGrad's estimate of the hypergradient in one dimension",
        pd.DataFrame(data),
        caption=(
            f"Over {record.config['lambdas']} values of λ from 0.1 to 2, "
            f"{record.config['trials']} trials each, x ~ N(0, 1). Correlation and bias are those "
            "of the mean over trials. The bias stays as K grows: EvoGrad estimates the "
            "hypergradient after one small step from a random x, not at the inner optimum."
        ),
    )


def _estimates(record: RunRecord, folder: Path) -> Figure:
    lam, exact = (np.array(record.traces[name]) for name in ("lambda", "exact"))
    counts = record.config["candidates"]
    with figure_style():
        fig, axes = new_figure(columns=len(counts), sharey=True)
        for axis, count in zip(axes, counts, strict=True):
            mean, sd = (np.array(record.traces[f"{name}_{count}"]) for name in ("mean", "sd"))
            dark, light = series_styles(2)
            axis.fill_between(lam, mean - sd, mean + sd, color=light["color"], alpha=0.35, lw=0)
            axis.plot(lam, mean, color=dark["color"], label="EvoGrad, mean ± sd over trials")
            axis.plot(lam, exact, **_EXACT, label="exact")
            axis.set(title=f"K = {count}", xlabel="λ", ylim=(-1, 1))
        axes[0].set_ylabel("hypergradient")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return save_figure(
            fig,
            folder,
            "estimates",
            alt=f"EvoGrad's hypergradient over lambda in one panel each for K = {counts}: its mean "
            "follows the exact curve, its band of one standard deviation narrows as K grows.",
            caption="EvoGrad's estimate and the exact hypergradient over λ (the paper's Figure 2).",
        )


def _trajectories(record: RunRecord, folder: Path) -> Figure:
    counts = record.config["candidates"]
    with figure_style():
        fig, axes = new_figure(columns=len(counts), sharey=True)
        x, lam = np.linspace(-2, 2, 200), np.linspace(0, 2, 2)
        levels = np.broadcast_to((x - 0.5) ** 2, (2, len(x)))
        for axis, count in zip(axes, counts, strict=True):
            axis.grid(False)
            shades = axis.contourf(x, lam, levels, levels=12, cmap="Greens_r", alpha=0.6)
            for method, style, label in (
                ("exact", _EXACT | {"marker": "s"}, "exact"),
                (f"evograd_{count}", _EVOGRAD, "EvoGrad"),
            ):
                for start in range(1, 6):
                    path = [
                        [row[f"{method}_{name}_{start}"] for row in record.epochs]
                        for name in ("x", "lambda")
                    ]
                    axis.plot(*path, **style, lw=1, ms=2.4, label=label if start == 1 else None)
                    axis.plot(*(v[0] for v in path), marker="x", ms=5, color="black")
            axis.set(title=f"K = {count}", xlabel="x", xlim=(-2, 2), ylim=(0, 2))
        axes[0].set_ylabel("λ")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        fig.colorbar(shades, ax=list(axes), label="outer loss", shrink=0.9)
        return save_figure(
            fig,
            folder,
            "trajectories",
            alt="Paths of x and lambda from five starting points, in panels for "
            f"K = {counts}: EvoGrad's dashed blue paths run beside the exact dashed red ones.",
            caption="Five steps of (x, λ) from five starting points (crosses), step size 0.1 for "
            "both, over the outer loss; EvoGrad in blue, the exact hypergradient in red.",
        )
