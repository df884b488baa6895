"""The fidelity study's figures, and all of its results drawn into a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.fidelity_study.records import FidelityRecord, read_fidelity
from common.fidelity_study.rows import find, measure_of, stage_records, titles
from common.fidelity_study.tables import tables
from common.reporting import (
    Figure,
    Table,
    figure_style,
    new_figure,
    save_figure,
    series_styles,
    write_table,
)

_LABELS = {"sign_agreement": "right sign (share)", "cosine": "cosine"}


def draw(
    records: Path, folder: Path, experiments: Sequence[str] = ()
) -> tuple[list[Table], list[Figure]]:
    """Makes all tables and figures of the records in ``records``, in ``folder``; experiments in the
    order given."""
    found = read_fidelity(records, experiments)
    made = tables(found)
    for stem, table in made.items():
        write_table(table, folder, stem)
    studied = {title: stage_records(found, name) for name, title in titles(found).items()}
    studied = {title: stages for title, stages in studied.items() if stages}
    drawn = (_candidates_figure, _sweep_figure, _scale_figure, _precision_figure)
    return list(made.values()), [draw(studied, folder) for draw in drawn if studied]


Studied = Mapping[str, Mapping[str, FidelityRecord]]
"""Title of the experiment -> stage -> record."""


def _measure(stages: Mapping[str, FidelityRecord]) -> tuple[str, str]:
    """The measure to show, and its name on an axis."""
    measure = measure_of(next(iter(stages.values())))
    return measure, _LABELS[measure]


def _line(
    record: FidelityRecord, series: str, name: str, reading: str
) -> tuple[list[Any], list[Any]]:
    rows = [r for r in record.rows if r.series == series and r.reading == reading]
    return [r.x for r in rows], [getattr(r, name) for r in rows]


def _candidates_figure(studied: Studied, folder: Path) -> Figure:
    """Cosine or sign agreement against K, with the prediction."""
    with figure_style():
        fig, axes = new_figure(columns=len(studied), squeeze=False)
        for axis, (title, stages) in zip(axes.flat, studied.items(), strict=True):
            measure, label = _measure(stages)
            for style, (stage, record) in zip(series_styles(3), stages.items(), strict=False):
                reading = record.noise_prediction
                x, y = _line(record, "K", measure, reading)
                errors = [e or 0 for e in _line(record, "K", f"{measure}_se", reading)[1]]
                axis.errorbar(
                    x, y, errors, label=stage, elinewidth=0.7, **(style | {"linestyle": ""})
                )
                predicted = [getattr(record.predictions[str(k)], measure) for k in x]
                axis.plot(x, predicted, color=style["color"], linestyle=style["linestyle"], lw=0.9)
                along = find(record, "along g", 0.01, reading)
                if along is not None:
                    axis.plot(x[-1] * 2, getattr(along, measure), **(style | {"linestyle": ""}),
                              fillstyle="none")  # fmt: skip
            axis.plot([], [], color="#444444", lw=0.9, label="predicted (lines)")
            axis.plot([], [], "o", color="#444444", fillstyle="none", label="two along g")
            axis.set_xscale("log", base=2)
            ticks = [*x, 2 * x[-1]]
            axis.set_xticks(ticks, [*map(str, x), "g"])
            axis.set(xlabel="candidates K", ylabel=label, title=title)
        fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return save_figure(
            fig,
            folder,
            "candidates",
            alt="Agreement of one estimate with the exact hypergradient against the number of "
            "candidates, measured and predicted, at the start, middle and end of training.",
            caption="One EvoGrad estimate against the exact one-step hypergradient by K: points "
            "measured, lines predicted from the effective dimension. Open markers at g: two "
            "candidates along g. With the inner loss that the prediction is for.",
        )


def _sweep_figure(studied: Studied, folder: Path) -> Figure:
    """Agreement against sigma and tau."""
    panels = (("sigma", "sigma"), ("tau", "tau"))
    with figure_style():
        fig, axes = new_figure(rows=len(studied), columns=2, sharey="row", squeeze=False)
        for row, (title, stages) in zip(axes, studied.items(), strict=True):
            measure, label = _measure(stages)
            for axis, (series, name) in zip(row, panels, strict=True):
                for style, (stage, record) in zip(series_styles(3), stages.items(), strict=False):
                    x, y = _line(record, series, measure, record.readings[0])
                    _, errors = _line(record, series, f"{measure}_se", record.readings[0])
                    axis.errorbar(x, y, [e or 0 for e in errors], label=stage, **style)
                axis.set(xscale="log", xlabel=name, ylabel=label)
                axis.axhline(0.5 if measure == "sign_agreement" else 0, color="#888888", lw=0.6)
                axis.label_outer()
            row[0].set_title(title)
        fig.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return save_figure(
            fig,
            folder,
            "sigma-tau",
            alt="Agreement of one EvoGrad estimate with the exact hypergradient against sigma and "
            "against tau, at the start, middle and end of training.",
            caption="One EvoGrad estimate (K = 2) by sigma and tau; bars: standard error. Grey "
            "line: chance.",
        )


def _scale_figure(studied: Studied, folder: Path) -> Figure:
    """Size of the estimates over the exact one's, with the predicted effective step."""
    with figure_style():
        fig, axes = new_figure(rows=len(studied), columns=3, sharey="row", squeeze=False)
        for row, (title, stages) in zip(axes, studied.items(), strict=True):
            for axis, series in zip(row, ("K", "sigma", "tau"), strict=True):
                *styles, last = series_styles(4)
                for style, (stage, record) in zip(styles, stages.items(), strict=False):
                    reading = record.readings[0]
                    x, y = _line(record, series, "norm_ratio", reading)
                    expected = _line(record, series, "expected_ratio", reading)[1]
                    eta = record.inner_lr
                    axis.plot(x, [v * eta for v in y], label=stage, **style)
                axis.plot(x, [v * eta for v in expected], label="σ²(1 − 1/K)/τ",
                          **(last | {"color": "#888888", "marker": ""}))  # fmt: skip
                axis.set(xscale="log", yscale="log", xlabel=series)
                if series == "K":
                    axis.set_xticks(x, map(str, x))
                    axis.minorticks_off()
                axis.label_outer()
            row[0].set(ylabel="step of that size", title=title)
        fig.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return save_figure(
            fig,
            folder,
            "scale",
            alt="Size of EvoGrad's estimates, as the inner step whose exact hypergradient has that "
            "size, against K, sigma and tau, beside the predicted effective step.",
            caption="Root mean square size of EvoGrad's estimates, as the inner step whose exact "
            "hypergradient is as large, beside the effective step of their mean. What lies above "
            "it is noise; what falls below at large sigma or small tau is the softmax saturating.",
        )


def _precision_figure(studied: Studied, folder: Path) -> Figure:
    """Cosine with the same draw in float64 against sigma and radius."""
    with figure_style():
        fig, axes = new_figure(columns=len(studied), sharey=True, squeeze=False)
        for axis, (title, stages) in zip(axes.flat, studied.items(), strict=True):
            lines = [(s, p) for s in ("EvoGrad, sigma", "along g, radius")
                     for p in ("float32", "bfloat16")]  # fmt: skip
            for style, (series, precision) in zip(series_styles(4), lines, strict=True):
                found: dict[float | str, list[float]] = {}
                for record in stages.values():
                    for row in record.precision:
                        if (row.series, row.precision) == (series, precision):
                            found.setdefault(row.x, []).append(row.cosine)
                y = [sum(values) / len(values) for values in found.values()]
                axis.plot(list(found), y, label=f"{series}: {precision}", **style)
            axis.set(xscale="log", xlabel="sigma or radius", title=title)
        axes.flat[0].set_ylabel("cosine with float64")
        fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return save_figure(
            fig,
            folder,
            "precision",
            alt="Cosine of estimates in float32 and bfloat16 with the same draw in float64, "
            "against sigma (random candidates) or radius (candidates along g).",
            caption="What rounding does: cosine with the same draw in float64, mean over the "
            "moments (rotation: mean product of signs).",
        )
